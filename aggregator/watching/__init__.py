"""What a study does, waits for and costs, and how hospitals are: values for commands and pages."""
