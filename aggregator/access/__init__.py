"""Who is asking, and by what right: signatures, tokens, nonces, certificates."""
