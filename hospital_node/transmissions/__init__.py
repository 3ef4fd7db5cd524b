"""What leaves this building: a chained, signed record of every request, and its way into an audit archive."""
