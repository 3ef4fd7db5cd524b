"""The self-check before private training: does this model, with this loss and engine, keep its promise?

A fault in clipping is silent: training goes on, the epsilon on paper stays, and a patient counts for many.
Each check below finds a fault that was seen in a widely used library; all run on random inputs, no patient
takes part.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from hospital_node.training import gradients
from hospital_node.training.clipped_sum import add_clipped_sum
from hospital_node.training.features import features, has_features
from hospital_node.training.gradients import Drawn, Loss, patient_gradients
from hospital_node.training.mean import Mean, mean_loss
from hospital_node.training.noise_checks import check_noise_source
from hospital_node.training.optimizer import PatientOptimizer
from hospital_node.training.rehearsal import rehearse
from hospital_node.training.safety import NotSafe
from hospital_node.training.uncompiled import uncompiled
from medveil.noise_policies import GaussianNoise
from medveil.study import Study, Transforms
from medveil.tasks import TASKS
from medveil_imaging.models import build_model
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import mean_policy

CLOSE = 1e-6
"""Largest relative error; the arithmetic checks run in float64."""
LARGE_BATCH = {False: 16, True: 2}
"""How many times the six random images are in a large batch; of volumes (True) fewer."""
IMAGES = (1, 2, 3)
"""Images of the three random patients."""


_passed: set[tuple[bytes, str]] = set()
"""The outcome depends on study and device only, so it is looked up after the first time in a process."""


def require_safe(study: Study, device: torch.device) -> None:
    """Run the self-check once per study, device and process (NotSafe if it fails)."""
    if (study.hash, str(device)) not in _passed:
        self_check(study, build_model(study), device=device)
        _passed.add((study.hash, str(device)))


def self_check(
    study: Study, module: nn.Module, *, loss: Loss | None = None, device: torch.device | None = None
) -> None:
    """Checks on random inputs of the study's shape (volumes: smaller). The module is left as it was.

    ``precision``: trained weights are float32 or float64, so that gradients, norms and noise are.
    ``loss``: one number an image, and from that image alone. ``clipped-sum``: the engine equals a loop over
    single patients. ``sensitivity``: taking any patient out changes the sum by at most clip_norm.
    ``copies``: k copies of a patient's images count once. ``independence``: other patients do not change
    one patient's gradient. ``buffers``: a forward pass stores nothing. In a centred study the round that
    releases the mean takes the same checks. Then the noise source
    (:mod:`hospital_node.training.noise_checks`), and train() and release() as they are
    (:mod:`hospital_node.training.rehearsal`): ``noise``, ``draw``, ``charge``, ``one-patient``, ``way-out``,
    ``evaluation``.

    Args:
        loss: instead of the task's own (the tests plant faulty ones).

    Raises:
        NotSafe: naming the check that failed.
    """
    policy = study.privacy
    if not isinstance(policy, GaussianNoise):
        return
    device = device or torch.device("cpu")
    chosen: Loss = loss or TASKS[study.task].loss
    if any(p.dtype not in (torch.float32, torch.float64) for p in module.parameters() if p.requires_grad):
        raise NotSafe(check="precision", problem="a trained weight has fewer bits than float32")
    model = copy.deepcopy(module).to(device).double()
    size = _check_size(model, study.transforms, device)
    raw, others = _random_patients(study, size), _random_patients(study, size, seed=1)
    _check_steps(model, chosen, policy, raw, others, device=device)
    if study.centred:
        seen, strange = (
            [Drawn(features(model, one.images, device), one.labels) for one in found]
            for found in (raw, others)
        )
        mean = Mean(seen[0].images.shape[1] - 1).to(device).double()
        nn.init.ones_(mean.centre)
        _check_steps(mean, mean_loss, mean_policy(study), seen, strange, device=device)
    check_noise_source()
    rehearse(study, module, size=size, device=device)


def _check_steps(
    model: nn.Module,
    loss: Loss,
    policy: GaussianNoise,
    raw: Sequence[Drawn],
    others: Sequence[Drawn],
    *,
    device: torch.device,
) -> None:
    """All checks of one kind of step: training, or the release of the mean."""
    _check_buffers(model, raw, device)
    _check_loss(model, loss, raw, device)
    engine = _Engine(model, loss, policy, device)
    patients = [engine.prepared(one) for one in raw]
    expected = [_single_gradient(model, loss, one, device) for one in raw]
    if not all(bool(g.isfinite().all()) for g in expected):
        raise NotSafe(check="clipped-sum", problem="the gradient of a random image is not finite")
    # A norm below every gradient, so that clipping acts on all of them.
    engine.clip = 0.5 * min(float(g.norm()) for g in expected) or policy.clip_norm
    _check_sum(engine, patients, expected)
    _check_chunks(engine, patients, expected)
    _check_sensitivity(engine, patients)
    _check_copies(engine, patients[0])
    _check_independence(engine, patients, [engine.prepared(one) for one in others[1:]])


class _Engine:
    """The real gradient and clipping code without noise."""

    def __init__(self, model: nn.Module, loss: Loss, policy: GaussianNoise, device: torch.device) -> None:
        self.model, self.loss, self.policy, self.device = model, loss, policy, device
        self.clip = policy.clip_norm

    def prepared(self, one: Drawn) -> Drawn:
        if has_features(self.model):
            return Drawn(features(self.model, one.images, self.device), one.labels)
        return one

    def gradients(self, patients: Sequence[Drawn]) -> torch.Tensor:
        """(P, d), in the order of ``patients``."""
        found = patient_gradients(self.model, self.loss, patients, device=self.device)
        try:
            return torch.cat([torch.cat([g.flatten(1) for g in chunk.values()], 1) for chunk in found])
        except (RuntimeError, ValueError) as error:
            raise NotSafe(check="clipped-sum", problem="the engine cannot run this model") from error

    def clipped_sum(self, patients: Sequence[Drawn]) -> torch.Tensor:
        """(d,): what the optimiser would add noise to."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = PatientOptimizer(
            uncompiled(torch.optim.SGD)(weights, lr=0.0),
            policy=self.policy.model_copy(update={"clip_norm": self.clip}),
            expected_patients=1.0,
            noise=NoiseSource.fresh(),
        )
        add_clipped_sum(optimizer, self.model, self.loss, patients, device=self.device)
        total = torch.cat([p.summed_grad.flatten() for p in weights])  # type: ignore[attr-defined]
        for p in weights:
            p.summed_grad = None  # type: ignore[attr-defined]
        return total


