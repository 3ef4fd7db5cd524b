"""The pages of the consortium's admin, its researchers and its auditors."""
