"""The audit: how much the product's own train() and release() give away about made-up patients, measured.

The promise is a ceiling; an audit measures from below. Canaries are patients whose gradients are one
coordinate each, so that none hides behind another, on the schedule, noise and clip of the study as it
stands. Each is in or out by its own coin for all of a run; afterwards whoever knows everything else
guesses from what left the hospital which it was. Every canary has two equal images, so that counting
images instead of patients shows.

What it sees is draw, step loop, clip, noise, divisor and schedule of train(), the private mean, and
release(). The study's own network is not in it; a stand-in of as many weights as there are canaries is.
That its gradients are bounded is the self-check's to see, with which an audit begins. Nor can it see
that noise is predictable to somebody who knows a seed; the self-check does that, too. Validation in
every round is not played.

Source: Steinke, Nasr, Jagielski, NeurIPS 2023 (canaries in one run); Andrew et al., ICLR 2024 (one
coordinate each, Gaussian fit).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hospital_node.training import TrainingRound, evaluate, release
from hospital_node.training.checks import require_safe
from hospital_node.training.features import FeatureCache
from hospital_node.training.optimizer import MARGIN
from hospital_node.training.run import train_unchecked
from hospital_node.training.unbooked import unbooked_charge, unbooked_filter
from medveil.metrics import bounded, noise_scales
from medveil.study import CENTRE, Study
from medveil.tasks import TASKS, Sums
from medveil.tensors import Float32, unflatten
from medveil_imaging.models import outputs_for, spec_of, vector_of
from medveil_imaging.patients import PatientImages
from medveil_research.audit_bounds import Finding, Inside, Scores, examine
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, mean_policy, paid_events, policy_of, round_policy

CPU = torch.device("cpu")
CANARIES_A_RUN = 2048
DECLARED = 1000
WEIGHT = "head.weight"
LONG = 100.0
"""Clips: the length of a canary's gradient before it is shortened."""
IMAGES = 2
LEAST, MOST = 16384, 65536
"""Canaries of an audit that chooses their number by itself."""
PRECISION = 0.03
"""Relative standard error of the fitted epsilon that it aims at."""


@dataclass(frozen=True)
class Progress:
    """How far an audit is."""

    part: str
    done: int
    total: int
    unit: str


Tell = Callable[[Progress], None]


def audit(study: Study, *, canaries: int | None = None, tell: Tell = lambda _: None) -> tuple[Finding, ...]:
    """Self-check, then canaries through the whole schedule of training and through the final evaluation.

    Args:
        canaries: of training, in runs of ``CANARIES_A_RUN`` at most, and of as many evaluations, one each;
            None: :func:`enough`.
        tell: hears of progress.

    Returns: what was found about patients of ``train``, and of ``test``.
    Raises:
        NotPrivate: the study has no noise, so there is no claim to hold it against.
        NotSafe: the self-check failed, and training would be refused.
    """
    policy_of(study)
    require_safe(study, CPU)
    return (
        _training(study, canaries or enough(study), tell),
        _evaluation(study, canaries or enough(study), tell),
    )


def theory(study: Study) -> float:
    """mu of a patient over all training rounds if the code does what it says."""
    policy, events = policy_of(study), paid_events(study)[Split.TRAIN]
    own = math.fsum(event.steps / event.noise_multiplier**2 for event in events)
    return policy.sample_rate * math.sqrt(own / policy.sharers)


def enough(study: Study) -> int:
    """Canaries after which the fitted epsilon has a standard error of about ``PRECISION``, within reason.

    Small epsilons want more: the fitted mu has an error of 2 / sqrt(canaries) whatever its size, and
    epsilon goes about with mu.
    """
    return min(MOST, max(LEAST, round((2 / (PRECISION * theory(study))) ** 2)))


# ---- training ----


class _StandIn(nn.Module):
    """As many weights as canaries; the gradient of canary i is coordinate i, whatever the weights are.

    "Images" are features already: (k, 1), the canary's number; or (k, canaries + 1) for the private mean.
    """

    frozen_features = True

    def __init__(self, study: Study, weights: int) -> None:
        super().__init__()
        self.head = nn.Module()
        self.head.weight = nn.Parameter(torch.zeros(weights))
        if study.centred:
            self.head.centre = nn.Parameter(torch.zeros(weights), requires_grad=False)
        self.outputs = outputs_for(study.task, study.classes)
        self.edges: tuple[int, ...] = ()
        if TASKS[study.task].outlines:  # a voxel for each structure
            self.edges = (len(study.classes) - 1, *(1 for _ in study.transforms.size[1:]))
        self.size = 1.0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """They are features already."""
        return images

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits of value 0; that of the last class has the slope ``size`` in the canary's weight."""
        weight = self.head.weight.gather(0, values[:, 0].long())  # type: ignore[operator]
        slope = self.size * (weight - weight.detach())
        logits = torch.stack([slope * (place == self.outputs - 1) for place in range(self.outputs)], 1)
        return logits.reshape(*logits.shape, *(1 for _ in self.edges)).expand(*logits.shape, *self.edges)


