"""Gradients per patient, and the draw of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from medveil.study import GaussianNoise
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (k, …), labels (k, …) → one loss an image, shape (k,)."""
Gradients = dict[nn.Parameter, torch.Tensor]
"""Parameter → (P, *shape): row p is the gradient of patient p's mean loss."""

WEIGHTS_AT_ONCE = 2**24
VALUES_AT_ONCE = {"cpu": 2**18, "cuda": 2**21}
PATIENTS_AT_ONCE = 512
"""Bounds of one chunk: per-patient weights, input values (a CPU is fastest within its cache), patients."""


@dataclass(frozen=True)
class Drawn:
    """One patient's images that take part in a step: images (k, …), labels (k, …), k >= 1."""

    images: torch.Tensor
    labels: torch.Tensor


def draw(patients: Sequence[PatientImages], policy: GaussianNoise, noise: NoiseSource) -> list[Drawn]:
    """Every patient enters with probability ``sample_rate``, by a secret coin, and whole or not at all.

    Of a patient with more than ``images_per_patient`` images that many are chosen, by a choice among that
    patient's own images only. The result is ordered by number of images, so that chunks need little
    padding; a sum does not show the order.
    """
    drawn = []
    for index in noise.coins(len(patients), policy.sample_rate).nonzero()[0]:
        patient = patients[int(index)]
        if len(patient) > policy.images_per_patient:
            kept = torch.from_numpy(noise.choose(len(patient), policy.images_per_patient))
            drawn.append(Drawn(patient.images[kept], patient.labels[kept]))
        elif len(patient):
            drawn.append(Drawn(patient.images, patient.labels))
    return sorted(drawn, key=lambda one: len(one.images))


def patient_gradients(
    module: nn.Module, loss: Loss, drawn: Sequence[Drawn], *, device: torch.device
) -> Iterator[Gradients]:
    """Each drawn patient's gradient of its mean loss, in chunks that fit memory; nothing for an empty draw.

    Pictures and feature vectors: the whole network under vmap over patients, padded with a mask. Volumes: an
    ordinary backward pass per patient, since one patient fills the machine. On CUDA the forward pass runs
    in bfloat16; gradients and everything after them are float32.

    Guarantees: row p depends on patient p only.
    Raises: ValueError if the loss is not one number an image.
    """
    if not drawn:
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    if drawn[0].images.ndim == 5:
        for one in drawn:
            yield _by_backward(module, loss, parameters, one, device)
        return
    per_patient = _vmapped(module, loss, device)
    for chunk in _chunks(drawn, sum(p.numel() for p in parameters), VALUES_AT_ONCE[device.type]):
        images, labels, mask = (part.to(device) for part in _padded(chunk))
        by_name = per_patient(_trained(module), images.to(parameters[0].dtype), labels, mask)
        yield {module.get_parameter(name): gradient for name, gradient in by_name.items()}


def _trained(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _mean_loss(
    loss: Loss, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    per_image = loss(wide, labels)
    if per_image.shape != labels.shape[:1]:
        raise ValueError("the loss must give exactly one number an image")
    if mask is None:
        return per_image.mean()
    return torch.where(mask, per_image, 0.0).sum() / mask.sum().clamp(min=1)


def _vmapped(module: nn.Module, loss: Loss, device: torch.device) -> Callable[..., dict[str, torch.Tensor]]:
    def mean_loss(
        weights: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        with _low_precision(device):
            logits = functional_call(module, weights, (images,))
        return _mean_loss(loss, logits, labels, mask)

    gradients: Callable[..., dict[str, torch.Tensor]] = vmap(
        grad(mean_loss), in_dims=(None, 0, 0, 0), randomness="different"
    )
    return gradients


def _by_backward(
    module: nn.Module, loss: Loss, parameters: list[nn.Parameter], one: Drawn, device: torch.device
) -> Gradients:
    with _low_precision(device):
        logits = module(one.images.to(device, parameters[0].dtype))
    value = _mean_loss(loss, logits, one.labels.to(device), None)
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return {
        p: (torch.zeros_like(p) if g is None else g)[None] for p, g in zip(parameters, gradients, strict=True)
    }


def _low_precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _chunks(drawn: Sequence[Drawn], weights: int, values: int) -> Iterator[Sequence[Drawn]]:
    """Runs of patients, ordered by number of images, within the bounds above."""
    start = 0
    while start < len(drawn):
        size = min(PATIENTS_AT_ONCE, max(1, WEIGHTS_AT_ONCE // weights))
        while size > 1:
            part = drawn[start : start + size]
            if len(part) * part[-1].images.numel() <= values:
                break
            size = max(1, len(part) * 3 // 4)
        yield drawn[start : start + size]
        start += size


def _padded(chunk: Sequence[Drawn]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (P, K, …), labels (P, K, …) and mask (P, K); missing images are zeros with mask False."""
    most = max(len(one.images) for one in chunk)
    images = torch.zeros(len(chunk), most, *chunk[0].images.shape[1:], dtype=chunk[0].images.dtype)
    labels = torch.zeros(len(chunk), most, *chunk[0].labels.shape[1:], dtype=torch.int64)
    mask = torch.zeros(len(chunk), most, dtype=torch.bool)
    for row, one in enumerate(chunk):
        count = len(one.images)
        images[row, :count], labels[row, :count], mask[row, :count] = one.images, one.labels, True
    return images, labels, mask
