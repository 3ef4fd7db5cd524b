"""The audit: how much the product's own train() and release() give away about made-up patients, measured.

The promise is a ceiling; an audit measures from below. Canaries are patients whose gradients are one
coordinate each, so that none hides behind another, on the schedule, noise and clip of the study as it
stands. Each is in or out by its own coin for all of a run; afterwards whoever knows everything else
guesses from what left the hospital which it was. Every canary has two equal images, so that counting
images instead of patients shows.

What it sees is draw, step loop, clip, filter, noise, divisor and schedule of train(), the private mean,
release(), and the sum that is opened: the product's own encoding with each hospital's weight, added up and
decoded. Where noise is shared, as many hospitals are played as the study counts on.

The study's own network is not in it; a stand-in of as many weights as there are canaries is. That its
gradients are bounded is the self-check's to see, with which an audit begins. Nor can it see that noise is
predictable to somebody who knows a seed; the self-check does that, too. Validation in every round is not
played.

Source: Steinke, Nasr, Jagielski, NeurIPS 2023 (canaries in one run); Andrew et al., ICLR 2024 (one
coordinate each, Gaussian fit).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from medveil.rounds import RoundKind
from medveil.study import CENTRE, Study
from medveil.tasks import TASKS, Sums
from medveil.tensors import Float32, Update, unflatten
from medveil_imaging.models import outputs_for, spec_of, vector_of
from medveil_imaging.patients import PatientImages
from medveil_research.audit_bounds import Finding, Inside, Scores, examine
from privacy.dp import accounting
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, mean_policy, paid_events, policy_of, round_policy, sharers_of
from privacy.encoding import Encoder, decode, decode_metrics, encode_metrics, params_for

CPU = torch.device("cpu")
CANARIES_A_RUN = 2048
DECLARED = 1000
"""Patients that a played hospital declares, or as many as the study admits."""
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


def audit(
    study: Study,
    *,
    canaries: int | None = None,
    splits: Collection[Split] = (Split.TRAIN, Split.TEST),
    alone: bool = False,
    tell: Tell = lambda _: None,
) -> tuple[Finding, ...]:
    """Self-check, then canaries through the whole schedule of training and through the final evaluation.

    Args:
        canaries: of training, in runs of ``CANARIES_A_RUN`` at most, and of as many evaluations, one each;
            None: :func:`enough`.
        splits: whose patients to measure: those of training, of the final evaluation, or both.
        alone: hold what leaves one hospital to the price against everybody, instead of the sum of as many as
            are counted on to what the study states.
        tell: hears of progress.

    Returns: what was found about patients of ``train``, and of ``test``, in this order.
    Raises:
        NotPrivate: the study has no noise, so there is no claim to hold it against.
        NotSafe: the self-check failed, and training would be refused.
    """
    policy_of(study)
    require_safe(study, CPU)
    parts = {Split.TRAIN: _training, Split.TEST: _evaluation}
    count = canaries or enough(study)
    return tuple(part(study, count, tell, alone) for split, part in parts.items() if split in splits)


def theory(study: Study, *, alone: bool = False) -> float:
    """mu of a patient over all training rounds if the code does what it says, by what is counted on."""
    policy, events = policy_of(study), paid_events(study)[Split.TRAIN]
    own = math.fsum(event.steps / event.noise_multiplier**2 for event in events)
    return policy.sample_rate * math.sqrt(own / _played(study, Split.TRAIN, alone))


def enough(study: Study) -> int:
    """Canaries after which the fitted epsilon has a standard error of about ``PRECISION``, within reason.

    Small epsilons want more: the fitted mu has an error of 2 / sqrt(canaries) whatever its size, and
    epsilon goes about with mu.
    """
    return min(MOST, max(LEAST, round((2 / (PRECISION * theory(study))) ** 2)))


def _played(study: Study, split: Split, alone: bool) -> int:
    """Hospitals of a sum about these patients."""
    return 1 if alone else sharers_of(study, split)


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
    def declared(self) -> int:
        """Patients that each hospital has told the others."""
        return min(DECLARED, self.study.secure_aggregation.max_weight)


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
        # Which part of an update is sent is decided after the noise; the audit looks at all of it.
        "compression": None,
        "model": study.model.model_copy(update={"tensors": spec_of(network), "personal": ()}),
        "evaluation": study.evaluation.model_copy(update={"every_round": False}),
        # A canary is a number and no volume; that patches count once is the self-check's to see.
        "transforms": study.transforms.model_copy(update={"patches": 0}),
        "training": study.training.model_copy(update={"augment": False, "augmentations": {}}),
    }
    return _Stage(study.model_copy(update=changed), network, canaries, pictures, vector_of(network))


def _training(study: Study, canaries: int, tell: Tell, alone: bool = False) -> Finding:
    runs = math.ceil(canaries / CANARIES_A_RUN)
    stage = _stage(study, math.ceil(canaries / runs))
    rounds, played, hospitals = study.training.rounds, [], _played(study, Split.TRAIN, alone)
    for run in range(runs):
        inside = _coins(len(stage.canaries))
        scores = np.zeros(len(stage.canaries))
        for number, score in enumerate(_rounds(stage, inside, hospitals), start=1):
            scores += score
            tell(Progress("training", run * rounds + number, runs * rounds, "rounds"))
        played.append((scores, inside))
    return _found(study, Split.TRAIN, played, theory(study, alone=alone), alone)


def _found(
    study: Study, split: Split, played: Sequence[tuple[Scores, Inside]], theory: float, alone: bool
) -> Finding:
    policy = policy_of(study)
    scores, inside = (np.concatenate(parts) for parts in zip(*played, strict=True))
    return examine(
        scores,
        inside,
        split=split.value,
        claim=accounting.epsilon(paid_events(study)[split], policy.delta) if alone else policy.epsilon,
        delta=policy.delta,
        runs=len(played),
        theory=theory,
    )


def _coins(count: int) -> Inside:
    """A fair coin for each canary."""
    return np.asarray(np.frombuffer(secrets.token_bytes(count), np.uint8) % 2 == 1)


def _rounds(stage: _Stage, inside: Inside, hospitals: int) -> Iterator[Scores]:
    """What each round says about each canary: its coordinate, weighed as the round's signal is to its noise.

    Every round starts from the same weights: the gradients do not depend on them, and so nothing does. All
    hospitals of the sum but the first have noise and no patients.
    """
    study, cache = stage.study, FeatureCache()
    here = tuple(one for one, there in zip(stage.canaries, inside, strict=True) if there)
    pictures = tuple(one for one, there in zip(stage.pictures, inside, strict=False) if there)
    filters = [unbooked_filter(study, () if k else here) for k in range(hospitals)]
    likewise = unbooked_filter(study, stage.canaries[:1])
    for number in range(1, study.training.rounds + 1):
        mean = number <= study.mean_rounds
        updates = []
        for hospital in range(hospitals):
            patients = () if hospital else pictures if mean else here
            given = TrainingRound(
                study,
                stage.vector,
                patients,
                number=number,
                declared_patients=stage.declared,
                noise=NoiseSource.fresh(),
                charge=unbooked_charge(study, round_number=number, split=Split.TRAIN),
                device=CPU,
                cache=cache,
                build=lambda _: stage.network,
                filter=filters[hospital],
            )
            updates.append(train_unchecked(given))
        shares = _shares(study, likewise, number, mean=mean)
        yield _score(stage, unflatten(_opened(stage, updates, number), study.model.tensors), number, shares)


def _opened(stage: _Stage, updates: Sequence[Update], number: int) -> Float32:
    """The sum of the hospitals' updates that a round opens: each weighted, in whole steps of a lane."""
    study = stage.study
    params = params_for(study, RoundKind.TRAIN, study.cohort.max_hospitals, number)
    total = np.zeros(params.words, np.uint64)
    for update in updates:
        encoder = Encoder(
            update,
            params,
            weight=study.secure_aggregation.weight_of(stage.declared),
            metrics=np.zeros(0, np.uint64),
            random_bytes=secrets.token_bytes,
        )
        words = np.empty(params.packed_words, "<u8")
        encoder.write(0, words)
        total += np.concatenate([words, encoder.tail()])
    return len(updates) * decode(total, params, hospitals=len(updates), study=study).mean


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


