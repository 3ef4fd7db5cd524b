"""Whether a network keeps the contract of per-patient training, tried when its study is made.

Shipped models have tests. Any other combination of network, options, size and frozen weights is tried here on
random images: a few passes, seconds for most networks. The nodes of a private study run the whole self-check
besides (:mod:`hospital_node.training.checks`), before the first patient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn

from hospital_node.training.features import features, has_features
from hospital_node.training.gradients import Drawn, patient_gradients
from medveil.errors import Error
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.models import ModelShape, build_model, shape_of
from medveil_imaging.recipes import is_measured
from medveil_imaging.tuning import DEFAULTS

CPU = torch.device("cpu")
IMAGES = {2: (1, 2), 3: (1, 1)}
"""Of the two patients, by the number of edges."""
EXACT_WEIGHTS, EXACT_PIXELS = 5 * 10**6, 2**16
"""Weights, and pixels of all images, up to which everything is computed in float64; beyond, memory counts."""
CLOSE = {torch.float64: 1e-6, torch.float32: 5e-3}
"""Largest relative error of a gradient, and of an image's logits."""
LEAST_EDGE = {2: 64, 3: 16}
"""Edges from which a smaller image is looked for that the network takes."""


class UnfitNetwork(Error):
    """A network, with these options and this size, does not keep the contract of per-patient training."""

    code = "unfit-network"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The network '{name}' cannot be used: {problem}.",
            meaning="No study was written. Hospitals could not train it so that each patient counts alone.",
            remedy="Choose another network, other options or another size (docs/researcher.md lists them).",
        )


def prove_if_new(study: Study) -> None:
    """Try a network that is not shipped, or of which only some weights are trained. Raises: as prove."""
    options = study.model.options
    networks = {study.model.name, str(options.get("encoder", study.model.name))}
    if not all(map(is_measured, networks)) or set(options) & set(DEFAULTS):
        prove(study)


def prove(study: Study) -> None:
    """Try a study's network on random images of two patients.

    It gives finite logits of the shape that the task wants, the same ones twice, in training and in
    evaluation, and stores nothing; an image's logits do not depend on the others in its batch; a patient's
    gradient by the node's own engine is finite, not zero, plain autograd's, and no other patient's.

    Raises:
        UnfitNetwork: naming what it does not keep. UnknownName, BadModel, UnsafeModel, NoEncoder, BadEncoder.
    """
    name, model, shape = study.model.name, build_model(study), shape_of(study)
    small = _smaller(model, shape)
    weights, pixels = (
        sum(weight.numel() for weight in model.parameters()),
        sum(IMAGES[shape.dims]) * math.prod(small.size),
    )
    model = model.double() if weights <= EXACT_WEIGHTS and pixels <= EXACT_PIXELS else model.float()
    try:
        found = _first_fault(model, small, TASKS[study.task].outlines)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UnfitNetwork(name=name, problem="the engine of a node cannot train it") from error
    if found is not None:
        raise UnfitNetwork(name=name, problem=found)


def _first_fault(model: nn.Module, shape: ModelShape, outlines: bool) -> str | None:
    generator = torch.Generator().manual_seed(0)
    kind, counts = next(model.parameters()).dtype, list(IMAGES[shape.dims])
    place = (shape.channels, *shape.size)
    images = torch.randn(sum(counts), *place, generator=generator, dtype=torch.float64).to(kind)
    wanted = (shape.outputs, *(shape.size if outlines else ()))
    targets = torch.randn(len(images), *wanted, generator=generator, dtype=torch.float64).to(kind)
    return next(_faults_forward(model, images, wanted), None) or next(
        _faults_backward(model, images, targets, counts), None
    )


def _faults_forward(model: nn.Module, images: torch.Tensor, wanted: tuple[int, ...]) -> Iterator[str]:
    stored = {name: value.clone() for name, value in model.named_buffers()}
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            logits, again, alone = model(images), model(images), model(images[:1])
        if logits.shape != (len(images), *wanted):
            yield f"of an image it gives {tuple(logits.shape[1:])} where the task wants {wanted}"
        if not bool(logits.isfinite().all()):
            yield "its logits are not finite"
        if not torch.equal(logits, again):
            yield "the same image gets other logits the next time"
        if _differ(logits[:1], alone):
            yield "an image's logits depend on the other images of its batch"
    now = dict(model.named_buffers())
    if stored.keys() != now.keys() or any(
        not torch.equal(value, now[name]) for name, value in stored.items()
    ):
        yield "a forward pass stores something of the images"


def _faults_backward(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, counts: list[int]
) -> Iterator[str]:
    given = features(model, images, CPU) if has_features(model) else images
    drawn = [
        Drawn(i, t) for i, t in zip(torch.split(given, counts), torch.split(targets, counts), strict=True)
    ]
    together = _engine_gradients(model, drawn)
    if not bool(together.isfinite().all()):
        yield "a patient's gradient is not finite"
    if not bool(together.any(1).all()):
        yield "a patient's gradient is zero, so it would learn nothing"
    if any(_differ(row, _plain_gradient(model, one)) for row, one in zip(together, drawn, strict=True)):
        yield "the engine's gradient of a patient is not that of plain autograd"
    if _differ(together[:1], _engine_gradients(model, drawn[:1])):
        yield "another patient changes a patient's gradient"


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance, one number an image: smooth, and every logit takes part."""
    return (logits - targets).square().flatten(1).mean(1)


def _engine_gradients(model: nn.Module, drawn: list[Drawn]) -> torch.Tensor:
    """(P, d)."""
    chunks = patient_gradients(model, _loss, drawn, device=CPU)
    return torch.cat([torch.cat([value.flatten(1) for value in chunk.values()], 1) for chunk in chunks])


def _plain_gradient(model: nn.Module, one: Drawn) -> torch.Tensor:
    """(d,)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    value = _loss(model(one.images), one.labels).mean()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)]
    )


def _differ(found: torch.Tensor, expected: torch.Tensor) -> bool:
    distance = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return not distance <= CLOSE[found.dtype]  # a value that is no number differs


def _smaller(model: nn.Module, shape: ModelShape) -> ModelShape:
    """The smallest size, down to 64 pixels or 16 voxels, that the network takes; full volumes take minutes.

    Tried without memory or arithmetic (torch's "meta" device).
    """
    empty = copy.deepcopy(model).to("meta")
    edges = [max(8, min(LEAST_EDGE[shape.dims], edge & -edge)) for edge in shape.size]
    while any(edge < whole for edge, whole in zip(edges, shape.size, strict=True)):
        size = tuple(min(edge, whole) for edge, whole in zip(edges, shape.size, strict=True))
        try:
            with torch.no_grad():
                empty(
                    torch.empty(1, shape.channels, *size, device="meta", dtype=next(model.parameters()).dtype)
                )
        except (RuntimeError, ValueError, AssertionError):
            edges = [2 * edge for edge in edges]
        else:
            return ModelShape(size, shape.outputs, shape.channels)
    return shape
