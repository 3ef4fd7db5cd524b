"""The life of a plan: rounds and attempts, from the first message to the published sum."""