def _check_size(model: nn.Module, transforms: Transforms, device: torch.device) -> tuple[int, ...]:
    """A smaller image where the network takes one: float64 convolutions of full volumes take minutes.

    Every edge shrinks to the largest power of two that divides it (at most 16 in a volume, 64 in a picture),
    of a volume one to twice that, so what can be halved at full size can be halved here.
    """
    size, channels = transforms.size, transforms.channel_count
    largest = 64 if len(size) == 2 else 16
    powers = [min(largest, edge & -edge) for edge in size]
    small = [power if power >= 8 else edge for power, edge in zip(powers, size, strict=True)]
    if len(size) == 3:
        small[-1] = min(size[-1], 2 * small[-1])
    while tuple(small) != size:  # a network that wants more is given twice as much before all of it
        try:
            with torch.no_grad():
                model(torch.zeros(1, channels, *small, dtype=torch.float64, device=device))
            break
        except (RuntimeError, ValueError):
            small = [min(2 * edge, whole) for edge, whole in zip(small, size, strict=True)]
    return tuple(small)


def _random_patients(study: Study, size: tuple[int, ...], seed: int = 0) -> list[Drawn]:
    generator = torch.Generator().manual_seed(seed)
    task, channels = TASKS[study.task], study.transforms.channel_count
    return [
        Drawn(
            torch.randn(count, channels, *size, generator=generator, dtype=torch.float64),
            task.made_up_labels(study, count, size, generator),
        )
        for count in IMAGES
    ]


def _check_buffers(model: nn.Module, patients: Sequence[Drawn], device: torch.device) -> None:
    before = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        for one in patients:
            model(one.images.to(device))
    after = dict(model.named_buffers())
    if before.keys() != after.keys() or any(not torch.equal(before[name], after[name]) for name in before):
        raise NotSafe(check="buffers", problem="a forward pass changed a stored buffer")


