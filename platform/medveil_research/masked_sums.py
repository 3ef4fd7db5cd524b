"""The lanes of a new study's masked sums: room for every update, and steps finer than shared noise."""

from __future__ import annotations

import math
from dataclasses import replace

from medveil.noise_policies import JointNoise, LocalNoise, NoPrivacy
from medveil.study import LEAST_DECLARED, SecureAggregation
from medveil.values import MaskGraph, Weights
from medveil_imaging.recipes import Recipe
from medveil_research.lanes import fine_enough
from privacy.dp.matched import Course
from privacy.joint_steps import noise_lengths

MAX_WEIGHT = 4096
"""Largest weight of one hospital when nobody has said how many patients there are."""


def course_of_recipe(settings: Recipe) -> Course:
    """The course of a recipe's rounds, its means included."""
    return Course.of(settings.training, settings.strategy, mean_rounds=settings.mean_rounds)


def masked_sum(
    settings: Recipe,
    policy: NoPrivacy | LocalNoise | JointNoise,
    *,
    patients: int | None,
    hospitals: int,
    mask_graph: MaskGraph,
    weights: Weights,
    colluders: int,
) -> SecureAggregation:
    """Room for a hospital with twice the usual patients: a lane's steps are shared out over the weight.

    Joint noise must never be cut: the clip leaves eight standard deviations at the smallest hospital. Nor may
    it be finer than the encoding's steps: where it would be, lanes are wider.

    Args:
        patients: of a typical hospital. hospitals: most in a sum.
    Raises: BadFile: no lane is wide enough.
    """
    room = MAX_WEIGHT if patients is None else max(64, 2 ** math.ceil(math.log2(2 * patients)))
    clip = settings.update_clip
    if isinstance(policy, JointNoise):
        stride = settings.training.learning_rate * policy.clip_norm
        room = room if patients is None else max(64, 2 * patients)
        courses = [replace(course_of_recipe(settings), mean_rounds=n) for n in (0, settings.mean_rounds)]
        noise = max(max(noise_lengths(settings.training, policy, course)) for course in courses)
        clip = 2.0 ** math.ceil(math.log2(stride + 8 * noise / LEAST_DECLARED))
    masked = SecureAggregation(
        lane_bits=settings.lane_bits,
        update_clip=clip,
        max_weight=room,
        mask_graph=mask_graph,
        weights=weights,
        colluders=colluders,
    )
    if not isinstance(policy, JointNoise):
        return masked
    course = course_of_recipe(settings)
    return fine_enough(masked, settings.training, policy, hospitals=hospitals, course=course)
