"""Pseudonyms that no single party can make, by a verifiable blind pseudorandom function."""
