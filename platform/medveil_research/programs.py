"""A study's network as one program of torch (``torch.export``), for formats that carry no Python.

The program takes images (k, channels, \\*size) for any k from 1 on and gives what the network gives; fixed
features, frozen weights and the trained ones are all in it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from medveil.errors import Error
from medveil.muted import muted
from medveil.profiles import PROFILES
from medveil.shown import plain
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.fingerprints import phantom
from medveil_imaging.models import build_model, load_vector
from medveil_imaging.models.wavelet_head import WaveletHead
from medveil_research.real_wavelets import RealWavelets

CLOSE = 1e-4
"""How far what is written may lie from the network, as a share of an image's largest logit (1 at least): of a
volume with large plain parts 32 bits do not give more."""
BATCH = "batch"
PLACES = ("stack_trace", "source_fn_stack", "nn_module_stack", "torch_fn")
"""What torch notes of a program's lines: where the source lay on the machine that wrote it."""


class NotExportable(Error):
    """A model cannot be written in the format that was asked for."""

    code = "not-exportable"

    def __init__(self, *, name: str, form: str, problem: str) -> None:
        super().__init__(
            what=f"The model '{plain(name, 48)}' cannot be written as {plain(form, 20)}: {problem}.",
            meaning="Nothing was written; the model itself is in order.",
            remedy="Choose another format: 'weights' takes every model.",
        )


class PersonalWeights(Error):
    """A published model lacks what its hospitals have kept for themselves."""

    code = "personal-weights"

    def __init__(self, *, name: str, count: int) -> None:
        super().__init__(
            what=f"{count} tensor(s) of the model '{plain(name, 48)}' stay in the hospitals; in its file are "
            "the values that the study began with.",
            meaning="Before they are fitted to somebody's patients the model says nothing of an image, so it "
            "was not used.",
            remedy="Fit it to your own patients ('medveil research evaluate --adapt STEPS'), go on from it "
            "('medveil study new --from'), or take your own hospital's ('medveil research own-model').",
        )


class Whole(nn.Module):
    """A network without the loops over parts of a batch that some with fixed features have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As the network."""
        at_once = getattr(self.network, "features_at_once", None)
        found: torch.Tensor = self.network(images if at_once is None else at_once(images))
        return found


def network_of(study: Study, vector: Float32) -> nn.Module:
    """The study's network with these weights, on the CPU, ready to judge. Raises: PersonalWeights."""
    check_whole(study)
    network = build_model(study)
    load_vector(network, vector)
    return network.eval().requires_grad_(False)


def check_whole(study: Study) -> None:
    """Raises: PersonalWeights: what the study publishes is not all of its model."""
    if study.model.personal:
        raise PersonalWeights(name=study.model.name, count=len(study.model.personal))


def trial_images(study: Study) -> torch.Tensor:
    """Images to compare two forms of a network with: (4, channels, \\*size), the profile's phantom in all
    directions and one of chance."""
    transforms = study.transforms
    made = phantom(transforms)
    if PROFILES[transforms.profile].sliced:
        made = made[:, made.shape[1] // 2]
    box = tuple(
        slice((length - edge) // 2, (length - edge) // 2 + edge)
        for length, edge in zip(made.shape[1:], transforms.size, strict=True)
    )
    made = made[(slice(None), *box)]
    chance = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    return torch.stack([made, made.flip(1), made.flip(2), chance])


def program_of(study: Study, network: nn.Module, *, form: str) -> torch.export.ExportedProgram:
    """The network as a program, with a batch of any size.

    Raises: NotExportable: the network computes with something else than torch, or torch cannot follow it.
    """
    whole = (
        RealWavelets(network) if form == "onnx" and isinstance(network, WaveletHead) else Whole(network)
    ).eval()
    example = trial_images(study)[:2].contiguous()
    with hushed(), torch.no_grad():
        try:
            found = torch.export.export(
                whole, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},)
            )
        except Exception as error:  # whatever the network's own code raises when it is given no numbers
            raise NotExportable(
                name=study.model.name,
                form=form,
                problem=f"it computes with what torch.export cannot follow ({type(error).__name__})",
            ) from error
    for node in found.graph.nodes:
        for name in PLACES:
            node.meta.pop(name, None)
    return found


def check_same(study: Study, network: nn.Module, other: Any, *, form: str) -> float:
    """How far ``other`` is from the network on :func:`trial_images`, as a share of the largest logit.

    Args: other: images (k, channels, \\*size), float32 → logits, as a tensor.
    Raises: NotExportable: by more than :data:`CLOSE`.
    """
    images, worst = trial_images(study), 0.0
    with torch.no_grad():
        for part in (images, images[:1]):
            wanted, found = network(part), other(part)
            if wanted.shape != found.shape or not bool(torch.isfinite(found).all()):
                worst = float("inf")
            else:
                largest = wanted.flatten(1).abs().amax(1).clamp(min=1)
                apart = (wanted - found).flatten(1).abs().amax(1) / largest
                worst = max(worst, float(apart.max()))
    if not worst <= CLOSE:
        raise NotExportable(
            name=study.model.name, form=form, problem="what was written gives other numbers than the network"
        )
    return worst


def hushed() -> AbstractContextManager[None]:
    """No remark of torch about its own insides: nobody who exports a model can do anything about it."""
    return muted("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
