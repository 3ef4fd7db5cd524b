"""The rehearsal of a training round: train() as it is, with nobody, without the canary, and with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hospital_node.ledger import Charge, ChargeUsed
from hospital_node.training import run
from hospital_node.training.features import FeatureCache
from hospital_node.training.optimizer import GRID_BITS
from hospital_node.training.safety import NotSafe
from hospital_node.training.stage import (
    BEGUN,
    CANARY_IMAGES,
    DECLARED,
    SLACK,
    Float64,
    Scripted,
    Stage,
    charge_for,
    noise_of,
    with_wild_canary,
)
from medveil.tensors import Float32
from medveil_imaging.patients import PatientImages
from privacy.dp.grid import LANE_STEPS, lane_clip, training_grid, travels_whole
from privacy.dp.individual import PatientFilter
from privacy.dp.policy import Split

LEAST = 1e-3
"""Bounds by which an ordinary patient moves a sum at least."""


@dataclass(frozen=True)
class Take:
    """What one run of train() asked for, stepped with and returned."""

    asked: list[tuple[Any, ...]]
    given: Float64
    gradients: list[torch.Tensor] = field(repr=False)
    update: Float32 = field(repr=False)
    used: dict[str, float]
    """What the filter has booked, by patient; empty without one."""


def rehearse_round(stage: Stage) -> None:
    """With nobody, without the canary, and with it and other noise.

    The three facts of :mod:`hospital_node.training.rehearsal`.
    Raises: NotSafe.
    """
    generator = np.random.Generator(np.random.PCG64(2))
    short = stage.clip / math.sqrt(stage.size)
    plain = generator.standard_normal(stage.steps * stage.size)
    other = generator.standard_normal(stage.steps * stage.size) * 100 * short
    large = plain.copy()
    large[:: max(1, stage.size // 16)] *= 2 if travels_whole(stage.study) else 4  # rare sizes, too
    _check_noise_only(stage, take_round(stage, noise=large, nobody=True))
    without = take_round(stage, noise=plain * 4 * short)
    for place in range(len(stage.others) + 1):
        broken = 0 < place < len(stage.others)
        shown = with_wild_canary(stage) if broken else stage
        canary = take_round(shown, noise=other, place=place, instead=without.gradients)
        if not np.array_equal(canary.update, without.update):
            problem = "a patient changes the update otherwise than by a noised sum"
            raise NotSafe(check="way-out", problem=problem)
        _check_canary(shown, without, canary, least=0.0 if broken else LEAST)


def take_round(
    stage: Stage,
    *,
    noise: Float64,
    place: int | None = None,
    nobody: bool = False,
    instead: Sequence[torch.Tensor] = (),
    rooms: Mapping[str, float] | None = None,
) -> Take:
    """One run of train().

    Args:
        place: of the canary among the others; None: it is not there. nobody: no coin falls on anybody.
        instead: gradients that the base optimiser gets in place of its own.
        rooms: of a study with a filter, by patient; without it there is room for all steps.
    """
    patients = list(stage.others)
    if place is not None:
        patients.insert(place, stage.canary)
    script = [(False, False)] * stage.steps if nobody else stage.entering
    coins = [np.array([own if p is stage.canary else rest for p in patients]) for rest, own in script]
    grid = training_grid(stage.study, stage.round_number)
    source = Scripted(noise=noise, coins=coins, real=nobody, step=None if grid is None else grid.step)
    charge = charge_for(stage, Split.TRAIN, stage.round_number, source)
    given = run.TrainingRound(
        stage.study,
        stage.vector,
        patients,
        number=stage.round_number,
        declared_patients=DECLARED,
        noise=source,
        charge=charge,
        device=stage.device,
        cache=FeatureCache(),
        build=stage.build,
        filter=_filter(stage, patients, rooms or {}),
    )
    with _watched_steps(source, instead) as seen:
        update = run.train_unchecked(given).values
    _check_spent(charge)
    used = {} if given.filter is None else given.filter.used
    take = Take(source.asked, np.concatenate(source.given or [np.empty(0)]), seen, update, used)
    _check_asked(stage, take, len(patients))
    return take


def _filter(
    stage: Stage, patients: Sequence[PatientImages], rooms: Mapping[str, float]
) -> PatientFilter | None:
    if noise_of(stage.study).patient_mu is None:
        return None
    whole = 2 * stage.steps / stage.multiplier**2
    return PatientFilter({one.patient: rooms.get(one.patient, whole) for one in patients})


@contextmanager
def _watched_steps(source: Scripted, instead: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """What each step of an optimiser in this thread steps with; the first ones get ``instead`` for it."""
    seen: list[torch.Tensor] = []
    thread = threading.get_ident()

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if threading.get_ident() != thread:
            return
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append(_flat(weights))
        source.asked.append(("step",))
        if len(seen) <= len(instead):
            parts = torch.split(instead[len(seen) - 1], [w.numel() for w in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.grad = part.to(weight).view_as(weight)

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        yield seen
    finally:
        handle.remove()


def _flat(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    return torch.cat([g.flatten() for g in grads]).double().cpu()


def _check_spent(charge: Charge) -> None:
    """A charge must pay for one run only."""
    try:
        charge.begin()
    except ChargeUsed:
        return
    raise NotSafe(check="charge", problem="a charge pays for a second run")


def _check_asked(stage: Stage, take: Take, patients: int) -> None:
    """The charge first; then in every step coins for all, and noise of the paid size for every value."""
    policy, scale = noise_of(stage.study), stage.multiplier * stage.clip
    if not take.asked or take.asked[0] != BEGUN or take.asked.count(BEGUN) != 1:
        raise NotSafe(check="charge", problem="the charge is not marked as begun before the first coin")
    steps: list[list[tuple[Any, ...]]] = [[]]
    for entry in take.asked[1:]:
        if entry == ("step",):
            steps.append([])
        else:
            steps[-1].append(entry)
    if steps.pop() or len(steps) != stage.steps:
        raise NotSafe(check="noise", problem="there are other steps than the charge pays for")
    for step in steps:
        coins = [entry for entry in step if entry[0] == "coins"]
        if coins != [("coins", patients, policy.sample_rate)]:
            raise NotSafe(check="draw", problem="coins are not tossed once a step for every patient")
        noise = [entry for entry in step if entry[0] == "noise"]
        if sum(size for _, size, _ in noise) != stage.size:
            raise NotSafe(check="noise", problem="a step does not draw noise once for each of its values")
        if any(not _is_paid(stage, found, scale) for _, _, found in noise):
            raise NotSafe(check="noise", problem="a step's noise has another size than the study promises")


def _is_paid(stage: Stage, found: float, scale: float) -> bool:
    """Whether noise has the size that a step is charged for; discrete noise is a hair larger (decision
    66)."""
    grid = training_grid(stage.study, stage.round_number)
    if grid is None:
        return math.isclose(found, scale, rel_tol=1e-9)
    return math.sqrt(scale**2 + 9 * grid.step**2) <= found <= 1.03 * scale


def _check_canary(stage: Stage, without: Take, canary: Take, *, least: float) -> None:
    """One patient moves the sum by the bound where the coin fell, and not otherwise.

    Args:
        least: by so many bounds it must move it, or the rehearsal has shown nothing.
    """
    near = nearly(stage)
    drawn = [own for _, own in stage.entering]
    for step, moved in enumerate(moved_by_canary(stage, without, canary)):
        if not moved <= (1 + SLACK if drawn[step] else near):
            where = "enters" if drawn[step] else "does not enter"
            raise NotSafe(
                check="one-patient",
                problem=f"a patient with {CANARY_IMAGES} images moves the sum of a step that it {where} by "
                f"{moved:.3g} bounds",
            )
        if drawn[step] and moved < least:
            raise NotSafe(check="one-patient", problem="a patient who enters a step is not in its sum")


def moved_by_canary(stage: Stage, without: Take, canary: Take) -> Float64:
    """By how many bounds it moves the sum of each step, shape (steps,)."""
    sums = [
        np.stack([g.numpy() for g in take.gradients]) * stage.constant - take.given.reshape(stage.steps, -1)
        for take in (without, canary)
    ]
    return np.asarray(np.linalg.norm(sums[1] - sums[0], axis=1) / stage.clip)


def nearly(stage: Stage) -> float:
    """Bounds by which two sums that are the same may differ: the released grid, and float32."""
    return 1e-4 + 1e-6 * math.sqrt(stage.size)


def _check_noise_only(stage: Stage, take: Take) -> None:
    """A step without patients is its noise, divided by the public constant, rounded to the grid."""
    found = np.concatenate([g.numpy() for g in take.gradients]) * stage.constant
    room = 2.0**-GRID_BITS * stage.clip + 1e-6 * np.abs(take.given)
    if not np.all(np.abs(found - take.given) <= room):
        raise NotSafe(check="noise", problem="a step without patients is not the noise that was drawn")
    if travels_whole(stage.study):
        _check_whole(stage, take)


def _check_whole(stage: Stage, take: Take) -> None:
    """What an update puts into its lanes are the very whole numbers that were drawn: others' noise adds to
    them."""
    grid, clip = training_grid(stage.study, stage.round_number), lane_clip(stage.study, stage.round_number)
    if grid is None or clip is None:
        raise TypeError("whole numbers are for a study of discrete noise")
    per_step = LANE_STEPS * DECLARED / stage.study.secure_aggregation.max_weight / clip
    lanes, drawn = np.rint(take.update.astype(np.float64) * per_step), np.rint(take.given / grid.step)
    if not np.array_equal(np.sort(lanes[lanes != 0]), np.sort(-drawn[drawn != 0])):
        raise NotSafe(
            check="noise", problem="what goes into the lanes is not the whole numbers that were drawn"
        )
