"""The operator's page: the node's folder in a browser of this machine, for this machine only.

It shows values of the modules that the commands use, and calls the same verbs; nothing is decided here.
``docs/decisions/0048-a-page-on-loopback.md`` says what it guards against.
"""
