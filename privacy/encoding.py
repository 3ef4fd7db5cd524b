"""From an update (floats) to words of the ring Z_2^64, and from their sum back to a mean.

Several coordinates share a word, each in its own lane. Lanes hold quantised, non-negative integers whose sum
over a full cohort fits the lane, so sums of words are words of sums: no lane ever carries into the next.
The vector of one hospital is

    [ packed coordinates | weight | metric words | check word ]

The weight has a word of its own, so the mean is sum(weight * update) / sum(weight) while no weight is shown.
Weight and metrics are split into two limbs, each in 32 bits with room for the sum, so that every value in the
vector is a lane whose sum cannot carry. The check word comes from ``privacy.secagg.checkword``.
Literature counts bytes per parameter: 16-bit lanes give 2.0 ("2x16"), 21-bit 2.67 ("3x21"), 32-bit 4.0
("1x32"); here all three live in 64-bit words, four, three or two to a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.errors import LocalProtocolError, RemoteProtocolError
from medveil.identity import Secret
from medveil.metrics import released
from medveil.parts import in_round, in_slot, on_the_wire, with_total
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import Float32, Update
from privacy.metric_limits import can_add_up
from privacy.secagg.kernel import Encoding, kernel
from privacy.secagg.keystream import stream

Words = NDArray[np.uint64]
RandomBytes = Callable[[int], bytes]
LANES = {16: 4, 21: 3, 32: 2}
MAX_STEPS, WHOLE_STEPS = 2**20, 2**22
"""Most steps from 0 to the clip: of rounded coordinates, and of whole numbers (:mod:`privacy.dp.grid`)."""
METRIC_STEPS = 2**20
"""Fixed-point steps per unit of a metric."""
LIMB_BITS = 25
"""A weight or metric is carried as two limbs of at most so many bits, each in a lane of 32."""
NOISED_OFFSET = 2**38
"""Added to every metric of a study with noise, whose sums may be negative. They lie within ±2^18 (that is,
``NOISED_OFFSET / METRIC_STEPS``), so each word is below 2^39, and that below the limit of any cohort."""
CHUNK_WORDS = 2**16
"""Packed words whose dither is drawn at a time."""
BLOCK_WORDS = 2**15
"""Packed words at a time: so many that calls cost little, so few that they stay in the core's own caches."""
_ROUNDER = np.float32(1.5 * 2**39)
"""Added to a float32 below 2^37 it leaves the nearest multiple of 2^16 (halves to even) in the last bits.

Coordinates are scaled to 2^16 units per step and get 16 signed random bits as dither, from -1/2 to
1/2 - 2^-16 of a step, so this one addition is the rounding to whole steps and the conversion to integers.
"""


class OutOfRange(LocalProtocolError):
    """A value that the encoding cannot carry; nothing was sent."""

    code = "out-of-range"

    def __init__(self, *, thing: str, limit: str) -> None:
        super().__init__(
            what=f"{thing} must be {limit}.",
            meaning="It could not be encoded exactly as promised, so no byte left this hospital.",
            remedy="Check the training step (loss not finite? wrong clip?) and the study's limits.",
        )


class SpoiledSum(RemoteProtocolError):
    """The unmasked sum cannot be the sum of honest encodings."""

    code = "spoiled-sum"

    def __init__(self) -> None:
        super().__init__(
            what="The unmasked sum lies outside what the surviving hospitals can add up to.",
            meaning="A hospital sent something else than an encoded update; no model was published.",
            remedy="Repeat the round; if it stays so, test the hospitals' nodes one by one on phantoms.",
        )


