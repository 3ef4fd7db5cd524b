"""Gradients per patient, and the draw of patients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pad_sequence

from hospital_node.training.features import has_features
from medveil.noise_policies import GaussianNoise
from medveil_imaging.patients import Patient
from privacy.dp.noise import NoiseSource

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (k, …), labels (k, …) → one loss an image, shape (k,)."""
Gradients = dict[nn.Parameter, torch.Tensor]
"""Parameter → (P, *shape): row p is the gradient of patient p's mean loss."""
Way = Literal["together", "single"]
"""A chunk of patients under vmap, or an ordinary backward pass for each."""

Precision = Callable[[], torch.autocast]
"""Makes the context of a forward pass."""

PerPatient = Callable[..., list[torch.Tensor]]
"""Weights, images (P, K, …), labels (P, K, …), mask (P, K) → a tensor (P, *shape) for each weight."""

PATIENTS_AT_ONCE = 512
VALUES_AT_ONCE = {"cpu": 2**18, "cuda": 2**21}
"""Input values of one chunk: a CPU is fastest within its cache."""
MEMORY_SHARE = 1 / 16
"""Share of the device's memory for one chunk's gradients; copies and activations need as much again."""
MOST_BYTES = 2**30
BYTES_TAKEN = 2**26
"""Images that are taken from where they are kept at a time."""


@dataclass(frozen=True)
class Chosen:
    """One patient who takes part in a step, and with which images."""

    patient: Patient = field(repr=False)
    which: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """One patient's images that take part in a step: images (k, …), labels (k, …), k >= 1."""

    images: torch.Tensor
    labels: torch.Tensor


def draw(patients: Sequence[Patient], policy: GaussianNoise, noise: NoiseSource) -> list[Chosen]:
    """Every patient enters with probability ``sample_rate``, by a secret coin, and whole or not at all.

    Of a patient with more than ``images_per_patient`` images that many are chosen, by a choice among that
    patient's own images only. The result is ordered by number of images, so that chunks need little
    padding; a sum does not show the order.
    """
    drawn = []
    for index in noise.coins(len(patients), policy.sample_rate).nonzero()[0]:
        patient = patients[int(index)]
        if len(patient) > policy.images_per_patient:
            kept = noise.choose(len(patient), policy.images_per_patient)
            drawn.append(Chosen(patient, tuple(kept.tolist())))
        elif len(patient):
            drawn.append(Chosen(patient, tuple(range(len(patient)))))
    return sorted(drawn, key=lambda one: len(one.which))


def taken(
    chosen: Sequence[Chosen], take: Callable[[Chosen], Drawn], *, most_bytes: int | None = None
) -> Iterator[list[Drawn]]:
    """The images of the chosen patients, in pieces that fit memory; nothing for an empty draw.

    Args:
        take: a patient's images as a step sees them; it is asked once for each.
        most_bytes: of a piece; its last patient may pass it.
    """
    piece: list[Drawn] = []
    held = 0
    for one in chosen:
        piece.append(take(one))
        held += piece[-1].images.nbytes + piece[-1].labels.nbytes
        if held > (most_bytes or BYTES_TAKEN):
            yield piece
            piece, held = [], 0
    if piece:
        yield piece


def patient_gradients(
    module: nn.Module,
    loss: Loss,
    drawn: Sequence[Drawn],
    *,
    device: torch.device,
    way: Way | None = None,
    bfloat16: bool | None = None,
    at_once: int | None = None,
) -> Iterator[Gradients]:
    """Each drawn patient's gradient of its mean loss, in chunks that fit memory; nothing for an empty draw.

    A chunk that a GPU has no room for is tried again in halves.

    Args:
        way: None chooses. ``together``, for pictures and feature vectors: the whole network under vmap over
            patients, padded with a mask. ``single``, for volumes and for networks of which memory holds only
            one patient's gradient: one patient fills the machine.
        bfloat16: whether the forward pass runs in it; None: see :func:`runs_in_bfloat16`. Weights, losses,
            gradients and everything after them stay float32 (float64 networks are left alone altogether).
        at_once: most patients of a chunk; None: as many as memory has room for.

    Guarantees: row p depends on patient p only.
    Raises: ValueError if the loss is not one number an image.
    """
    if not drawn:
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    reduced = runs_in_bfloat16(module, device) if bfloat16 is None else bfloat16
    precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=reduced)
    room = at_once or patients_in_memory(4 * sum(p.numel() for p in parameters), device)
    alone = (
        drawn[0].images.ndim == 5
        or (room < 2 and at_once is None)
        or (reduced and _has_instance_norm(module))
    )
    if (way or ("single" if alone else "together")) == "single":
        for one in drawn:
            yield _by_backward(module, loss, parameters, one, device, precision)
    else:
        yield from _by_chunks(_vmapped(module, loss, parameters, precision), parameters, drawn, room, device)


