"""Lanes that are wide enough for the noise of hospitals to add up in them."""

from __future__ import annotations

from medveil.errors import BadFile
from medveil.noise_policies import JointNoise
from medveil.study import SecureAggregation, Training
from privacy.dp.matched import Course
from privacy.joint_steps import COARSEST, FINE, step_in_noise


def fine_enough(
    masked: SecureAggregation, training: Training, noise: JointNoise, *, hospitals: int, course: Course
) -> SecureAggregation:
    """Wider lanes where the encoding's steps are coarse beside the noise, or whole numbers travel in them.

    Raises: BadFile: no lane is wide enough. Of discrete noise :func:`privacy.dp.grid.check_grid` knows that.
    """

    def step(chosen: SecureAggregation) -> float:
        return step_in_noise(training, noise, chosen, hospitals=hospitals, course=course)

    wide = masked.model_copy(update={"lane_bits": 32})
    if noise.noise == "discrete":
        return wide
    chosen = masked if step(masked) <= FINE else wide
    if step(chosen) > COARSEST:
        raise BadFile(
            name="The study",
            problem="joint noise of so many hospitals with so many patients would be finer than the steps of "
            "the encoding; take fewer rounds, or privacy 'local'",
        )
    return chosen
