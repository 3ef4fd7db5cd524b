"""HTTP routes: read, authenticate, hand to the coordinator, answer. No logic of its own lives here."""
