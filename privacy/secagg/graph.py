"""Who shares a mask with whom: everybody with everybody, or a hidden random graph for large cohorts.

With the complete graph a node adds a mask for every other member, which is too much work for hundreds. In the
hidden graph two hospitals share a mask only if a number that both derive from their pair secret lies below a
limit. Nobody else can tell whether they do, the aggregator no more than another hospital, until one of the
two drops out and its mask key is rebuilt. Hiding needs only that the honest survivors are connected: then, to
somebody who sees all other masks, their updates are uniform but for the sum of them all.

The limit follows from a bound. In a random graph of h nodes with edge probability p some set of s nodes has
no edge to the others with a chance of at most C(h, s) * (1 - p)^(s * (h - s)), and a graph that is not
connected has such a set with s <= h / 2. The sum over these s is kept below 2^-40 for the smallest h that a
node accepts: all survivors that there must be, less the colluders. The aggregator may choose who survives,
but it chooses without knowing an edge between two honest hospitals.

Shares and thresholds are those of the complete graph: every hospital holds a share of every secret.
Source of the idea: Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020, where the graph is public. A hidden one with shares among all is our
own composition (docs/protocol.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Context as Precision
from decimal import Decimal
from functools import cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.secagg.keys import Context, Setting, edge_number, pair_mask, pair_secret
from privacy.secagg.masks import Mask

COMPLETE_UP_TO = 128
"""Cohorts of this size and smaller have the complete graph, whatever the plan says."""
FAILURE_BITS = 40
"""The honest survivors are disconnected with a chance of at most 2^-40 in one attempt."""
GRID = 4096
"""The edge probability is a multiple of 1 / GRID, so that every machine finds the same one."""
EVERY_EDGE = 2**64


def edge_limit(setting: Setting, advertised: int) -> int:
    """Two hospitals share a mask if their edge number (below 2^64) lies below this.

    Args:
        advertised: m, the size of U1, which all parties agree on by its transcript.
    """
    if setting.mask_graph == "complete" or advertised <= COMPLETE_UP_TO:
        return EVERY_EDGE
    return EVERY_EDGE // GRID * edge_steps(setting.least(advertised) - setting.colluders)


@cache
def edge_steps(honest: int) -> int:
    """The smallest edge probability, in steps of 1 / GRID, that keeps so many hospitals connected."""
    low, high = 0, GRID  # with the complete graph they always are
    while high - low > 1:
        middle = (low + high) // 2
        if disconnected(honest, middle) <= Decimal(2) ** -FAILURE_BITS:
            high = middle
        else:
            low = middle
    return high


def disconnected(honest: int, steps: int) -> Decimal:
    """The bound on the chance that a random graph of so many hospitals is not connected.

    In decimal arithmetic of 40 digits, which is the same on every machine.
    """
    precision = Precision(prec=40)
    missing = Decimal(GRID - steps) / GRID
    total = Decimal(0)
    for s in range(1, honest // 2 + 1):
        alone = precision.power(missing, s * (honest - s))
        total = precision.add(total, precision.multiply(Decimal(math.comb(honest, s)), alone))
    return total


def pair_masks(
    private: X25519PrivateKey,
    peers: Mapping[int, bytes],
    context: Context,
    transcript: bytes,
    *,
    own: int,
    limit: int,
) -> dict[int, Mask]:
    """The masks that hospital ``own`` shares with its neighbours among ``peers`` (index → mask key).

    Raises: WeakKey.
    """
    masks = {}
    for other, key in peers.items():
        pair = pair_secret(private, key)
        if edge_number(pair, context, transcript, own=own, other=other) < limit:
            masks[other] = pair_mask(pair, context, transcript, own=own, other=other)
    return masks
