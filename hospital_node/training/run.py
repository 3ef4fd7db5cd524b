"""One hospital's part of one training round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hospital_node.ledger import Charge
from hospital_node.ranks.job import OpenJob
from hospital_node.training.ahead import Ahead
from hospital_node.training.clipped_sum import add_clipped_sum
from hospital_node.training.features import FeatureCache, features, has_features, with_features
from hospital_node.training.gradients import Chosen, Drawn, Loss, draw, runs_in_bfloat16, taken
from hospital_node.training.local_rules import obey_courses, obey_local_rule
from hospital_node.training.mean import noisy_mean
from hospital_node.training.optimizer import PatientOptimizer
from hospital_node.training.shared import PIECE_BYTES, SharedSteps, add_gradients, order_for
from hospital_node.training.uncompiled import uncompiled
from hospital_node.training.whole import NoiseCut, whole_update
from medveil.errors import Error
from medveil.freed import BETWEEN_STEPS, keep_freed
from medveil.noise_policies import JointNoise
from medveil.progress import tell
from medveil.stopping import check_stopped
from medveil.strategies import Courses, OnEverybody, strategy_of
from medveil.study import CENTRE, Study
from medveil.tasks import TASKS
from medveil.tensors import Float32, Update
from medveil_imaging.augmentations import random_change, random_shift, random_shift_pair
from medveil_imaging.models import build_model, load_vector, vector_of
from medveil_imaging.patches import random_patches
from medveil_imaging.patients import Patient, PatientImages, PatientVolumes
from privacy.dp.grid import is_discrete, round_rate, training_grid, travels_whole
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, policy_of, round_event, round_policy


class NoCharge(Error):
    """Private training was asked for without a charge that pays for it."""

    code = "no-charge"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"Private training was refused: {problem}.",
            meaning="Without a charge in the ledger nobody would know what the patients have spent.",
            remedy="Charge this round of this study in the ledger, and hand the receipt to train().",
        )


class Diverged(Error):
    """Training ended in values that are not finite numbers."""

    code = "training-diverged"

    def __init__(self) -> None:
        super().__init__(
            what="Training ended in weights that are not finite numbers.",
            meaning="The learning rate does not suit the model; nothing was sent.",
            remedy="Lower 'learning_rate' in the study.",
        )


STEPS = "steps of training"
"""What is told of how far a round's training is (:mod:`medveil.progress`)."""
Take = Callable[[Patient, Sequence[int]], tuple[torch.Tensor, torch.Tensor]]
"""Some of a patient's images (k, …) and their labels (k, …), as a step begins with them."""


def choose_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class TrainingRound:
    """What the training of one round is handed.

    Args:
        start: the global model, float32 (d,).
        patients: the hospital's training patients.
        number: counted from 1; with the study's number of rounds it sets the learning rate. The first rounds
            of a centred study release the mean of the features (:mod:`hospital_node.training.mean`).
        declared_patients: how many patients the hospital has told the others it has; a public constant.
        noise, charge: needed under differential privacy, unused without it. The charge is marked as begun
            before the first coin is tossed, and pays for one call.
        cache: keeps a model's fixed features from round to round.
        courses: of a study whose strategy steers its hospitals; None as long as nobody has one.
        build: makes the study's network; the self-check and the audit bring their own.
        open_job: starts ranks that share each step's sum; without it this process computes all of it. A
            network on fixed features, the release of a mean, and a study with a filter for each patient are
            computed here in any case.
        filter: what each patient may still add (:class:`privacy.dp.individual.PatientFilter`), for a study
            with one; what they add is booked in it.
    """

    study: Study
    start: Float32 = field(repr=False)
    patients: Sequence[Patient] = field(repr=False)
    _: KW_ONLY
    number: int
    declared_patients: int
    noise: NoiseSource | None
    charge: Charge | None
    device: torch.device
    cache: FeatureCache | None = None
    courses: Courses | None = None
    build: Callable[[Study], nn.Module] = build_model
    open_job: OpenJob | None = None
    filter: PatientFilter | None = None


