"""What an aggregator tells other machines: its audit log, what waits for a person, traces of rounds."""
