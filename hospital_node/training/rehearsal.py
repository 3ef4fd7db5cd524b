"""The rehearsal: the product's own train() and release() on made-up patients, with noise that is known.

The other self-checks look at parts: gradients, clipping, the key stream. This one walks through the door that
patients' data takes, and holds three facts against it that together are the promise of a Gaussian mechanism:

1. What leaves is made of "sum over patients plus noise" and of nothing else about the patients.
2. One patient, with four images, moves that sum by the bound at most where its coin fell, else not at all.
3. The noise is asked for anew in every step, at the size that the ledger is paid for, and enters whole.

It cannot see: which noise source a real round hands in (a test watches the node do it); code that treats the
rehearsal unlike a real round; random shifts of images (switched off here); rounds other than the first, or
the first two of a centred study; larger cohorts than the rehearsal's dozen patients, more steps a round than
``MOST_STEPS``, volumes of full size, a GPU that runs out of memory; what happens to an update after train():
encoding, masks, weights, the copy kept for sending again. Whether the events that a ledger is charged with
cost what the study says is the accountant's question (:mod:`privacy.dp.policy`); an audit measures it.
"""

from __future__ import annotations

import copy
import math
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hospital_node.ledger import Charge, ChargeUsed
from hospital_node.training import evaluation, run
from hospital_node.training.checks import NotSafe
from hospital_node.training.features import FeatureCache
from hospital_node.training.optimizer import GRID_BITS
from hospital_node.training.unbooked import unbooked_charge
from medveil.study import CENTRE, GaussianNoise, Study
from medveil.tasks import TASKS, Sums
from medveil.tensors import Float32
from medveil_imaging.models import vector_of
from medveil_imaging.patients import PatientImages
from privacy.dp.ledger import State
from privacy.dp.noise import KEY_BYTES, NoiseSource
from privacy.dp.policy import Split, study_events

OTHERS = (1, 2)
"""Images of the patients who are there in both worlds."""
COMPANY = 9
"""The same for evaluation."""
CANARY_IMAGES = 4
"""Equal images, so that their gradients point one way: whoever counts images counts to four."""
DECLARED = 10
MOST_STEPS = 32
MOST_VALUES = 2**24
"""Weights times steps of one rehearsal."""
LABELS = 8
"""Labels of a study of which each has a canary in the evaluation."""
LEAST = 1e-3
"""Bounds by which an ordinary patient moves a sum at least."""
SLACK = 1e-3
"""By so much may one patient pass the bound."""

BEGUN = (State.RUNNING.value,)
Float64 = NDArray[np.float64]


class _Scripted(NoiseSource):
    """Gives the values of a script, and writes down what it was asked for."""

    def __init__(
        self, *, noise: Float64, coins: Sequence[NDArray[np.bool_]] = (), real: bool = False
    ) -> None:
        super().__init__(secrets.token_bytes(KEY_BYTES))
        self.asked: list[tuple[Any, ...]] = []
        self.given: list[Float64] = []
        self._noise, self._coins, self._real = noise, list(coins), real

    def gaussian(self, size: int, scale: float) -> Float64:
        self.asked.append(("noise", size, scale))
        values, self._noise = self._noise[:size], self._noise[size:]
        if len(values) < size:
            raise NotSafe(check="noise", problem="more noise was drawn than the steps need")
        self.given.append(values * scale if self._real else values)
        return self.given[-1].copy()

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        self.asked.append(("coins", count, rate))
        if not self._coins or len(self._coins[0]) != count:
            raise NotSafe(check="draw", problem="coins are not tossed once a step for every patient")
        return self._coins.pop(0)

    def choose(self, count: int, wanted: int) -> NDArray[np.intp]:
        return np.arange(min(count, wanted))