def train_unchecked(given: TrainingRound) -> Update:
    """Train the global model on this hospital's patients; ``study.privacy`` decides how.

    Only for a study whose self-check has passed, which :func:`hospital_node.training.checked.train` sees to;
    nobody but the self-check itself and an audit of made-up patients comes here past it.

    Returns: trained minus global weights, each coordinate within ``study.secure_aggregation.update_clip``.
    Guarantees: under differential privacy, adding or removing one patient changes the update's distribution
        by no more than :func:`privacy.dp.policy.round_event` says; no global generator is a source of noise.
    Raises:
        NoCharge: private, but no charge for this round and event, or no noise source.
        ChargeUsed: the charge has paid for another call. Diverged: weights are not finite.
        Stopped: nobody waits for it any more.
        JobNotStarted, RankLost and kin (:mod:`hospital_node.ranks.problems`): of ranks. None of them uses up
            the charge (:meth:`Charge.set_down`).
    """
    keep_freed(BETWEEN_STEPS)
    module = given.build(given.study).to(given.device)
    load_vector(module, given.start)
    mean_round = given.number <= given.study.mean_rounds
    if given.study.privacy.kind == "none":
        patients = _ready(given, module)
        with _sharing(given, module) as shared:
            if mean_round:
                _add_mean(given, module, patients)
            else:
                _train_plain(given, module, patients, shared)
    else:
        noise, charge = check_paid(given)
        patients = _ready(given, module)
        with _sharing(given, module) as shared:  # ready before anything is paid
            charge.begin()
            if mean_round:
                moved = _release_mean(given, module, patients, noise)
            else:
                moved = _train_private(given, module, patients, noise, shared)
        if travels_whole(given.study):
            return _whole_update(given, module, moved)
    return _update(given.study, given.start, vector_of(module))


@contextmanager
def _sharing(given: TrainingRound, module: nn.Module) -> Iterator[SharedSteps | None]:
    """The ranks that share this round's steps, where the hospital has them and the network gains by them."""
    alone = is_discrete(given.study) or given.filter is not None
    if given.open_job is None or has_features(module) or alone:
        # A released mean is one of features; ranks add up floats, which discrete noise must not meet.
        yield None
        return
    weight = next(p for p in module.parameters() if p.requires_grad)
    with given.open_job(order_for(given.study, weight.dtype)) as job:
        yield SharedSteps(job, module)


def check_paid(given: TrainingRound) -> tuple[NoiseSource, Charge]:
    """The noise source and the charge that pay for this round. Raises: NoCharge."""
    charge, noise = given.charge, given.noise
    if charge is None:
        raise NoCharge(problem="there is no charge")
    if noise is None:
        raise NoCharge(problem="there is no noise source")
    if (given.filter is None) != (policy_of(given.study).patient_mu is None):
        raise NoCharge(problem="a filter of patients is there without the study's, or the other way round")
    wanted = (round_event(given.study, Split.TRAIN, given.number), given.number, Split.TRAIN)
    if (charge.event, charge.round, charge.split) != wanted:
        raise NoCharge(problem="the charge is for another round or for other noise")
    return noise, charge


def _update(study: Study, before: Float32, after: Float32) -> Update:
    """The difference within the clip. Saturation looks at one noisy result only, so it costs no privacy.

    Where the noise of several hospitals must add up to a Gaussian, a saturated coordinate would lack some of
    it; then the update is refused instead. The recipes leave room for eight standard deviations.
    """
    with np.errstate(all="ignore"):  # what overflows is refused below
        change = np.subtract(after, before, dtype=np.float32)
    if not np.all(np.isfinite(change)):
        raise Diverged()
    limit = np.float32(study.secure_aggregation.update_clip)
    if isinstance(study.privacy, JointNoise) and np.abs(change).max(initial=0) > limit:
        raise NoiseCut()
    return Update(np.clip(change, -limit, limit, out=change))


def _whole_update(
    given: TrainingRound, module: nn.Module, moved: Mapping[nn.Parameter, torch.Tensor]
) -> Update:
    """The update in whole steps of a lane, from what the round's one noisy sum moved and nothing else."""
    mean, centre = given.number <= given.study.mean_rounds, dict(module.named_parameters()).get(CENTRE)
    start = None
    with torch.no_grad():
        load_vector(module, given.start)
        if mean:
            start = _alone(module, {} if centre is None else {centre: centre.clone()})
        values = _alone(module, moved)
    if not np.all(np.isfinite(values)):
        raise Diverged()
    rate = 1.0 if mean else round_rate(given.study, given.number)
    return whole_update(
        given.study, given.number, rate * values, start=start, declared=given.declared_patients
    )


