"""A finished model on images that its user may see: which ones, what it says of them, how that is kept."""
