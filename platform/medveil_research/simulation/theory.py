"""What the protocol promises of a simulated round, to be held against what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from privacy.encoding import EncodingParams
from privacy.secagg.graph import EVERY_EDGE, GRID, disconnected, edge_limit
from privacy.secagg.keys import Setting

ENVELOPE_BYTES = 90
"""Of a node's message, about: sender, signature and the names of the fields."""


def head(value: int) -> int:
    """Bytes of the head of a CBOR item: a number below ``value + 1``, or a string of that length."""
    return 1 if value < 24 else 2 if value < 2**8 else 3 if value < 2**16 else 5


def listed(indices: Sequence[int], length: int) -> int:
    """Bytes of a CBOR map from hospitals to byte strings of one length."""
    return head(len(indices)) + sum(head(j) for j in indices) + len(indices) * (head(length) + length)


@dataclass(frozen=True)
class Bytes:
    """Bytes of one hospital in one attempt, by the formula of its messages."""

    vector: int
    up: int
    """Messages beside the vector."""
    down: int


def bytes_of(
    setting: Setting, params: EncodingParams, *, advertised: Sequence[int], survivors: Sequence[int]
) -> Bytes:
    """What a hospital that survives sends and is shown, to within a few bytes for each message.

    The vector does not grow with the hospitals (the lanes are the plan's), the boxes, commitments and keys
    grow with all of them: shares are those of the complete graph, whatever the mask graph is.
    """
    m, q = list(advertised), setting.quorum(len(advertised))
    shares = listed(m[:-1], 114) + listed(m, 32) + 80
    agree = sum(head(j) for j in survivors) + 60
    unmask = listed(m, 33) + 30
    up = 6 * ENVELOPE_BYTES + 100 + shares + 80 + agree + unmask
    keys = sum(head(j) for j in m) + len(m) * (2 * 34 + 66 + 35) + 12
    committed = sum(head(j) for j in m) + listed(m[:-1], 114) + listed(m[:-1], 32) + 25
    quorum = listed(list(survivors)[:q], 64) + 15
    down = keys + committed + sum(head(j) for j in survivors) + 15 + quorum
    return Bytes(8 * params.words, up, down)


def neighbours(setting: Setting, advertised: int) -> float:
    """How many hospitals share a mask with one of them, on the average: p (m - 1)."""
    return edge_limit(setting, advertised) / EVERY_EDGE * (advertised - 1)


def may_vanish(setting: Setting, advertised: int) -> int:
    """Most of the hospitals with keys out that may drop out before the sum can no more be opened."""
    return advertised - setting.least(advertised)


def disconnected_bits(setting: Setting, advertised: int, survivors: int) -> float | None:
    """-log2 of the bound on the chance that honest survivors are not connected by masks; None: it is zero.

    At the fewest survivors that the plan admits it is at least 40; with more of them it is far larger.
    """
    limit = edge_limit(setting, advertised)
    if limit == EVERY_EDGE:
        return None
    bound = disconnected(max(2, survivors - setting.colluders), limit * GRID // EVERY_EDGE)
    return None if bound <= 0 else -float(bound.log10() / Decimal(2).log10())


def rounding(params: EncodingParams, *, hospitals: int, weight: int) -> float:
    """Most that a coordinate of the mean may lie off the exact one: a step for each hospital, model units."""
    step = params.clip / params.steps * params.max_weight
    return hospitals * step / weight + 2.0**-20 * params.clip


def rounding_rms(params: EncodingParams, *, hospitals: int, weight: int) -> float:
    """What its root mean square is at most: the roundings are independent, each of half a step at most."""
    step = params.clip / params.steps * params.max_weight
    return math.sqrt(hospitals) * step / weight / 2
