"""What a relay says to its hospitals and to the aggregator: a region's masked vectors travel as one sum.

A relay adds masked vectors and knows no mask, so it learns nothing; it only saves bytes between a region and
the aggregator (docs/decisions/0042-regions.md).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medveil.messages import Hash, Wire
from medveil.values import Name

Index = Annotated[int, Field(ge=1, le=10_000)]
MOST_RELAYED = 1_000
"""Hospitals of one region."""


class RelayIdentity(Wire):
    """Who a relay is: hospitals name its key in what they sign."""

    name: Name
    key: Hash


class Uploader(Wire):
    """A hospital whose masked vector an open attempt waits for."""

    index: Index
    name: Name
    key: Hash


class RelayWork(Wire):
    """What a relay has to know of an attempt whose masked vectors are being collected."""

    words: Annotated[int, Field(ge=1, lt=2**53)]
    """Length of a masked vector in 64-bit words."""
    missing: tuple[Uploader, ...]
    """Hospitals that are masked together in it and whose upload is not there yet."""
    in_reach: tuple[Name, ...]
    """Those of them that were heard from lately."""
    seconds_left: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RelayedUploads(Wire):
    """A region's masked vectors as one sum: who is in it, each with its own signed word."""

    relay: RelayIdentity
    uploads: Annotated[tuple[bytes, ...], Field(min_length=1, max_length=MOST_RELAYED)]
    """The hospitals' signed ``upload`` messages, in ascending order of their index."""
    segments: tuple[Hash, ...]
    """SHA-256 of each segment of the sum, mod 2^64 word by word."""


class Held(Wire):
    """What a relay answers to a hospital's word for its masked vector."""

    state: Literal["held", "taken"]
    """``held``: it waits for others of its region. ``taken``: the aggregator has it, in a sum."""
