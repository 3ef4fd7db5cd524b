"""The plain examples that everybody knows, each by one command, through the product's own parts."""
