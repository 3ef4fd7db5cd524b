"""Sign-in by an OpenID provider: the code flow with PKCE, checked to the last claim.

``flow`` is what a browser carries meanwhile, ``provider`` speaks with a provider, ``answers`` checks what it
says. Which claims make somebody what stands in :mod:`aggregator.ways_in`. Sources: OpenID Connect Core 1.0
and Discovery 1.0; RFC 6749, 7636 (PKCE), 9207 (issuer in the answer), 9700 (security of all of it).
"""
