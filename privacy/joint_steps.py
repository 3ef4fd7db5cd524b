"""Whether noise that several hospitals share survives the encoding: steps must not be coarser than it.

Each hospital rounds its noised update to whole steps by itself, with a dither. The sum of the roundings is
not a rounding of the sum, so that the joint epsilon holds for it needs an argument. With y a hospital's
noised coordinate in steps and d the dither, P(rint(y + d) = k) is the density at k of y plus a triangular
value that is independent of it. So the sum of h roundings is distributed like the ideal noised sum plus h
triangular values, looked at in whole steps: more noise than promised. That is exact but for terms in which
two hospitals' characteristic functions stand at different multiples of 2 pi; they are below
h^2 exp(-(pi s)^2), where s is one hospital's noise in steps: 1e-16 with s = 2 (:data:`FINE`). Computed
exactly for steps up to three standard deviations (:data:`COARSEST`), no delta is above the ideal one; from
about 3.5 on some are (tests/privacy/test_noise_on_a_lattice.py).
"""

from __future__ import annotations

from medveil.noise_policies import JointNoise
from medveil.study import SecureAggregation, Study, Training
from privacy.dp.matched import Course, course_of, multipliers
from privacy.encoding import EncodingParams

FINE = 0.5
"""Step, in standard deviations of one hospital's noise, that a new study keeps to if lanes allow it."""
COARSEST = 3.0
"""Step up to which the noise of several hospitals is known to add up."""


def step_in_noise(
    training: Training, noise: JointNoise, masked: SecureAggregation, *, hospitals: int, course: Course
) -> float:
    """Step of the encoding in standard deviations of one hospital's noise, in the round where it is coarsest.

    Update and noise are divided by the hospital's number of patients and weighted with it, so the number does
    not matter. The noise of an update shrinks with the learning rate; a released mean has the rate 1 and
    patients of length 1.

    Args:
        hospitals: of the roster.
        course: of these rounds. Raises: UnmatchedNoise.
    """
    shortest = min(noise_lengths(training, noise, course))
    if course.mean_rounds:
        shortest = min(shortest, noise.own_multiplier)
    p = EncodingParams(
        1, 0, masked.lane_bits, masked.update_clip, masked.max_weight, hospitals, masked.least_weight
    )
    return p.clip * p.max_weight / p.steps / shortest


def noise_lengths(training: Training, noise: JointNoise, course: Course) -> list[float]:
    """One hospital's own noise in an update of each training round, times its patients; in model units.

    Raises: UnmatchedNoise.
    """
    numbers = range(course.mean_rounds + 1, training.rounds + 1)
    return [
        training.rate_in(number) * noise.clip_norm * multiplier / noise.sharers**0.5
        for number, multiplier in zip(numbers, multipliers(noise, course), strict=True)
    ]


def adds_up(study: Study, *, hospitals: int) -> bool:
    """Whether the hospitals' noise adds up in a study's sums as its joint epsilon says."""
    if not isinstance(study.privacy, JointNoise) or study.privacy.noise == "discrete":
        return True  # whole numbers add up as they are (decision 66)
    step = step_in_noise(
        study.training,
        study.privacy,
        study.secure_aggregation,
        hospitals=hospitals,
        course=course_of(study),
    )
    return step <= COARSEST
