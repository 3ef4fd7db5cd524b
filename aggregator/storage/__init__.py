"""What survives: rows with their audit entries, and files that are whole or absent. SQL is here only."""