def _check_loss(model: nn.Module, loss: Loss, patients: Sequence[Drawn], device: torch.device) -> None:
    """An image's loss is its own: in training and in evaluation, in a small and in a large batch."""
    images = torch.cat([one.images for one in patients]).to(device)
    labels = torch.cat([one.labels for one in patients]).to(device)
    count, volumes = len(images), images.ndim == 5
    for training, copies in ((True, 1), (False, 1), (False, LARGE_BATCH[volumes])):
        model.train(training)
        with torch.no_grad():
            more = torch.cat([images, *(3.0 * images.flip(0) for _ in range(copies - 1))])
            together = loss(model(more), labels.repeat(copies, *(1,) * (labels.ndim - 1)))
            if together.shape != (len(more),):
                raise NotSafe(check="loss", problem="it does not give exactly one number an image")
            alone = torch.cat([loss(model(images[i : i + 1]), labels[i : i + 1]) for i in range(count)])
        model.train()
        if _error(together[:count], alone) > CLOSE:
            raise NotSafe(check="loss", problem="an image's loss depends on the other images of its batch")


def _single_gradient(model: nn.Module, loss: Loss, one: Drawn, device: torch.device) -> torch.Tensor:
    """The reference: one patient, plain autograd, the whole network."""
    weights = [p for p in model.parameters() if p.requires_grad]
    value = loss(model(one.images.to(device)), one.labels.to(device)).mean()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)]
    )


def _check_sum(engine: _Engine, patients: Sequence[Drawn], expected: Sequence[torch.Tensor]) -> None:
    if _error(engine.gradients(patients), torch.stack(list(expected))) > CLOSE:
        raise NotSafe(check="clipped-sum", problem="the engine's gradients are not those of a plain loop")
    shift = 0.01 * engine.clip if engine.policy.clipping == "unit" else 0.0
    total = sum((g * (engine.clip / (float(g.norm()) + shift)) for g in expected), torch.zeros(()))
    if _error(engine.clipped_sum(patients), total.to(engine.device)) > 2e-3:  # the safety margin is 1e-3
        raise NotSafe(check="clipped-sum", problem="the clipped sum is not that of a plain loop")


def _check_chunks(engine: _Engine, patients: Sequence[Drawn], expected: Sequence[torch.Tensor]) -> None:
    """Cut into chunks, every patient is still there once."""
    whole = torch.stack(list(expected))
    for count in (1, 2):
        chunks = gradients.patient_gradients(
            engine.model, engine.loss, patients, device=engine.device, at_once=count
        )
        found = torch.cat([torch.cat([g.flatten(1) for g in chunk.values()], 1) for chunk in chunks])
        if _error(found, whole) > CLOSE:
            raise NotSafe(check="clipped-sum", problem="a patient is not once in the chunks of a sum")


def _check_sensitivity(engine: _Engine, patients: Sequence[Drawn]) -> None:
    whole = engine.clipped_sum(patients)
    for place in range(len(patients)):
        rest = [one for i, one in enumerate(patients) if i != place]
        if float((whole - engine.clipped_sum(rest)).norm()) > engine.clip * (1 + CLOSE):
            raise NotSafe(check="sensitivity", problem="a patient contributes more than the clipping norm")


def _check_copies(engine: _Engine, one: Drawn) -> None:
    single = engine.clipped_sum([one])
    for count in (2, 8):
        copies = Drawn(torch.cat([one.images] * count), torch.cat([one.labels] * count))
        if _error(engine.clipped_sum([copies]), single) > CLOSE:
            raise NotSafe(check="copies", problem="more images of a patient make it count for more")


def _check_independence(engine: _Engine, patients: Sequence[Drawn], strange: Sequence[Drawn]) -> None:
    alone = engine.gradients(patients[:1])[0]
    others = [Drawn(1.0 - 2.0 * one.images, one.labels) for one in strange]
    for company in (list(patients[1:]), others, others[:1]):
        if _error(engine.gradients([patients[0], *company])[0], alone) > CLOSE:
            raise NotSafe(check="independence", problem="other patients change one patient's gradient")


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative distance; infinite if a value is not finite or the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    distance = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return distance if math.isfinite(distance) else math.inf
