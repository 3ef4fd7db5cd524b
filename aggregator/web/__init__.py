"""The aggregator on the network: connections, limits, callers, routes. Only here is the web framework."""
