"""The rehearsal of an evaluation: release() as it is, and what one patient's share of its sums can be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from hospital_node.training import evaluation
from hospital_node.training.features import FeatureCache
from hospital_node.training.safety import NotSafe
from hospital_node.training.stage import (
    BEGUN,
    CANARY_IMAGES,
    SLACK,
    Scripted,
    Stage,
    charge_for,
    noise_of,
    with_wild_canary,
)
from medveil.parts import in_round
from medveil.rounds import RoundKind
from medveil.tasks import TASKS, Sums
from medveil_imaging.patches import by_windows
from medveil_imaging.patients import PatientImages
from privacy.dp.grid import is_discrete
from privacy.dp.policy import Split
from privacy.metric_limits import STEP

COMPANY = 9
"""Patients who are there in both worlds, with one image each."""


def rehearse_release(stage: Stage, split: Split) -> None:
    """One patient's share of the released sums, in units of their noise, is no more than was paid for.

    Raises: NotSafe.
    """
    policy, rounds = noise_of(stage.study), stage.study.training.rounds if split is Split.VAL else 1
    multiplier = policy.evaluation_multiplier / math.sqrt(policy.evaluation_sharers) * math.sqrt(rounds)
    kind = RoundKind.TRAIN if split is Split.VAL else RoundKind.EVALUATE
    stage = replace(stage, study=in_round(stage.study, kind))
    company = [_alone(stage, one, place) for place in range(COMPANY) for one in stage.others[:1]]
    scales, without = _released(stage, split, company)
    for canary in _canaries(stage):
        asked, found = _released(stage, split, [canary, *company])
        if asked != scales:
            raise NotSafe(check="evaluation", problem="what noise is drawn depends on the patients")
        share = math.hypot(*(float(np.linalg.norm(found[n] - without[n])) / scales[n] for n in scales))
        if not share * multiplier <= 1 + SLACK:
            raise NotSafe(
                check="evaluation",
                problem=f"a patient with {CANARY_IMAGES} images moves the sums of '{split.value}' by "
                f"{share * multiplier:.3g} bounds",
            )


def _alone(stage: Stage, one: PatientImages, place: int) -> PatientImages:
    """A patient with one image, the others' flipped and shifted."""
    labels = one.labels[:1]
    return PatientImages(
        f"company-{place}",
        one.images[:1].roll(place, -1),
        labels.roll(place, -1) if labels.ndim == one.images.ndim - 1 else labels,
        _groups(stage, place),
    )


def _groups(stage: Stage, place: int) -> dict[str, str]:
    """A group of every column, for a patient who is in as many as can be; by turns all of them."""
    declared = stage.study.evaluation.groups
    return {name: each.names[place % len(each.names)] for name, each in declared.items()}


def _released(stage: Stage, split: Split, patients: list[PatientImages]) -> tuple[dict[str, float], Sums]:
    """Scale of the noise that each sum asked for, and the sum without it."""
    source = Scripted(
        noise=np.random.Generator(np.random.PCG64(len(patients))).standard_normal(10**6),
        real=True,
        step=STEP if is_discrete(stage.study) else None,
    )
    charge = charge_for(stage, split, stage.study.training.rounds + 1, source)
    sums = evaluation.release(
        stage.study,
        stage.vector,
        patients,
        noise=source,
        charge=charge,
        device=stage.device,
        cache=FeatureCache(),
        build=stage.build,
    )
    asked = [entry for entry in source.asked if entry[0] == "noise"]
    if source.asked[:1] != [BEGUN] or len(source.asked) != len(asked) + 1:
        raise NotSafe(check="charge", problem="the charge is not marked as begun before the noise is drawn")
    if [size for _, size, _ in asked] != [v.size for v in sums.values()]:
        raise NotSafe(check="evaluation", problem="a released sum does not draw noise once for each value")
    scales = {name: scale for name, (_, _, scale) in zip(sums, asked, strict=True)}
    found = {name: sums[name] - given for name, given in zip(sums, source.given, strict=True)}
    if is_discrete(stage.study) and any((values % STEP != 0).any() for values in found.values()):
        raise NotSafe(check="evaluation", problem="a patient's contribution is not in whole steps")
    return scales, found


def _canaries(stage: Stage) -> list[PatientImages]:
    """Patients whose share is as large as can be, as the task knows them, and one that no scanner made."""
    network, images, study = stage.build(stage.study).eval(), stage.canary.images, stage.study
    with torch.no_grad():
        if TASKS[study.task].outlines:
            logits = by_windows(network, images, study.transforms.size, stage.device)
        else:
            logits = network(images.to(stage.device)).float().cpu()
    labels = TASKS[study.task].telling_labels(study, logits)
    canaries = [*(PatientImages("canary", images, one) for one in labels), with_wild_canary(stage).canary]
    return [replace(one, groups=_groups(stage, place)) for place, one in enumerate(canaries)]
