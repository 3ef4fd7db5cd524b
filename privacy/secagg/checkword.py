"""The check word: one more word in the vector, by which hospitals see that a published sum is the true one.

The hospitals of a committed set share a *check key* that the aggregator does not have. It makes secret
coefficients for every lane of the vector, and a pad of one word for every hospital. Its check word is

    pad + sum over all lanes of coefficient * value    (mod 2^64)

Lane sums never carry, so the check words of the survivors add up to their pads plus the same product with the
lanes of the sum: a linear function of what is published, which any hospital computes again.

Coefficients. The coordinates' lanes, in a fixed order, are the rows of a table with 1024 columns. The lane in
row i and column j has the coefficient a_i * b_j. The weight and the metric words are pairs of 32-bit limbs,
and each limb has a coefficient of its own. All are uniform in Z_2^64.

Bound. Somebody who sees every published word, the check word too, but no key makes another vector that passes
with a chance of at most 2^(v - 64) * (33 - v / 2), where 2^v <= 2 * steps * cohort (the largest lane sum), or
2^-33, whichever is larger; a stream cipher that is a pseudorandom function is assumed. That is 2^-33 with 16
and 21 bits a lane for every cohort, 2^-32 with 32 bits for up to 64 hospitals, 2^-31.7 for up to 128 and
2^-28.8 at worst. Proof:

* The pads of the survivors are uniform, so what is published says nothing about any coefficient. (Without a
  pad, twice the vector with twice its check word would pass.)
* Let one limb of the tail differ, by e. It is not 0 and below 2^32, so 2^32 does not divide it, and its
  coefficient times e hits the one wanted value with a chance of 2^-33 or less.
* Else let the lane in row i and column j differ, by e, and 2^u be the largest power of two that divides e;
  u <= v. The column's difference t = a_i * e + (the other rows) is divisible by 2^k with a chance of at most
  2^(u - k) for k > u. Given t, b_j * t hits the wanted value with a chance of at most gcd(t, 2^64) / 2^64,
  and the mean of gcd(t, 2^64) is at most 2^u * (1 + (64 - u) / 2), which grows with u up to v.

What it does not do. A hospital that gives the check key to the aggregator takes this check away from all,
but nothing else: masks and shares are made without the key, and the check word of a sum can be computed from
the sum and the key. A hospital that sends a wrong check word makes everybody refuse the sum, and it is not
found out who did.

Source: the product is a universal hash with a pad (Carter and Wegman, JCSS 1981); that it is linear, so that
it passes through the masked sum, is our own composition (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.errors import RemoteProtocolError
from medveil.identity import Secret
from privacy.encoding import LANES, EncodingParams, Words
from privacy.secagg.kernel import kernel
from privacy.secagg.keystream import keystream, stream

ROWS, COLUMNS = 32, 1024
"""A piece of the table: 32768 lanes, as float64 a quarter of a MiB."""
_PIECE = ROWS * COLUMNS
PIECE_WORDS = _PIECE
"""A multiple of the words that fill one piece, or three with lanes of 21 bits."""
_ZEROS = bytes(8 * ROWS)
_ROW_KEYS, _COLUMN_KEYS, _TAIL_KEYS, _PADS = 0, 1, 2, 2**32
"""Segments of the check key's stream; a hospital's pad is in the segment ``_PADS`` plus its index."""


class AlteredSum(RemoteProtocolError):
    """A published sum is not the sum of what the surviving hospitals sent."""

    code = "altered-sum"

    def __init__(self) -> None:
        super().__init__(
            what="The published sum does not fit the check word that the surviving hospitals sent with it.",
            meaning="The aggregator changed the sum, or a hospital sent a false check word; do not use it.",
            remedy="Tell the consortium's admin; if it stays so, test the nodes one by one on phantoms.",
        )


class Product:
    """Sum of coefficient * value over the lanes of one vector, which is taken chunk by chunk.

    In the reference the row keys are taken apart into four limbs of 16 bits, and the products are added up by
    the float64 matrix product, the fastest exact multiplication NumPy has: partial sums stay below 2^53.

    Args:
        key: the check key of the committed set (``CommittedState.check_key``).
    """

    def __init__(self, key: Secret, p: EncodingParams) -> None:
        self._key, self._p, self._row_keys = key, p, stream(key.reveal(), _ROW_KEYS)
        self._kernel = kernel()
        self._bits = (2 * p.steps * p.cohort).bit_length()
        self._left = self._exact = 2 ** (53 - 16 - self._bits)  # so many rows
        if self._kernel is None:
            self._values, self._part = np.empty(_PIECE), np.empty((4, COLUMNS))
        self._sums, self._folded = np.zeros((4, COLUMNS)), np.zeros(COLUMNS, np.uint64)

    def add(self, packed: Words) -> None:
        """Take the next packed words: a multiple of ``PIECE_WORDS`` but for the last ones."""
        if self._kernel is None:
            self._add(packed)
            return
        bits = self._p.lane_bits
        packed = np.ascontiguousarray(packed, "<u8")
        for start in range(0, len(packed), PIECE_WORDS):
            part = packed[start : start + PIECE_WORDS]
            pieces = LANES[bits] if bits == 21 else -(-LANES[bits] * len(part) // _PIECE)
            keys = np.frombuffer(self._row_keys.update(_ZEROS * pieces), "<u8")
            self._kernel.product(self._folded, part, bits, keys)

    def _add(self, packed: Words) -> None:
        """The reference."""
        table = self._values.reshape(ROWS, COLUMNS)
        for lanes in _lanes(packed, self._p.lane_bits):
            if self._left < ROWS:
                self._carry()
            self._left -= ROWS
            if lanes.dtype.itemsize == 4 and self._bits < 32:
                lanes = lanes.view("<i4")  # the same numbers; CPUs convert signed ones faster
            np.copyto(self._values[: len(lanes)], lanes)
            self._values[len(lanes) :] = 0
            limbs = np.frombuffer(self._row_keys.update(_ZEROS), "<u2").reshape(ROWS, 4)
            np.matmul(limbs.T.astype(np.float64, order="C"), table, self._part)
            np.add(self._sums, self._part, self._sums)

    def word(self, tail: Words) -> int:
        """The product, to be taken mod 2^64 with its pad, once all packed words are in.

        Args:
            tail: weight and metrics as limbs, without the check word.
        """
        self._carry()
        limbs = tail.astype("<u8", copy=False).view("<u4")
        ends = limbs * _coefficients(self._key, _TAIL_KEYS, len(limbs))
        columns = self._folded * _coefficients(self._key, _COLUMN_KEYS, COLUMNS)
        return int(np.add.reduce(ends)) + int(np.add.reduce(columns))

    def _carry(self) -> None:
        """Add the exact sums into the words mod 2^64 of their columns."""
        for limb in range(4):
            self._folded += self._sums[limb].astype(np.uint64) << np.uint64(16 * limb)
        self._sums.fill(0)
        self._left = self._exact


def pad(key: Secret, index: int) -> int:
    """What hides the product of one hospital, by its index on the roster."""
    return int.from_bytes(keystream(key.reveal(), 8, _PADS + index), "little")


def verify_sum(total: Words, key: Secret, p: EncodingParams, *, survivors: Collection[int]) -> None:
    """See that a published sum is the sum of what these hospitals sent.

    Args:
        total: uint64, shape (p.words,), the unmasked sum mod 2^64.
        survivors: indices of the hospitals in it, as this node has signed them.
    Raises: AlteredSum if the length, a lane or the check word is wrong.
    """
    if total.shape != (p.words,) or len(set(survivors)) != len(survivors):
        raise AlteredSum()
    limit = 2 * p.steps * min(len(survivors), p.cohort)
    packed, product = total[: p.packed_words], Product(key, p)
    if any(int(lanes.max()) > limit for lanes in _lanes(packed, p.lane_bits)):
        raise AlteredSum()
    product.add(packed)
    wanted = product.word(total[p.packed_words : -1]) + sum(pad(key, i) for i in survivors)
    if int(total[-1]) != wanted % 2**64:
        raise AlteredSum()


def _coefficients(key: Secret, segment: int, count: int) -> Words:
    return np.frombuffer(keystream(key.reveal(), 8 * count, segment), "<u8").astype(np.uint64, copy=False)


def _lanes(packed: Words, lane_bits: int) -> Iterator[NDArray[Any]]:
    """Every bit of the packed words once, as integers below 2^32; at most a piece, valid until the next."""
    packed = packed.astype("<u8", copy=False)
    if lane_bits != 21:
        values = packed.view(f"<u{lane_bits // 8}")
        for start in range(0, len(values), _PIECE):
            yield values[start : start + _PIECE]
        return
    spare, low = np.empty(_PIECE, np.uint64), np.uint64(2**21 - 1)
    for start in range(0, len(packed), _PIECE):
        part = packed[start : start + _PIECE]
        lane = spare[: len(part)]
        for place in (0, 21, 42):  # the last one keeps the bit above it, so that a stray one is seen
            shifted = np.right_shift(part, np.uint64(place), lane) if place else part
            if place < 42:
                np.bitwise_and(shifted, low, lane)
            yield lane.view(np.int64)
