"""Thousands of hospitals in one machine: code of node and secure sum, and no network."""
