"""Secure aggregation, encoding, noise, accounting and the ledger: messages in, messages out, no I/O."""