@dataclass(frozen=True)
class _Stage:
    study: Study
    network: _StandIn
    canaries: tuple[PatientImages, ...]
    pictures: tuple[PatientImages, ...]
    """The same for the private mean; empty where there is none."""
    vector: Float32

    @property
    def sharers(self) -> int:
        """Hospitals of the sum; all but the first have noise and no patients."""
        return policy_of(self.study).sharers


def _stage(study: Study, count: int) -> _Stage:
    network = _StandIn(study, count)
    drawn = TASKS[study.task].made_up_labels(study, 1, network.edges, torch.Generator().manual_seed(0))
    label = drawn.expand(IMAGES, *drawn.shape[1:])
    numbers = torch.arange(count, dtype=torch.float32)
    canaries = tuple(PatientImages(str(i), n.expand(IMAGES, 1), label) for i, n in enumerate(numbers))
    pictures: tuple[PatientImages, ...] = ()
    if study.centred:
        ones = torch.eye(count, count + 1)
        pictures = tuple(PatientImages(str(i), one.expand(IMAGES, -1), label) for i, one in enumerate(ones))
    loss = TASKS[study.task].loss(network(canaries[0].images), label).mean()
    slope = float(torch.autograd.grad(loss, network.get_parameter("head.weight"))[0].sum())  # of either sign
    network.size = LONG * policy_of(study).clip_norm / slope
    changed = {
        # What the sum's encoding does with an update comes after the noise and is not looked at.
        "secure_aggregation": study.secure_aggregation.model_copy(update={"update_clip": 1e30}),
        "model": study.model.model_copy(update={"tensors": spec_of(network)}),
        # A canary is a number and no volume; that patches count once is the self-check's to see.
        "transforms": study.transforms.model_copy(update={"patches": 0}),
        "training": study.training.model_copy(update={"augment": False, "augmentations": {}}),
    }
    return _Stage(study.model_copy(update=changed), network, canaries, pictures, vector_of(network))


def _training(study: Study, canaries: int, tell: Tell) -> Finding:
    runs = math.ceil(canaries / CANARIES_A_RUN)
    stage = _stage(study, math.ceil(canaries / runs))
    rounds, played = study.training.rounds, []
    for run in range(runs):
        inside = _coins(len(stage.canaries))
        scores = np.zeros(len(stage.canaries))
        for number, score in enumerate(_rounds(stage, inside), start=1):
            scores += score
            tell(Progress("training", run * rounds + number, runs * rounds, "rounds"))
        played.append((scores, inside))
    return _found(study, Split.TRAIN, played, theory(study))


def _found(study: Study, split: Split, played: Sequence[tuple[Scores, Inside]], theory: float) -> Finding:
    policy = policy_of(study)
    scores, inside = (np.concatenate(parts) for parts in zip(*played, strict=True))
    return examine(
        scores,
        inside,
        split=split.value,
        claim=policy.epsilon,
        delta=policy.delta,
        runs=len(played),
        theory=theory,
    )


def _coins(count: int) -> Inside:
    """A fair coin for each canary."""
    return np.asarray(np.frombuffer(secrets.token_bytes(count), np.uint8) % 2 == 1)


def _rounds(stage: _Stage, inside: Inside) -> Iterator[Scores]:
    """What each round says about each canary: its coordinate, weighed as the round's signal is to its noise.

    Every round starts from the same weights: the gradients do not depend on them, and so nothing does.
    """
    study, cache = stage.study, FeatureCache()
    here = tuple(one for one, there in zip(stage.canaries, inside, strict=True) if there)
    pictures = tuple(one for one, there in zip(stage.pictures, inside, strict=False) if there)
    filters = [unbooked_filter(study, () if k else here) for k in range(stage.sharers)]
    likewise = unbooked_filter(study, stage.canaries[:1])
    for number in range(1, study.training.rounds + 1):
        mean = number <= study.mean_rounds
        update = np.zeros(len(stage.vector))
        for hospital in range(stage.sharers):
            patients = () if hospital else pictures if mean else here
            given = TrainingRound(
                study,
                stage.vector,
                patients,
                number=number,
                declared_patients=DECLARED,
                noise=NoiseSource.fresh(),
                charge=unbooked_charge(study, round_number=number, split=Split.TRAIN),
                device=CPU,
                cache=cache,
                build=lambda _: stage.network,
                filter=filters[hospital],
            )
            update += train_unchecked(given).values
        shares = _shares(study, likewise, number, mean=mean)
        yield _score(study, unflatten(update.astype(np.float32), study.model.tensors), number, shares)