def _alone(module: nn.Module, values: Mapping[nn.Parameter, torch.Tensor]) -> NDArray[np.float64]:
    """The module's vector with these values and zeros elsewhere; float64, shape (d,)."""
    for parameter in module.parameters():
        parameter.zero_()
    for parameter, value in values.items():
        parameter.copy_(value)
    return vector_of(module).astype(np.float64)


def _ready(given: TrainingRound, module: nn.Module) -> Sequence[Patient]:
    """The patients as the trained part wants them: with features instead of images, where these are fixed.

    A released mean is that of the features of the images as they are, whatever later steps do to them.
    """
    study, patients, device = given.study, given.patients, given.device
    varies = _varies(study) and given.number > study.mean_rounds
    if not has_features(module) or varies:
        return patients
    if given.cache is not None:
        return given.cache.get(study, module, patients, device)
    return with_features(module, patients, device)


def _varies(study: Study) -> bool:
    """Whether a step sees other tensors of an image than the step before, so that no feature can be kept."""
    return study.training.varies or study.transforms.patches > 0


def _taken(study: Study, generator: torch.Generator) -> Take:
    """How a step takes some of a patient's images: whole, or patches of each of them."""
    size, count = study.transforms.size, study.transforms.patches
    if not count:
        return lambda patient, which: patient.take(which)
    return lambda patient, which: random_patches(patient, which, size, count=count, generator=generator)


