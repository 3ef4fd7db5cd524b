"""The grid of discrete noise: what a whole step is in a round's sums, and how much noise that makes.

A patient's clipped vector is rounded to whole steps, the sum of patients is a sum of whole numbers, and so
is the noise. With local noise the step is a hospital's own affair and as fine as arithmetic allows. With
joint noise the whole numbers themselves travel in the lanes of the masked sum (:mod:`privacy.encoding`), so
all hospitals have the same step, and a lane must hold their sum. Proof: decision 66.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medveil.errors import Error
from medveil.metrics import noise_scales
from medveil.noise_policies import GaussianNoise, JointNoise
from medveil.study import CENTRE, Study
from privacy.dp.discrete import FARTHEST, deviation_for
from privacy.dp.policy import mean_policy, policy_of, round_policy
from privacy.metric_limits import STEP

LANE_STEPS = 2**22
"""Steps from 0 to the end of a lane, for the largest weight: float32 tells one from the next with a bit to
spare."""
FINE_BITS = 26
"""Steps of local noise: its deviation is 2^26 to 2^27 of them."""
CLIP_IN_STEPS = 12.0
"""Steps in the clipping norm, over the root of the number of weights, at least: then rounding to whole steps
lengthens hardly any vector beyond what is left between the clip and the norm that is paid for."""


class RingTooSmall(Error):
    """Exact discrete noise does not fit what carries it."""

    code = "ring-too-small"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The study's discrete noise does not fit: {problem}.",
            meaning="Rounded so coarsely, patients' shares would be lost or the noise not exact. Nothing was "
            "released.",
            remedy="Ask for lane_bits = 32, a smaller max_weight, fewer weights or less noise, or for noise "
            "'gaussian'.",
        )


@dataclass(frozen=True)
class Grid:
    """Whole steps of one round's sum of clipped vectors.

    Args:
        step: in the units of the sum; a power of two, so that multiples of it are exact in floating point.
        deviation: of one hospital's noise, in steps.
        room: farthest from zero that a hospital's sum may lie before noise, in the units of the sum; sums
            beyond are cut to it, which moves no two of them apart. Infinite where the sum is in no lane.
    """

    step: float
    deviation: int
    room: float = math.inf


def is_discrete(study: Study) -> bool:
    """Whether a study's noise is exact discrete noise."""
    return isinstance(study.privacy, GaussianNoise) and study.privacy.noise == "discrete"


def travels_whole(study: Study) -> bool:
    """Whether training rounds send whole numbers in the lanes: hospitals' noise must add up there."""
    return isinstance(study.privacy, JointNoise) and is_discrete(study)


def grid_of(policy: GaussianNoise, *, patients: int, lane: int = LANE_STEPS) -> Grid:
    """The grid of the steps that a policy clips and noises.

    Args:
        patients: of the largest hospital in the sum; with joint noise a lane has room for all of them, if
        they agree, and for the noise.
        lane: steps from its middle that are theirs.
    Raises: RingTooSmall.
    """
    scale = policy.own_multiplier * policy.clip_norm
    if not isinstance(policy, JointNoise):
        step = 2.0 ** (math.floor(math.log2(scale)) - FINE_BITS)
        return Grid(step, _deviation(scale, step))
    farthest = patients * policy.clip_norm + FARTHEST * scale
    step = 2.0 ** math.ceil(math.log2(farthest * (1 + 2.0**-6) / lane))
    deviation = _deviation(scale, step)
    return Grid(step, deviation, (lane - 1 - math.ceil(FARTHEST * deviation)) * step)


def training_grid(study: Study, number: int) -> Grid | None:
    """The grid of a training round, counted from 1; None for a study without discrete noise.

    Raises: RingTooSmall.
    """
    if not is_discrete(study):
        return None
    if number > study.mean_rounds:
        return grid_of(round_policy(study, number), patients=study.secure_aggregation.max_weight)
    # What is sent of a mean is less the one before it, which has the other half of a lane.
    return grid_of(mean_policy(study), patients=study.secure_aggregation.max_weight, lane=LANE_STEPS // 2)


def lane_clip(study: Study, number: int) -> float | None:
    """End of a lane in model units, for the largest weight, in a round whose whole numbers travel in lanes.

    A hospital's update is the round's rate times its sum over its number of patients; weighted with that
    number, a step of the sum is one and the same share of a lane at every hospital.
    Returns: None where a round's lanes hold rounded updates.
    """
    grid = training_grid(study, number) if travels_whole(study) else None
    if grid is None:
        return None
    largest, rate = study.secure_aggregation.max_weight, round_rate(study, number)
    return grid.step * LANE_STEPS * rate / (largest * policy_of(study).sample_rate)


def largest_number(study: Study) -> float:
    """What no number of an update is larger than, in any round. Lanes of whole numbers are as long for a
    small hospital, whose update is divided by fewer patients."""
    masked = study.secure_aggregation
    clips = (lane_clip(study, number) for number in _unlike_rounds(study))
    return max(
        masked.update_clip if one is None else one * masked.max_weight / masked.least_weight for one in clips
    )


def _unlike_rounds(study: Study) -> set[int]:
    """Rounds among which those of the largest and the smallest numbers are."""
    if study.privacy.kind != "none" and study.privacy.matched:
        return set(range(1, study.training.rounds + 1))
    return {1, study.mean_rounds + 1}


def round_rate(study: Study, number: int) -> float:
    """The learning rate of a round's first step; a released mean has the rate 1."""
    if number <= study.mean_rounds:
        return 1.0
    return study.training.rate_in(number)


def check_grid(study: Study) -> None:
    """Whether a study's discrete noise fits its lanes and its figures (RingTooSmall); before it runs."""
    if not is_discrete(study):
        return
    policy, masked = policy_of(study), study.secure_aggregation
    if isinstance(policy, JointNoise) and masked.lane_bits != 32:
        raise RingTooSmall(problem=f"lanes have {masked.lane_bits} bits")
    if isinstance(policy, JointNoise) and 2 * LANE_STEPS * study.cohort.max_hospitals >= 2**32:
        raise RingTooSmall(problem=f"a lane cannot hold the sum of {study.cohort.max_hospitals} hospitals")
    width = sum(t.size for t in study.model.tensors.root if t.name == CENTRE)
    for number in _unlike_rounds(study):
        mean, grid = number <= study.mean_rounds, training_grid(study, number)
        assert grid is not None
        size, clip = (width, 1.0) if mean else (study.trained_weights, policy.clip_norm)
        if not CLIP_IN_STEPS * math.sqrt(size) <= clip / grid.step:
            raise RingTooSmall(
                problem=f"the clipping norm is {clip / grid.step:.0f} steps of a lane; {size} "
                f"weights want {math.ceil(CLIP_IN_STEPS * math.sqrt(size))}"
            )
    most = study.training.rounds if study.evaluation.every_round else 1
    for scale in noise_scales(study).values():
        for rounds in {1, most}:
            figure_deviation(policy.own_evaluation_multiplier * math.sqrt(rounds) * scale)


def figure_deviation(scale: float) -> int:
    """The deviation of the noise on a figure's sum, in steps of 2^-20, in which figures are sent
    (RingTooSmall)."""
    return _deviation(scale, STEP)


def _deviation(scale: float, step: float) -> int:
    try:
        return deviation_for(scale, step)
    except ValueError as error:
        raise RingTooSmall(problem=str(error)) from error
