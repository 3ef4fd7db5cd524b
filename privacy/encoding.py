"""From an update (floats) to words of the ring Z_2^64, and from their sum back to a mean.

Several coordinates share a word, each in its own lane. Lanes hold quantised, non-negative integers whose sum
over a full cohort fits the lane, so sums of words are words of sums: no lane ever carries into the next.
The vector of one hospital is

    [ packed coordinates | weight | metric words ]

The weight has a word of its own, so the mean is sum(weight * update) / sum(weight) while no weight is shown.
Literature counts bytes per parameter: 16-bit lanes give 2.0 ("2x16"), 21-bit 2.67 ("3x21"), 32-bit 4.0
("1x32"); here all three live in 64-bit words, four, three or two to a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.errors import LocalProtocolError, RemoteProtocolError
from medveil.metrics import Sums, layout
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tensors import Float32, Update

Words = NDArray[np.uint64]
RandomBytes = Callable[[int], bytes]
LANES = {16: 4, 21: 3, 32: 2}
MAX_STEPS = 2**20
METRIC_STEPS = 2**20
"""Fixed-point steps per unit of a metric."""
_CHUNK = 2**15


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
        parameters: d, coordinates of an update (0 for an evaluation round).
        metrics: number of metric words.
        lane_bits: 16, 21 or 32.
        clip: C, largest magnitude of a coordinate, in model units.
        max_weight: W, largest weight of one hospital.
        cohort: U, most hospitals in one sum.
    """

    parameters: int
    metrics: int
    lane_bits: int
    clip: float
    max_weight: int
    cohort: int

    def __post_init__(self) -> None:
        if self.lane_bits not in LANES:
            raise OutOfRange(thing="lane_bits", limit="16, 21 or 32")
        if self.parameters < 0 or self.metrics < 0:
            raise OutOfRange(thing="The numbers of parameters and metrics", limit="zero or more")
        if not (np.isfinite(self.clip) and self.clip > 0):
            raise OutOfRange(thing="The update clip", limit="a positive finite number")
        if not 1 <= self.max_weight <= 2**31 or not 1 <= self.cohort <= 2**12:
            raise OutOfRange(thing="Weight limit and cohort", limit="1 to 2^31 and 1 to 4096")
        assert 2 * self.steps * self.cohort < 2**self.lane_bits  # no lane carries into its neighbour
        if self.steps < 8:
            raise OutOfRange(thing="The cohort", limit=f"small enough for {self.lane_bits}-bit lanes")

    @property
    def steps(self) -> int:
        """L: quantisation steps from 0 to the clip; a coordinate becomes an integer in [0, 2L]."""
        return min(((1 << self.lane_bits) - 1) // (2 * self.cohort), MAX_STEPS)

    @property
    def packed_words(self) -> int:
        """Words that hold the coordinates."""
        return -(-self.parameters // LANES[self.lane_bits])

    @property
    def words(self) -> int:
        """Length of the whole vector in 64-bit words."""
        return self.packed_words + 1 + self.metrics


@dataclass(frozen=True)
class EncodedUpdate:
    """An update in the ring, not yet masked: it has no way onto the wire."""

    words: Words

    def __repr__(self) -> str:
        return f"EncodedUpdate({len(self.words)} words)"


@dataclass(frozen=True)
class Aggregate:
    """What a round reveals: the weighted mean over the survivors, their total weight, summed metrics."""

    mean: Float32
    total_weight: int
    hospitals: int
    metrics: Sums


def params_for(study: Study, kind: RoundKind, cohort: int) -> EncodingParams:
    """The vector of one round of a study, for a roster of ``cohort`` hospitals."""
    train = kind is RoundKind.TRAIN
    counted = sum(layout(study).values()) if not train or study.evaluation.every_round else 0
    return EncodingParams(
        parameters=study.model.tensors.size if train else 0,
        metrics=counted,
        lane_bits=study.secure_aggregation.lane_bits,
        clip=study.secure_aggregation.update_clip,
        max_weight=study.secure_aggregation.max_weight,
        cohort=cohort,
    )


def encode(
    update: Update, p: EncodingParams, *, weight: int, metrics: NDArray[np.uint64], random_bytes: RandomBytes
) -> EncodedUpdate:
    """Quantise an update with unbiased stochastic rounding and pack it into ring words.

    Args:
        update: float32, shape (d,), every |entry| <= p.clip (model units).
        weight: this hospital's weight, 1 to p.max_weight.
        metrics: uint64, shape (p.metrics,), fixed point (see :func:`encode_metrics`).
        random_bytes: cryptographic bytes for the rounding, from this hospital alone.
    Returns: uint64, shape (p.words,).
    Guarantees: the expectation of decode(sum of encodings) is the exact weighted mean; each entry is
        rounded by less than one step, clip / (steps * weight / max_weight).
    Raises: OutOfRange if an entry is not finite or exceeds p.clip, or a length or the weight is wrong.
    Source: Kairouz, Liu, Steinke, ICML 2021, client procedure, without rotation and noise.
    """
    values = update.values
    if values.shape != (p.parameters,) or metrics.shape != (p.metrics,):
        raise OutOfRange(thing="The length of the update", limit=f"{p.parameters} + {p.metrics} metrics")
    if not 1 <= weight <= p.max_weight:
        raise OutOfRange(thing="The weight", limit=f"1 to {p.max_weight}")
    words = np.zeros(p.words, np.uint64)
    for lane in range(LANES[p.lane_bits]):
        first = lane * p.packed_words
        plane = values[first : first + p.packed_words]
        for start in range(0, len(plane), _CHUNK):
            part = plane[start : start + _CHUNK]
            words[start : start + len(part)] |= _quantise(part, weight, p, random_bytes) << np.uint64(
                lane * p.lane_bits
            )
    words[p.packed_words] = weight
    words[p.packed_words + 1 :] = metrics
    return EncodedUpdate(words)


def _quantise(part: Float32, weight: int, p: EncodingParams, random_bytes: RandomBytes) -> Words:
    # Float64 keeps the rounding fraction even where a lane has 2^20 steps; float32 would lose it.
    if not (np.abs(part) <= p.clip).all():  # also false for NaN
        raise OutOfRange(thing="Every coordinate of the update", limit=f"finite and within ±{p.clip:g}")
    scaled = part * np.float64(weight / p.max_weight * p.steps / p.clip)
    fraction = np.frombuffer(random_bytes(4 * len(part)), "<u4") * 2.0**-32
    whole = np.floor(scaled + fraction) + p.steps
    quantised: Words = np.clip(whole, 0, 2 * p.steps).astype(np.uint64)
    return quantised


def decode(total: Words, p: EncodingParams, *, hospitals: int, study: Study) -> Aggregate:
    """The weighted mean and the summed metrics from the sum of ``hospitals`` encodings.

    Args:
        total: uint64, shape (p.words,), the unmasked sum mod 2^64.
    Guarantees: each entry of the mean is within ``hospitals * clip / steps * max_weight / total_weight``
        of the exact weighted mean.
    Raises: SpoiledSum if weight or a lane lies outside what that many hospitals can add up to.
    """
    weight = int(total[p.packed_words])
    if total.shape != (p.words,) or not hospitals <= weight <= hospitals * p.max_weight:
        raise SpoiledSum()
    mean = np.empty(p.parameters, np.float32)
    scale = p.clip / p.steps * p.max_weight / weight
    lane_mask = np.uint64(2**p.lane_bits - 1)
    for lane in range(LANES[p.lane_bits]):
        first = lane * p.packed_words
        plane = mean[first : first + p.packed_words]
        for start in range(0, len(plane), _CHUNK):
            part = total[start : start + min(_CHUNK, len(plane) - start)]
            sums = (part >> np.uint64(lane * p.lane_bits)) & lane_mask
            if sums.size and int(sums.max()) > 2 * p.steps * hospitals:
                raise SpoiledSum()
            plane[start : start + len(part)] = (sums.astype(np.float64) - p.steps * hospitals) * scale
    metrics = decode_metrics(total[p.packed_words + 1 :], study) if p.metrics else {}
    return Aggregate(mean, weight, hospitals, metrics)


def encode_metrics(study: Study, sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.uint64]:
    """Metric sums as fixed-point words, in the order of :func:`medveil.metrics.layout`.

    Raises: OutOfRange if a sum is missing, negative, not finite or has another length.
    """
    parts = []
    for name, length in layout(study).items():
        values = np.asarray(sums.get(name, ()), np.float64)
        if values.shape != (length,) or not ((values >= 0) & (values < 2**32)).all():
            raise OutOfRange(thing=f"The sum '{name}'", limit=f"{length} finite numbers, zero or more")
        parts.append(np.rint(values * METRIC_STEPS).astype(np.uint64))
    return np.concatenate(parts)


def decode_metrics(words: Words, study: Study) -> Sums:
    """The inverse of :func:`encode_metrics`, for a sum over hospitals.

    Raises: SpoiledSum if a word lies outside what sums of patients can reach.
    """
    if words.size and int(words.max()) >= 2**63:
        raise SpoiledSum()
    sums, start = {}, 0
    for name, length in layout(study).items():
        sums[name] = words[start : start + length].astype(np.float64) / METRIC_STEPS
        start += length
    return sums