def _by_chunks(
    per_patient: PerPatient,
    parameters: list[nn.Parameter],
    drawn: Sequence[Drawn],
    room: int,
    device: torch.device,
) -> Iterator[Gradients]:
    """As many patients at once as there is ``room`` for, all of them in the end."""
    done = 0
    while done < len(drawn):
        chunk = _fitting(drawn[done : done + room], VALUES_AT_ONCE[device.type])
        images, labels, mask = (_moved(part, device) for part in _padded(chunk))
        try:
            weights = [p.detach() for p in parameters]
            found = per_patient(weights, images.to(parameters[0].dtype), labels, mask)
        except torch.OutOfMemoryError:  # nothing of this chunk was handed out: again with half of it
            if len(chunk) == 1:
                raise
            room = len(chunk) // 2
            continue
        done += len(chunk)
        gradients = dict(zip(parameters, found, strict=True))
        del found
        yield gradients
        del gradients  # not while the next chunk is computed


def runs_in_bfloat16(module: nn.Module, device: torch.device) -> bool:
    """On CUDA, where it doubles the speed; not for a head on fixed features, which has nothing to gain."""
    return device.type == "cuda" and not has_features(module)


def _has_instance_norm(module: nn.Module) -> bool:
    """torch cannot differentiate an affine one under vmap when its input is bfloat16."""
    return any(isinstance(layer, nn.modules.instancenorm._InstanceNorm) for layer in module.modules())


def patients_in_memory(gradient_bytes: int, device: torch.device) -> int:
    """How many patients' gradients of that many bytes each make a chunk; at least one."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bound = min(MOST_BYTES, int(memory * MEMORY_SHARE))
    return max(1, min(PATIENTS_AT_ONCE, bound // gradient_bytes))


def _moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device; to a GPU from locked pages, so that copying does not wait for the work before it."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _places(module: nn.Module, parameters: list[nn.Parameter]) -> dict[str, int]:
    """Every place in the network that holds a trained parameter → its number.

    Each layer once, under its first name: replacing the same place twice would not be undone afterwards. A
    parameter that two layers share has two places.
    """
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    return {
        f"{layer_name}.{name}" if layer_name else name: numbers[parameter]
        for layer_name, layer in module.named_modules()
        for name, parameter in layer.named_parameters(recurse=False, remove_duplicate=False)
        if parameter in numbers
    }


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


def _vmapped(
    module: nn.Module, loss: Loss, parameters: list[nn.Parameter], precision: Precision
) -> PerPatient:
    places = _places(module, parameters)

    def mean_loss(
        weights: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        chosen = {place: weights[number] for place, number in places.items()}
        with precision():
            logits = functional_call(module, chosen, (images,), tie_weights=False)
        return _mean_loss(loss, logits, labels, mask)

    gradients: PerPatient = vmap(grad(mean_loss), in_dims=(None, 0, 0, 0), randomness="different")
    return gradients


def _by_backward(
    module: nn.Module,
    loss: Loss,
    parameters: list[nn.Parameter],
    one: Drawn,
    device: torch.device,
    precision: Precision,
) -> Gradients:
    with precision():
        logits = module(_moved(one.images, device).to(parameters[0].dtype))
    value = _mean_loss(loss, logits, _moved(one.labels, device), None)
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return {
        p: (torch.zeros_like(p) if g is None else g)[None] for p, g in zip(parameters, gradients, strict=True)
    }


def _fitting(drawn: Sequence[Drawn], values: int) -> Sequence[Drawn]:
    """As many of the first patients, ordered by number of images, as hold that many values; at least one."""
    while len(drawn) > 1 and len(drawn) * drawn[-1].images.numel() > values:
        drawn = drawn[: len(drawn) * 3 // 4]
    return drawn


def _padded(chunk: Sequence[Drawn]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (P, K, …), labels (P, K, …) and mask (P, K); missing images are zeros with mask False."""
    images = pad_sequence([one.images for one in chunk], batch_first=True)
    labels = pad_sequence([one.labels for one in chunk], batch_first=True)
    counts = torch.tensor([len(one.images) for one in chunk])
    return images, labels, torch.arange(images.shape[1]) < counts[:, None]