def _shares(study: Study, filter: PatientFilter | None, number: int, *, mean: bool) -> NDArray[np.float64]:
    """How long a canary's gradient is in each step of a round, in clipping norms; shape (steps,)."""
    policy, steps = round_policy(study, number), study.training.local_steps or 1
    if mean:
        policy, steps = mean_policy(study), 1
    shares = np.ones(steps)
    if filter is not None:
        for step in range(steps):
            shares[step : step + 1] = filter.shares(["0"], policy.own_multiplier)
            filter.book(["0"], MARGIN * shares[step : step + 1], policy.own_multiplier)
    return shares


def _score(study: Study, update: Mapping[str, Float32], number: int, shares: NDArray[np.float64]) -> Scores:
    """Signal over noise, times what was found over noise, in units of the round's own noise.

    Summed over rounds, those who were out have mean 0, those who were in theory squared, with a deviation of
    theory, as far as the code does what it says.
    """
    policy = round_policy(study, number)
    if number <= study.mean_rounds:  # one step of length 1
        share = float(shares[0]) / mean_policy(study).noise_multiplier ** 2
        return update[CENTRE].astype(np.float64) * DECLARED * share
    strides = _strides(study, number)
    signal, noise = -float(strides @ shares), policy.noise_multiplier * float(np.linalg.norm(strides))
    found = update[WEIGHT].astype(np.float64) * policy.sample_rate * DECLARED / policy.clip_norm
    return policy.sample_rate * signal / noise**2 * found


def _strides(study: Study, number: int) -> NDArray[np.float64]:
    """By how much each step's gradient moves the weights that leave the round; Adam's as if equal."""
    training, steps = study.training, study.training.local_steps or 1
    rates = np.array([training.rate_in(number, t / steps) for t in range(steps)])
    if training.optimizer == "adam" or not training.momentum:
        return rates
    return np.array([float(rates[t:] @ training.momentum ** np.arange(steps - t)) for t in range(steps)])


# ---- the final evaluation ----


def _evaluation(study: Study, count: int, tell: Tell) -> Finding:
    """As many evaluations as canaries, of one each: they all fall into the same few counts."""
    stage = _stage(study, 1)
    canary, share, length = _loudest(stage)
    scales = noise_scales(study)
    inside, scores = _coins(count), np.zeros(count)
    for place, there in enumerate(inside):
        for hospital in range(stage.sharers):
            sums = release(
                stage.study,
                stage.vector,
                (canary,) if there and not hospital else (),
                noise=NoiseSource.fresh(),
                charge=unbooked_charge(stage.study, round_number=study.training.rounds + 1, split=Split.TEST),
                device=CPU,
                build=lambda _: stage.network,
            )
            scores[place] += sum(float(share[n] @ sums[n]) / scales[n] ** 2 for n in scales)
        if place % 64 == 63 or place + 1 == count:
            tell(Progress("final evaluation", place + 1, count, "evaluations"))
    multiplier = policy_of(study).evaluation_multiplier
    return _found(study, Split.TEST, [(scores, inside)], length / multiplier)


def _loudest(stage: _Stage) -> tuple[PatientImages, Sums, float]:
    """The patient with the largest share of the released sums, that share, and its length in noises."""
    study, scales = stage.study, noise_scales(stage.study)
    images, found = torch.zeros(IMAGES, 1), []
    with torch.no_grad():
        logits = stage.network(images)
    for labels in TASKS[study.task].telling_labels(study, logits):
        groups = {name: each.names[0] for name, each in study.evaluation.groups.items()}
        one = PatientImages("canary", images, labels, groups)
        sums = evaluate(study, stage.vector, (one,), device=CPU, build=lambda _: stage.network)
        share = bounded(study, sums)
        found.append((one, share, math.hypot(*(float(np.linalg.norm(share[n])) / scales[n] for n in scales))))
    return max(found, key=lambda one: one[2])