@dataclass(frozen=True)
class EncodingParams:
    """Shape of the vector, and the proof (at construction) that no lane can overflow.

    Args:
        parameters: coordinates that are sent of an update: d, or as many as the study's compression leaves
            of them (0 for an evaluation round).
        metrics: number of metric words.
        lane_bits: 16, 21 or 32.
        clip: C, largest magnitude of a coordinate, in model units.
        max_weight: W, largest weight of one hospital.
        cohort: U, most hospitals in one sum.
        least_weight: smallest weight of one hospital.
        whole: coordinates are whole steps already and travel as they are; not dithered and rounded. Each
            hospital has all of a lane then, whatever its weight: it adds as much noise as any other.
    """

    parameters: int
    metrics: int
    lane_bits: int
    clip: float
    max_weight: int
    cohort: int
    least_weight: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        if self.lane_bits not in LANES:
            raise OutOfRange(thing="lane_bits", limit="16, 21 or 32")
        if self.parameters < 0 or self.metrics < 0:
            raise OutOfRange(thing="The numbers of parameters and metrics", limit="zero or more")
        if not 1e-12 <= self.clip <= 1e12:  # also false for NaN; float32 keeps its full precision inside
            raise OutOfRange(thing="The update clip", limit="a number from 1e-12 to 1e12")
        if not 1 <= self.max_weight <= 2**31 or not 1 <= self.cohort <= 2**12:
            raise OutOfRange(thing="Weight limit and cohort", limit="1 to 2^31 and 1 to 4096")
        if not 1 <= self.least_weight <= self.max_weight:
            raise OutOfRange(thing="The least weight", limit="from 1 to the largest")
        if self.whole and 2 * self.steps * self.cohort >= 2**self.lane_bits:
            raise OutOfRange(thing="The cohort", limit="small enough for whole numbers, in lanes of 32 bits")
        assert 2 * self.steps * self.cohort < 2**self.lane_bits  # no lane carries into its neighbour
        assert self.max_weight < self.tail_limit
        assert self.cohort << self.limb_bits <= 2**32
        if self.steps < 8:
            raise OutOfRange(thing="The cohort", limit=f"small enough for {self.lane_bits}-bit lanes")

    @property
    def steps(self) -> int:
        """L: quantisation steps from 0 to the clip; a coordinate becomes an integer in [0, 2L].

        L is even: at the clip the largest dither makes L + 1/2 at most, and halves are rounded to even. Of
        whole numbers L is the same for every cohort.
        """
        if self.whole:
            return WHOLE_STEPS
        return min(((1 << self.lane_bits) - 1) // (2 * self.cohort) // 2 * 2, MAX_STEPS)

    @property
    def packed_words(self) -> int:
        """Words that hold the coordinates."""
        return -(-self.parameters // LANES[self.lane_bits])

    @property
    def words(self) -> int:
        """Length of the whole vector in 64-bit words."""
        return self.packed_words + 1 + self.metrics + 1

    @property
    def limb_bits(self) -> int:
        """Bits of a limb of the weight or a metric: the sums of a full cohort stay below 2^32."""
        return min(LIMB_BITS, (2**32 // self.cohort).bit_length() - 1)

    @property
    def tail_limit(self) -> int:
        """A hospital's weight and metrics lie below it."""
        return 1 << (2 * self.limb_bits)

    def reach(self, *, hospitals: int, weight: int) -> int:
        """R: farthest from the middle that a lane's sum over honest hospitals of that total weight can lie.

        Proof. Hospital i writes q_i, the rounding to a whole number of its coordinate in steps, y_i, plus a
        dither of at most 1/2. By the clip |y_i| <= A_i = L w_i / W, but for float32: clip, scale and product
        are each within 2^-24 of what they stand for (relatively), as is the sum with the dither; the
        rounding itself is exact and moves by at most 1/2. So

            |q_i| <= (A_i + 1/2) (1 + 2^-24)^4 + 1/2 <= (A_i + 1) (1 + 2^-21),

        and n of them, with total weight T, lie within R = (n + L T / W) (1 + 2^-21). The mean is their sum
        times clip / L * W / T, so no honest mean is longer than

            clip (1 + n W / (L T)) (1 + 2^-21):

        the clip, and one step for each hospital. With T = n W that is 1 / L over the clip. Whole numbers lie
        within n L.
        """
        if self.whole:
            return hospitals * self.steps
        return int((hospitals + self.steps * weight / self.max_weight) * (1 + 2.0**-21))


@dataclass(frozen=True)
class Aggregate:
    """What a round reveals: the weighted mean over the survivors, their total weight, summed metrics."""

    mean: Float32
    total_weight: int
    hospitals: int
    metrics: Sums


def params_for(study: Study, kind: RoundKind, cohort: int, number: int = 1) -> EncodingParams:
    """The vector of one round of a study, for a roster of ``cohort`` hospitals.

    Args:
        number: of the round, from 1. With it changes, if anything, what a step of a lane stands for
            (:func:`privacy.dp.grid.lane_clip`); all else is the same in each round of a kind.
    """
    whole = _whole_clip(study, number) if kind is RoundKind.TRAIN else None
    train, masked = kind is RoundKind.TRAIN, study.secure_aggregation
    counts = not train or study.evaluation.every_round
    counted = sum(_words(in_round(study, kind), cohort).values()) if counts else 0
    return EncodingParams(
        parameters=study.uploaded if train else 0,
        metrics=counted,
        lane_bits=masked.lane_bits,
        clip=masked.update_clip if whole is None else whole,
        max_weight=masked.largest_weight,
        cohort=cohort,
        least_weight=masked.least_weight,
        whole=whole is not None,
    )


def _whole_clip(study: Study, number: int) -> float | None:
    if study.privacy.kind != "joint" or study.privacy.noise != "discrete":
        return None
    from privacy.dp.grid import lane_clip  # it knows noise and its price, which others have no use for

    return lane_clip(study, number)


class Encoder:
    """The words of one update, chunk by chunk: quantised with unbiased stochastic rounding, packed in lanes.

    Args:
        update: float32, shape (d,), every |entry| <= p.clip (model units).
        weight: this hospital's weight, p.least_weight to p.max_weight.
        metrics: uint64, shape (p.metrics,), fixed point (see :func:`encode_metrics`).
        random_bytes: a cryptographic source; 32 bytes of it seed the rounding.
    Guarantees: with s = clip / steps * max_weight / weight, one step in model units, an entry x is rounded by
        at most s + 2^-21 |x|, and in expectation (over the dither) by at most 2^-16 s + 2^-21 |x|; the
        last term is float32 arithmetic, as in training itself. Zero stays zero. Of ``p.whole``: an entry
        within a quarter of a whole step is that step.
    Raises: OutOfRange if a length, the weight, a metric or an entry is wrong, before randomness is drawn;
        SelfTestFailed.
    Source: Kairouz, Liu, Steinke, ICML 2021, client procedure, without rotation and noise.
    """

    def __init__(
        self,
        update: Update,
        p: EncodingParams,
        *,
        weight: int,
        metrics: NDArray[np.uint64],
        random_bytes: RandomBytes,
    ) -> None:
        if update.values.shape != (p.parameters,) or metrics.shape != (p.metrics,):
            raise OutOfRange(thing="The length of the update", limit=f"{p.parameters} + {p.metrics} metrics")
        if not p.least_weight <= weight <= p.max_weight:
            raise OutOfRange(thing="The weight", limit=f"{p.least_weight} to {p.max_weight}")
        if metrics.size and int(metrics.max()) >= p.tail_limit:
            raise OutOfRange(thing="Every metric word", limit=f"below {p.tail_limit}")
        self._values = np.ascontiguousarray(update.values, np.float32)
        limit, unit = np.float32(p.clip), 2.0**16 * p.steps
        if p.whole:
            limit = np.float32(p.clip * p.max_weight / weight)
        if not _within(self._values, limit):
            raise OutOfRange(thing="Every coordinate of the update", limit=f"finite and within ±{limit:g}")
        self._per_step = p.steps * (weight / p.max_weight) / p.clip
        scale = np.float32(weight / p.max_weight * unit / p.clip)
        while limit * scale > unit:  # products round monotonically, so none exceeds L then
            scale = np.nextafter(scale, np.float32(0))
        self._p, self._weight, self._metrics = p, weight, metrics
        self._scale, self._offset = scale, np.int32(p.steps - int(_ROUNDER.view(np.int32)))
        self._seed = Secret(random_bytes(32))
        stream(self._seed.reveal())  # a machine with faulty AES is found out before anything is promised

    def _begin(self) -> None:
        """The memory of one pass over the update, and its dither from the first byte on."""
        p, length = self._p, min(CHUNK_WORDS, self._p.packed_words)
        self._stream, self._zeros = stream(self._seed.reveal()), bytes(2 * length)
        self._bytes = np.empty(2 * LANES[p.lane_bits] * length + 16, np.uint8)
        self._dither = self._bytes[:-16].view("<i2").reshape(LANES[p.lane_bits], length)
        self._kernel = None if p.whole else kernel()
        if self._kernel is None:
            block = min(BLOCK_WORDS, length)
            self._wide, floats = np.empty(block, np.uint64), np.empty((2, block), np.float32)
            self._floats, self._noise = floats

    def again(self) -> Encoder:
        """The same words once more, in memory of their own, while these may be half written."""
        return copy(self)

    def write(self, start: int, out: Words) -> None:
        """Write the packed words from ``start`` on: piece after piece, each but the last a multiple of
        ``BLOCK_WORDS``. From 0 on they are written anew, and are the same.

        Args:
            out: "<u8", shape (n,), of the packed words only; what it held is overwritten.
        """
        if start == 0:
            self._begin()
        for at in range(0, len(out), BLOCK_WORDS):
            if (start + at) % CHUNK_WORDS == 0:
                self._draw(start + at)
            block = out[at : at + BLOCK_WORDS]
            if self._kernel is None:
                self._write(start + at, block)
                continue
            place = self._dither[:, (start + at) % CHUNK_WORDS :]
            what = Encoding(
                values=self._values.ctypes.data,
                count=self._p.parameters,
                packed=self._p.packed_words,
                dither=place.ctypes.data,
                dither_stride=self._dither.shape[1],
                scale=self._scale,
                rounder=_ROUNDER,
                offset=self._offset,
                lane_bits=self._p.lane_bits,
            )
            self._kernel.encode(what, start + at, block)

    def tail(self) -> Words:
        """The words after the packed ones, shape (p.metrics + 2,); the check word, the last one, is zero."""
        words = np.zeros(self._p.metrics + 2, "<u8")
        words[0], words[1:-1] = self._weight, self._metrics
        high = words >> np.uint64(self._p.limb_bits)
        words &= np.uint64((1 << self._p.limb_bits) - 1)
        words |= high << np.uint64(32)
        return words

    def _in_lane(self, lane: int, start: int, length: int) -> Float32:
        """The coordinates of this lane of ``length`` words: fewer only in the last lanes."""
        first = lane * self._p.packed_words + start
        return self._values[first : min(first + length, (lane + 1) * self._p.packed_words)]

    def _draw(self, start: int) -> None:
        """The dither of the chunk that begins there: lane after lane, as many bytes as it has coordinates."""
        for lane, row in enumerate(self._dither):
            size = 2 * len(self._in_lane(lane, start, len(row)))
            begin = 2 * lane * len(row)
            self._stream.update_into(self._zeros[:size], self._bytes[begin : begin + size + 16].data)

    def _write(self, start: int, out: Words) -> None:
        """The reference of the compiled pass: one block."""
        bits, lanes, place = self._p.lane_bits, LANES[self._p.lane_bits], start % CHUNK_WORDS
        for lane in range(lanes):
            part = self._in_lane(lane, start, len(out))
            steps = self._rounded(part, self._dither[lane, place : place + len(part)])
            words = out[: len(steps)]
            if lane == 0:  # no coordinate is missing in the first lane
                np.copyto(words, steps)
            elif bits == 21:
                wide = self._wide[: len(steps)]
                np.copyto(wide, steps)
                np.left_shift(wide, np.uint64(lane * bits), wide)
                np.bitwise_or(words, wide, words)
            else:  # a lane of whole bytes has an address
                np.copyto(words.view(f"<u{bits // 8}")[lane::lanes], steps)

    def _rounded(self, part: Float32, dither: NDArray[np.int16]) -> NDArray[np.uint32]:
        """One integer in [0, 2L] for each entry; valid until the next call."""
        if self._p.whole:
            return (np.rint(part.astype(np.float64) * self._per_step) + self._p.steps).astype(np.uint32)
        floats, noise = self._floats[: len(part)], self._noise[: len(part)]
        np.copyto(noise, dither)
        np.multiply(part, self._scale, floats)
        np.add(floats, noise, floats)
        np.add(floats, _ROUNDER, floats)
        steps = floats.view(np.int32)
        np.add(steps, self._offset, steps)
        return steps.view(np.uint32)


def _within(values: Float32, limit: np.float32) -> bool:
    """Whether every value is a number from -limit to limit."""
    if (compiled := kernel()) is not None:
        return compiled.within(values, limit)
    blocks = (values[at : at + BLOCK_WORDS] for at in range(0, len(values), BLOCK_WORDS))
    return all(np.minimum.reduce(b) >= -limit and np.maximum.reduce(b) <= limit for b in blocks)  # not NaN


def decode(total: Words, p: EncodingParams, *, hospitals: int, study: Study) -> Aggregate:
    """The weighted mean and the summed metrics from the sum of ``hospitals`` encodings.

    Args:
        total: uint64, shape (p.words,), the unmasked sum mod 2^64; its check word is not looked at here.
    Guarantees: each entry of the mean is within ``hospitals * clip / steps * max_weight / total_weight``
        (and 2^-20 of the clip, for float32) of the exact weighted mean, and no longer than the clip and
        that rounding (:meth:`EncodingParams.reach`), whatever any hospital has sent.
    Raises: SpoiledSum if the length, the weight, a lane, a bit outside the lanes or a metric lies outside
        what that many honest hospitals can add up to. No sum of honest encodings is refused.
    """
    if total.shape != (p.words,) or not 1 <= hospitals <= p.cohort:
        raise SpoiledSum()
    tail = _joined(total[p.packed_words : -1], p, hospitals)
    weight = int(tail[0])
    if not hospitals * p.least_weight <= weight <= hospitals * p.max_weight:
        raise SpoiledSum()
    middle = p.steps * hospitals
    reach = min(p.reach(hospitals=hospitals, weight=weight), middle)
    mean = np.empty(p.parameters, np.float32)
    scale = p.clip / p.steps * p.max_weight / weight
    lane_mask = np.uint64(2**p.lane_bits - 1)
    last = LANES[p.lane_bits] - 1
    for lane in range(last + 1):
        first = lane * p.packed_words
        plane = mean[first : first + p.packed_words]
        for start in range(0, p.packed_words, CHUNK_WORDS):
            sums = total[start : min(start + CHUNK_WORDS, p.packed_words)] >> np.uint64(lane * p.lane_bits)
            if lane < last:  # the last lane keeps the bits above it, so that a stray one is seen
                sums &= lane_mask
            part = sums[: max(0, len(plane) - start)]
            if sums[len(part) :].any():
                raise SpoiledSum()
            if len(part) and not middle - reach <= int(part.min()) <= int(part.max()) <= middle + reach:
                raise SpoiledSum()
            plane[start : start + len(part)] = (part.astype(np.float64) - middle) * scale
    metrics = {}
    if p.metrics:
        metrics = decode_metrics(tail[1:], study, hospitals=hospitals, cohort=p.cohort)
    if not can_add_up(study, metrics, hospitals=hospitals):
        raise SpoiledSum()
    return Aggregate(mean, weight, hospitals, metrics)


def _joined(tail: Words, p: EncodingParams, hospitals: int) -> Words:
    """Weight and metrics of a sum from their limbs. Raises: SpoiledSum."""
    low, high = tail & np.uint64(2**32 - 1), tail >> np.uint64(32)
    if max(int(low.max()), int(high.max())) > hospitals * ((1 << p.limb_bits) - 1):
        raise SpoiledSum()
    return low + (high << np.uint64(p.limb_bits))


def _words(study: Study, cohort: int) -> dict[str, int]:
    """Names and numbers of the words that a hospital of a roster of ``cohort`` encodes, in wire order."""
    return on_the_wire(study, released(study), cohort)


def encode_metrics(
    study: Study, sums: Mapping[str, NDArray[np.float64]], *, place: int = 0, cohort: int = 1
) -> NDArray[np.uint64]:
    """Metric sums as fixed-point words, in the order of :func:`medveil.metrics.released`.

    Args:
        place: of this hospital in the roster, from 0, and ``cohort`` hospitals are in it; where each has a
            slot of its own (:func:`medveil.parts.on_the_wire`) it fills that and leaves the others at zero.
    Raises: OutOfRange if a sum is missing, not finite or has another length; without noise if it is negative
        or 2^29 or more, with noise if it lies outside ±2^18.
    """
    offset = _offset(study)
    least, limit = (-offset, offset) if offset else (0, 2**29 * METRIC_STEPS)
    parts, given = [], in_slot(study, sums, place, cohort)
    for name, length in _words(study, cohort).items():
        values = np.asarray(given.get(name, ()), np.float64) * METRIC_STEPS
        if values.shape != (length,) or not ((values >= least) & (values < limit)).all():
            raise OutOfRange(thing=f"The sum '{name}'", limit=f"{length} finite numbers in range")
        parts.append((np.rint(values) + offset).astype(np.uint64))
    return np.concatenate(parts)


def decode_metrics(words: Words, study: Study, *, hospitals: int, cohort: int = 1) -> Sums:
    """The inverse of :func:`encode_metrics`, for a sum over ``hospitals``; nothing is checked.

    Args:
        cohort: hospitals in the roster. Where each has a slot, those are there beside their total.
    """
    sums, start, offset = {}, 0, float(_offset(study) * hospitals)
    for name, length in _words(study, cohort).items():
        sums[name] = (words[start : start + length].astype(np.float64) - offset) / METRIC_STEPS
        start += length
    return with_total(study, sums)


def _offset(study: Study) -> int:
    return 0 if study.privacy.kind == "none" else NOISED_OFFSET
