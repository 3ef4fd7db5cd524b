"""A region's relay: it adds the masked vectors of its hospitals and hands the aggregator their sum."""