def _prepared(
    given: TrainingRound, module: nn.Module, generator: torch.Generator
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """What happens to images and labels just before a step: augmentation, then fixed features."""
    study, outlines = given.study, TASKS[given.study.task].outlines
    afresh = has_features(module) and _varies(study)
    change = random_change(study, generator) if study.training.augmentations else None

    def prepare(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if study.training.augment and outlines:
            images, labels = random_shift_pair(images, labels, generator)
        elif study.training.augment:
            images = random_shift(images, generator)
        if change is not None:
            images, labels = change(images.to(given.device), labels.to(given.device))
        return (features(module, images, given.device) if afresh else images), labels

    return prepare


def _base_optimizer(given: TrainingRound, module: nn.Module) -> torch.optim.Optimizer:
    training = given.study.training
    weights = [p for p in module.parameters() if p.requires_grad]
    rate = training.learning_rate
    optimizer: torch.optim.Optimizer
    if training.optimizer == "adam":
        optimizer = uncompiled(torch.optim.Adam)(weights, lr=rate)
    elif training.optimizer == "adamw":
        optimizer = uncompiled(torch.optim.AdamW)(weights, lr=rate, weight_decay=training.weight_decay)
    else:
        optimizer = uncompiled(torch.optim.SGD)(weights, lr=rate, momentum=training.momentum)
    obey_local_rule(given.study, optimizer)
    obey_courses(given.study, module, optimizer, given.courses)
    return optimizer


def _set_rate(study: Study, optimizer: torch.optim.Optimizer, round_number: int, done: float) -> None:
    """``done``: share of this round that is over, in [0, 1)."""
    rate = study.training.rate_in(round_number, done)
    for group in optimizer.param_groups:
        group["lr"] = rate


def _release_mean(
    given: TrainingRound, module: nn.Module, patients: Sequence[Patient], noise: NoiseSource
) -> dict[nn.Parameter, torch.Tensor]:
    """Release the mean; returns the centre and what it was set to."""
    centre = module.get_parameter(CENTRE)
    mean = noisy_mean(
        given.study,
        patients,
        width=len(centre),
        declared_patients=given.declared_patients,
        noise=noise,
        device=given.device,
        filter=given.filter,
    )
    centre.copy_(mean)
    return {centre: mean}


def _add_mean(given: TrainingRound, module: nn.Module, patients: Sequence[Patient]) -> None:
    """The mean over patients of their mean features, exactly: without noise only the sum hides it."""
    means = [one.take(range(len(one)))[0].double().mean(0) for one in patients if len(one)]
    centre = module.get_parameter(CENTRE)
    with torch.no_grad():
        centre.copy_(torch.stack(means).mean(0)[: len(centre)])


def _train_private(
    given: TrainingRound,
    module: nn.Module,
    patients: Sequence[Patient],
    noise: NoiseSource,
    shared: SharedSteps | None,
) -> dict[nn.Parameter, torch.Tensor]:
    """Abadi et al., CCS 2016, algorithm 1, with patients as examples.

    Returns: by trained weight, what its last noisy step would make of zero at a learning rate of 1.
    """
    policy, steps = round_policy(given.study, given.number), given.study.training.local_steps or 0
    grid = training_grid(given.study, given.number)
    loss: Loss = TASKS[given.study.task].loss
    take, prepare = _taken(given.study, generator := _entropy()), _prepared(given, module, generator)

    def seen(one: Chosen) -> Drawn:
        return Drawn(*prepare(*take(one.patient, one.which)))

    optimizer = PatientOptimizer(
        _base_optimizer(given, module),
        policy=policy,
        expected_patients=policy.sample_rate * given.declared_patients,
        noise=noise,
        grid=grid,
        filter=given.filter,
    )
    ahead = _ahead(given.study, module, patients)
    piece = None if shared is None else PIECE_BYTES
    for step in range(steps):
        check_stopped()
        _set_rate(given.study, optimizer, given.number, step / steps)
        chosen = draw(patients, policy, noise)
        optimizer.enter([one.patient.patient for one in chosen])
        for drawn in ahead(taken(chosen, seen, most_bytes=piece)):
            add_clipped_sum(optimizer, module, loss, drawn, device=given.device, shared=shared)
        optimizer.finish_step()
        tell(STEPS, step + 1, steps)
    return {parameter: -gradient for parameter, gradient in optimizer.released.items()}


def _train_plain(
    given: TrainingRound, module: nn.Module, patients: Sequence[Patient], shared: SharedSteps | None
) -> None:
    study, device, generator = given.study, given.device, _entropy()
    task, optimizer = TASKS[study.task], _base_optimizer(given, module)
    take, prepare = _taken(study, generator), _prepared(given, module, generator)
    places = [(i, k) for i, patient in enumerate(patients) for k in range(len(patient))]
    wanted, pieces = steps_in_round(study, len(places)), _pieces(study, len(places))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        for batch in _batches(study, len(places), generator):
            check_stopped()
            chosen = [places[b] for b in batch.tolist()]
            parts = [take(patients[i], [k]) for i, k in chosen]
            share = len(chosen) / len(places) if pieces > 1 else 1.0
            yield *prepare(*(torch.cat(part) for part in zip(*parts, strict=True))), share

    for place, (images, labels, share) in enumerate(_ahead(study, module, patients)(batches())):
        check_stopped()
        if place % pieces == 0:
            _set_rate(study, optimizer, given.number, place / pieces / wanted)
            optimizer.zero_grad(set_to_none=True)
        if shared is not None:
            add_gradients(shared.mean_gradient(images, labels), share)
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=runs_in_bfloat16(module, device)):
                logits = module(images.to(device))
            torch.autograd.backward(share * task.loss(logits.float(), labels.to(device)).mean())
        if (place + 1) % pieces:
            continue
        if study.training.gradient_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), study.training.gradient_norm)
        optimizer.step()
        tell(STEPS, (place + 1) // pieces, wanted)


def _ahead(study: Study, module: nn.Module, patients: Sequence[Patient]) -> Ahead:
    """What steps see is made while the step before is computed, unless the network has a part in it."""
    costly = study.training.augmentations or study.transforms.patches or not _in_memory(patients)
    return Ahead(worth_it=bool(costly) and not has_features(module))


def _in_memory(patients: Sequence[Patient]) -> bool:
    return not patients or isinstance(patients[0], PatientImages | PatientVolumes)


def _batches(study: Study, count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Index batches of one round: whole passes over shuffled images, or that many steps of such passes."""
    if count == 0:
        return
    parts, wanted = _parts(study, count), steps_in_round(study, count) * _pieces(study, count)
    while wanted > 0:
        shuffled = torch.randperm(count, generator=generator).tensor_split(parts)
        yield from shuffled[:wanted]
        wanted -= parts


def steps_in_round(study: Study, images: int) -> int:
    """Optimiser steps that a hospital with so many training images makes in a round."""
    return study.training.local_steps or _parts(study, images) * (study.training.local_epochs or 1)


def _pieces(study: Study, count: int) -> int:
    """Batches whose gradients make one step."""
    return _parts(study, count) if isinstance(strategy_of(study), OnEverybody) else 1


def _parts(study: Study, count: int) -> int:
    """Batches of one pass."""
    return max(1, math.ceil(count / study.training.batch_images))


def _entropy() -> torch.Generator:
    """A generator for shuffling and augmentation, seeded by the operating system. Never a source of noise."""
    generator = torch.Generator()
    generator.seed()
    return generator