def _score(stage: _Stage, update: Mapping[str, Float32], number: int, shares: NDArray[np.float64]) -> Scores:
    """Signal over noise, times what was found over noise, in units of the round's own noise.

    Summed over rounds, those who were out have mean 0, those who were in theory squared, with a deviation of
    theory, as far as the code does what it says.
    """
    study, declared = stage.study, stage.declared
    policy = round_policy(study, number)
    if number <= study.mean_rounds:  # one step of length 1
        share = float(shares[0]) / mean_policy(study).noise_multiplier ** 2
        return update[CENTRE].astype(np.float64) * declared * share
    strides = _strides(study, number)
    signal, noise = -float(strides @ shares), policy.noise_multiplier * float(np.linalg.norm(strides))
    found = update[WEIGHT].astype(np.float64) * policy.sample_rate * declared / policy.clip_norm
    return policy.sample_rate * signal / noise**2 * found


def _strides(study: Study, number: int) -> NDArray[np.float64]:
    """By how much each step's gradient moves the weights that leave the round; Adam's as if equal."""
    training, steps = study.training, study.training.local_steps or 1
    rates = np.array([training.rate_in(number, t / steps) for t in range(steps)])
    if training.optimizer == "adam" or not training.momentum:
        return rates
    return np.array([float(rates[t:] @ training.momentum ** np.arange(steps - t)) for t in range(steps)])


# ---- the final evaluation ----


def _evaluation(study: Study, count: int, tell: Tell, alone: bool = False) -> Finding:
    """As many evaluations as canaries, of one each: they all fall into the same few counts."""
    stage = _stage(study, 1)
    canary, share, length = _loudest(stage)
    scales, hospitals = noise_scales(stage.study), _played(study, Split.TEST, alone)
    inside, scores = _coins(count), np.zeros(count)
    for place, there in enumerate(inside):
        released = [
            release(
                stage.study,
                stage.vector,
                (canary,) if there and not hospital else (),
                noise=NoiseSource.fresh(),
                charge=unbooked_charge(stage.study, round_number=study.training.rounds + 1, split=Split.TEST),
                device=CPU,
                build=lambda _: stage.network,
            )
            for hospital in range(hospitals)
        ]
        sums = _opened_figures(stage.study, released)
        scores[place] = sum(float(share[n] @ sums[n]) / scales[n] ** 2 for n in scales)
        if place % 64 == 63 or place + 1 == count:
            tell(Progress("final evaluation", place + 1, count, "evaluations"))
    multiplier = policy_of(study).evaluation_multiplier * math.sqrt(hospitals / sharers_of(study, Split.TEST))
    return _found(study, Split.TEST, [(scores, inside)], length / multiplier, alone)


def _opened_figures(study: Study, released: Sequence[Sums]) -> Sums:
    """The hospitals' sums added up as they travel, in whole steps of the grid of figures."""
    most = study.cohort.max_hospitals
    words = [encode_metrics(study, sums, place=k, cohort=most) for k, sums in enumerate(released)]
    total = np.stack(words).sum(axis=0, dtype=np.uint64)
    return decode_metrics(total, study, hospitals=len(released), cohort=most)


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
