"""The rehearsal: the product's own train() and release() on made-up patients, with noise that is known.

The other self-checks look at parts: gradients, clipping, the key stream. This one walks through the door that
patients' data takes, and holds three facts against it that together are the promise of a Gaussian mechanism:

1. What leaves is made of "sum over patients plus noise" and of nothing else about the patients.
2. One patient, with four images, moves that sum by the bound at most where its coin fell, else not at all.
3. The noise is asked for anew in every step, at the size that the ledger is paid for, and enters whole.

It cannot see: which noise source a real round hands in (a test watches the node do it); code that treats the
rehearsal unlike a real round; random changes of images (switched off here); rounds other than the first, or
the first two of a centred study, and the last one where noise is matched; larger cohorts than the
rehearsal's dozen patients, more steps a round than ``MOST_STEPS``, volumes of full size, a GPU that runs out
of memory; what happens to an update after train(): encoding, masks, weights, the copy kept for sending again.
Whether the events that a ledger is charged with cost what the study says is the accountant's question
(:mod:`privacy.dp.policy`); an audit measures it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from hospital_node.training.matched_check import check_matched_noise
from hospital_node.training.rehearsal_filter import rehearse_filter
from hospital_node.training.rehearsal_release import rehearse_release
from hospital_node.training.rehearsal_round import rehearse_round
from hospital_node.training.stage import DECLARED, Stage, made_up_patients, noise_of
from medveil.study import CENTRE, Study
from medveil.tasks import TASKS
from medveil_imaging.models import vector_of
from medveil_imaging.patches import random_patches
from medveil_imaging.patients import PatientImages
from privacy.dp.policy import Split, round_policy, study_events

MOST_STEPS = 32
MOST_VALUES = 2**24
"""Weights times steps of one rehearsal."""


def rehearse(study: Study, module: nn.Module, *, size: tuple[int, ...], device: torch.device) -> None:
    """Walk a study's rounds through train() and release(), against the three facts above.

    Args:
        module: the network as it stands; it is copied. size: of the made-up images.

    Raises:
        NotSafe: ``charge``, ``draw``, ``noise``, ``one-patient``, ``way-out``, ``filter`` or ``evaluation``.
    """
    policy = noise_of(study)
    network = copy.deepcopy(module).float().to(device)
    canary, others = made_up_patients(study, size)
    steps = study.training.local_steps or 1
    weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
    few = min(steps, MOST_STEPS, max(3, MOST_VALUES // max(weights, 1)))
    clip = _low_clip(network, study, size, [canary, *others], device) or policy.clip_norm
    staged = _staged(study, size=size, clip=clip, steps=few)
    stage = Stage(
        study=staged,
        build=lambda _: copy.deepcopy(network),
        vector=vector_of(network),
        device=device,
        others=tuple(others),
        canary=canary,
        round_number=study.mean_rounds + 1,
        size=weights,
        clip=clip,
        multiplier=_own(staged, study.mean_rounds + 1),
        steps=few,
    )
    stages = [stage]
    if policy.matched:
        check_matched_noise(study)
        last = study.training.rounds
        stages.append(replace(stage, round_number=last, multiplier=_own(staged, last)))
    if study.centred:
        stages.append(_mean_stage(stage))
    for one in stages:
        rehearse_round(one)
        if policy.patient_mu is not None:
            rehearse_filter(one)
    for split in study_events(study):
        if split is not Split.TRAIN:
            rehearse_release(stage, split)


def _staged(study: Study, *, size: tuple[int, ...], clip: float, steps: int) -> Study:
    """The study with small images, without random changes of them, and with a stride that suits the clip."""
    rate = 1e-3
    if study.training.optimizer == "sgd":
        rate = 0.05 * noise_of(study).sample_rate * DECLARED / clip
    changed = {"local_steps": steps, "augment": False, "augmentations": {}, "learning_rate": rate}
    return study.model_copy(
        update={
            "transforms": study.transforms.model_copy(update={"size": size}),
            "training": study.training.model_copy(update=changed),
            "privacy": study.privacy.model_copy(update={"clip_norm": clip}),
            "secure_aggregation": study.secure_aggregation.model_copy(update={"update_clip": 1e30}),
        }
    )


def _own(study: Study, number: int) -> float:
    """A hospital's own noise in the steps of a round; what matched noise is, is looked at apart from it."""
    policy = noise_of(study)
    noise = round_policy(study, number).noise_multiplier if policy.matched else policy.noise_multiplier
    return noise / math.sqrt(policy.sharers)


def _mean_stage(stage: Stage) -> Stage:
    """The round of the private mean: one step, everybody, features of length 1, for a round's price."""
    width = next(p.numel() for n, p in stage.build(stage.study).named_parameters() if n == CENTRE)
    policy = noise_of(stage.study)
    noise = policy.noise_multiplier
    if policy.patient_mu is not None:  # a share of the budget, and no more
        noise = max(noise, math.sqrt(stage.study.training.rounds * stage.steps) / policy.patient_mu)
    multiplier = noise / math.sqrt(policy.sharers * stage.steps)
    return replace(stage, round_number=1, size=width, clip=1.0, steps=1, multiplier=multiplier)


def _low_clip(
    network: nn.Module,
    study: Study,
    size: tuple[int, ...],
    patients: Sequence[PatientImages],
    device: torch.device,
) -> float | None:
    """A norm far below the gradient of every image, so that clipping acts on all of them."""
    weights = [p for p in network.parameters() if p.requires_grad]
    smallest = math.inf
    for one in patients:
        image, label = one.images[:1], one.labels[:1]
        if study.transforms.patches:
            image, label = random_patches(one, [0], size, count=1, generator=torch.Generator().manual_seed(0))
        loss = TASKS[study.task].loss(network(image.to(device)), label.to(device)).mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        smallest = min(smallest, math.hypot(*(float(g.norm()) for g in found if g is not None)))
    return 0.1 * smallest if math.isfinite(smallest) and smallest > 0 else None
