"""Which version of this software runs here, and the header by which a node says so."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

HEADER = "MedVeil-Version"
"""Beside the five headers of a signed request: the sender's own word, unsigned, and for people only."""


@cache
def own_version() -> str:
    """The installed version; empty where it is not installed."""
    try:
        return version("medveil")
    except PackageNotFoundError:
        return ""