@dataclass(frozen=True)
class _Stage:
    """One kind of round as it is rehearsed, and what it must do."""

    study: Study
    build: Callable[[Study], nn.Module]
    vector: Float32
    device: torch.device
    others: tuple[PatientImages, ...]
    canary: PatientImages
    round_number: int
    size: int
    """Values of a step's sum."""
    clip: float
    multiplier: float
    """Of one hospital's own noise, computed here from what the study says."""
    steps: int

    @property
    def constant(self) -> float:
        """What a sum is divided by."""
        return _noise_of(self.study).sample_rate * DECLARED

    @property
    def entering(self) -> list[tuple[bool, bool]]:
        """Whether the others and whether the canary enter, by step; most steps are noise only."""
        script = [(False, False)] * self.steps
        script[-1] = script[0] = (True, True)
        if self.steps > 2:
            script[1] = (True, False)
        return script


@dataclass(frozen=True)
class _Take:
    """What one run of train() asked for, stepped with and returned."""

    asked: list[tuple[Any, ...]]
    given: Float64
    gradients: list[torch.Tensor] = field(repr=False)
    update: Float32 = field(repr=False)


def rehearse(study: Study, module: nn.Module, *, size: tuple[int, ...], device: torch.device) -> None:
    """Walk a study's rounds through train() and release(), against the three facts above.

    Args:
        module: the network as it stands; it is copied. size: of the made-up images.

    Raises:
        NotSafe: ``charge``, ``draw``, ``noise``, ``one-patient``, ``way-out`` or ``evaluation``.
    """
    policy = _noise_of(study)
    network = copy.deepcopy(module).float().to(device)
    canary, others = _made_up(study, size)
    steps = study.training.local_steps or 1
    weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
    few = min(steps, MOST_STEPS, max(3, MOST_VALUES // max(weights, 1)))
    clip = _low_clip(network, study, [canary, *others], device) or policy.clip_norm
    staged = _staged(study, size=size, clip=clip, steps=few)
    stage = _Stage(
        study=staged,
        build=lambda _: copy.deepcopy(network),
        vector=vector_of(network),
        device=device,
        others=tuple(others),
        canary=canary,
        round_number=2 if study.centred else 1,
        size=weights,
        clip=clip,
        multiplier=policy.noise_multiplier / math.sqrt(policy.sharers),
        steps=few,
    )
    _rehearse_round(stage)
    if study.centred:
        _rehearse_round(_mean_stage(stage))
    for split in study_events(study):
        if split is not Split.TRAIN:
            _rehearse_release(stage, split)


def _noise_of(study: Study) -> GaussianNoise:
    if not isinstance(study.privacy, GaussianNoise):
        raise TypeError("a noise policy is needed")
    return study.privacy


def _staged(study: Study, *, size: tuple[int, ...], clip: float, steps: int) -> Study:
    """The study with small images, without random shifts, and with a stride that suits the clip."""
    rate = 1e-3
    if study.training.optimizer == "sgd":
        rate = 0.05 * _noise_of(study).sample_rate * DECLARED / clip
    changed = {"local_steps": steps, "augment": False, "learning_rate": rate}
    return study.model_copy(
        update={
            "transforms": study.transforms.model_copy(update={"size": size}),
            "training": study.training.model_copy(update=changed),
            "privacy": study.privacy.model_copy(update={"clip_norm": clip}),
            "secure_aggregation": study.secure_aggregation.model_copy(update={"update_clip": 1e30}),
        }
    )


def _mean_stage(stage: _Stage) -> _Stage:
    """The round of the private mean: one step, everybody, features of length 1, for a round's price."""
    width = next(p.numel() for n, p in stage.build(stage.study).named_parameters() if n == CENTRE)
    multiplier = stage.multiplier / math.sqrt(stage.steps)
    return replace(stage, round_number=1, size=width, clip=1.0, steps=1, multiplier=multiplier)


def _made_up(study: Study, size: tuple[int, ...]) -> tuple[PatientImages, list[PatientImages]]:
    """The canary, whose images are equal, and the others."""
    generator = torch.Generator().manual_seed(1)
    shape = size if TASKS[study.task].outlines else ()

    def patient(name: str, count: int) -> PatientImages:
        images = torch.randn(count, 1, *size, generator=generator)
        return PatientImages(
            name, images, torch.randint(len(study.classes), (count, *shape), generator=generator)
        )

    one = patient("canary", 1)
    wide = (CANARY_IMAGES, *(-1,) * one.images[0].ndim)
    labels = one.labels.expand(CANARY_IMAGES, *shape).clone() * bool(shape)  # films: of the first class
    return (
        PatientImages("canary", one.images.expand(wide).clone(), labels),
        [patient(f"other-{i}", count) for i, count in enumerate(OTHERS)],
    )


def _low_clip(
    network: nn.Module, study: Study, patients: Sequence[PatientImages], device: torch.device
) -> float | None:
    """A norm far below the gradient of every image, so that clipping acts on all of them."""
    weights = [p for p in network.parameters() if p.requires_grad]
    smallest = math.inf
    for image, label in {id(p): (p.images[:1], p.labels[:1]) for p in patients}.values():
        loss = TASKS[study.task].loss(network(image.to(device)), label.to(device)).mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        smallest = min(smallest, math.hypot(*(float(g.norm()) for g in found if g is not None)))
    return 0.1 * smallest if math.isfinite(smallest) and smallest > 0 else None


def _charge(stage: _Stage, split: Split, number: int, source: _Scripted) -> Charge:
    def told(state: State) -> None:
        source.asked.append((state.value,))

    return unbooked_charge(stage.study, round_number=number, split=split, told=told)


def _check_spent(charge: Charge) -> None:
    """A charge must pay for one run only."""
    try:
        charge.begin()
    except ChargeUsed:
        return
    raise NotSafe(check="charge", problem="a charge pays for a second run")


# ---- a training round ----


def _rehearse_round(stage: _Stage) -> None:
    """With nobody, without the canary, and with it and other noise: see the module's three facts."""
    generator = np.random.Generator(np.random.PCG64(2))
    short = stage.clip / math.sqrt(stage.size)
    plain = generator.standard_normal(stage.steps * stage.size)
    other = generator.standard_normal(stage.steps * stage.size) * 100 * short
    large = plain.copy()
    large[:: max(1, stage.size // 16)] *= 4  # rare sizes, too
    _check_noise_only(stage, _take(stage, noise=large, nobody=True))
    without = _take(stage, noise=plain * 4 * short)
    for place in range(len(stage.others) + 1):
        wild = 0 < place < len(stage.others)
        shown = _wild(stage) if wild else stage
        canary = _take(shown, noise=other, place=place, instead=without.gradients)
        if not np.array_equal(canary.update, without.update):
            problem = "a patient changes the update otherwise than by a noised sum"
            raise NotSafe(check="way-out", problem=problem)
        _check_canary(shown, without, canary, least=0.0 if wild else LEAST)


def _take(
    stage: _Stage,
    *,
    noise: Float64,
    place: int | None = None,
    nobody: bool = False,
    instead: Sequence[torch.Tensor] = (),
) -> _Take:
    """One run of train().

    Args:
        place: of the canary among the others; None: it is not there. nobody: no coin falls on anybody.
        instead: gradients that the base optimiser gets in place of its own.
    """
    patients = list(stage.others)
    if place is not None:
        patients.insert(place, stage.canary)
    script = [(False, False)] * stage.steps if nobody else stage.entering
    coins = [np.array([own if p is stage.canary else rest for p in patients]) for rest, own in script]
    source, seen, thread = _Scripted(noise=noise, coins=coins, real=nobody), [], threading.get_ident()

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
        charge = _charge(stage, Split.TRAIN, stage.round_number, source)
        update = run.train(
            stage.study,
            stage.vector,
            patients,
            round_number=stage.round_number,
            declared_patients=DECLARED,
            noise=source,
            device=stage.device,
            charge=charge,
            cache=FeatureCache(),
            build=stage.build,
        ).values
    finally:
        handle.remove()
    _check_spent(charge)
    take = _Take(source.asked, np.concatenate(source.given or [np.empty(0)]), seen, update)
    _check_asked(stage, take, len(patients))
    return take


def _flat(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    return torch.cat([g.flatten() for g in grads]).double().cpu()


def _check_asked(stage: _Stage, take: _Take, patients: int) -> None:
    """The charge first; then in every step coins for all, and noise of the paid size for every value."""
    policy, scale = _noise_of(stage.study), stage.multiplier * stage.clip
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
        if any(not math.isclose(found, scale, rel_tol=1e-9) for _, _, found in noise):
            raise NotSafe(check="noise", problem="a step's noise has another size than the study promises")


def _wild(stage: _Stage) -> _Stage:
    """The same with a canary whose images no scanner made."""
    images = stage.canary.images.clone()
    for image, value in zip(images, (math.nan, math.inf, 1e38, 0.0), strict=True):
        image.fill_(value)
    return replace(stage, canary=replace(stage.canary, images=images))


def _check_canary(stage: _Stage, without: _Take, canary: _Take, *, least: float) -> None:
    """One patient moves the sum by the bound where the coin fell, and not otherwise.

    Args:
        least: by so many bounds it must move it, or the rehearsal has shown nothing.
    """
    near = 1e-4 + 1e-6 * math.sqrt(stage.size)  # the released grid, and float32
    drawn = [own for _, own in stage.entering]
    sums = [
        np.stack([g.numpy() for g in take.gradients]) * stage.constant - take.given.reshape(stage.steps, -1)
        for take in (without, canary)
    ]
    for step, moved in enumerate(np.linalg.norm(sums[1] - sums[0], axis=1) / stage.clip):
        if not moved <= (1 + SLACK if drawn[step] else near):
            where = "enters" if drawn[step] else "does not enter"
            raise NotSafe(
                check="one-patient",
                problem=f"a patient with {CANARY_IMAGES} images moves the sum of a step that it {where} by "
                f"{moved:.3g} bounds",
            )
        if drawn[step] and moved < least:
            raise NotSafe(check="one-patient", problem="a patient who enters a step is not in its sum")


def _check_noise_only(stage: _Stage, take: _Take) -> None:
    """A step without patients is its noise, divided by the public constant, rounded to the grid."""
    found = np.concatenate([g.numpy() for g in take.gradients]) * stage.constant
    room = 2.0**-GRID_BITS * stage.clip + 1e-6 * np.abs(take.given)
    if not np.all(np.abs(found - take.given) <= room):
        raise NotSafe(check="noise", problem="a step without patients is not the noise that was drawn")


# ---- an evaluation ----


def _rehearse_release(stage: _Stage, split: Split) -> None:
    """One patient's share of the released sums, in units of their noise, is no more than was paid for."""
    policy, rounds = _noise_of(stage.study), stage.study.training.rounds if split is Split.VAL else 1
    multiplier = policy.evaluation_multiplier / math.sqrt(policy.sharers) * math.sqrt(rounds)
    company = [_alone(one, place) for place in range(COMPANY) for one in stage.others[:1]]
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


def _alone(one: PatientImages, place: int) -> PatientImages:
    """A patient with one image, the others' flipped and shifted."""
    return PatientImages(f"company-{place}", one.images[:1].roll(place, -1), one.labels[:1].roll(place, -1))


def _released(stage: _Stage, split: Split, patients: list[PatientImages]) -> tuple[dict[str, float], Sums]:
    """Scale of the noise that each sum asked for, and the sum without it."""
    source = _Scripted(
        noise=np.random.Generator(np.random.PCG64(len(patients))).standard_normal(10**6), real=True
    )
    charge = _charge(stage, split, stage.study.training.rounds + 1, source)
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
    return scales, {name: sums[name] - given for name, given in zip(sums, source.given, strict=True)}


def _canaries(stage: _Stage) -> list[PatientImages]:
    """Patients whose share is as large as can be: of every label, or outlined where the model is wrong."""
    classes, images = len(stage.study.classes), stage.canary.images
    if not TASKS[stage.study.task].outlines:
        labels = [torch.full((CANARY_IMAGES,), label) for label in range(min(classes, LABELS))]
        canaries = [PatientImages("canary", images, label) for label in labels]
        return [*canaries, _wild(stage).canary]
    network = stage.build(stage.study).eval()
    with torch.no_grad():
        found = network(images[:1].to(stage.device)).argmax(1).cpu()
    turn = torch.arange(found.numel()).view_as(found) % (classes - 1) + 1
    wrong = (found + turn) % classes
    outlined = wrong.expand(CANARY_IMAGES, *wrong.shape[1:]).clone()
    return [PatientImages("canary", images, outlined), _wild(stage).canary]
