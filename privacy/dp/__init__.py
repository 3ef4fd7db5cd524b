"""Differential privacy without torch: accounting, policies, noise and the rules of the ledger."""
