"""Maps of what an answer rests on: Grad-CAM of the last convolutions, or by hiding one part after the other.

Both look at one image and one output of the network: a logit of a class, or the number that is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from monai.visualize import GradCAM, GradCAMpp, OcclusionSensitivity
from torch import nn

from medveil.errors import Error
from medveil.shown import plain
from medveil_research.programs import hushed

Method = Literal["gradcam", "gradcampp", "occlusion"]
SHARE = 8
"""A part that is hidden has an edge of a SHARE-th of the image's."""
OVERLAP = 0.5
AT_ONCE = 32
FINEST = 2
"""Least edge of a layer's output for it to have a map."""
Read = Callable[[torch.Tensor], torch.Tensor]
"""Logits (k, outputs) → what is said, the same shape: probabilities, or the number."""


class NoGradCam(Error):
    """A network has no convolutions whose output is still a picture of the image."""

    code = "no-grad-cam"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The model '{plain(name, 48)}' has no convolutions that Grad-CAM could look at.",
            meaning="Its features are fixed, or every layer sees the whole image. Nothing was written.",
            remedy="Take --method occlusion, which works with every network.",
        )


def last_convolution(network: nn.Module, image: torch.Tensor) -> str | None:
    """The last convolution of a forward pass whose output still has places; None if there are not two.

    A single one cuts the image into patches for a transformer: what it sees says little of the answer.
    """
    seen: list[str] = []
    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):

            def note(_layer: nn.Module, _given: object, found: torch.Tensor, name: str = name) -> None:
                if min(found.shape[2:]) >= FINEST:
                    seen.append(name)

            hooks.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if getattr(network, "frozen_features", False) or len(set(seen)) < 2:
        return None
    return seen[-1]


def grad_cam(
    network: nn.Module, image: torch.Tensor, output: int, *, layer: str, plus: bool = False
) -> torch.Tensor:
    """Where the layer's features speak for an output: (\\*size), from 0 to 1; all 0 where none does.

    Args: image: (1, channels, \\*size). plus: Grad-CAM++.
    Source: Selvaraju et al., ICCV 2017; Chattopadhay et al., WACV 2018; by MONAI.
    """
    kind = GradCAMpp if plus else GradCAM
    trained = [(weight, weight.requires_grad) for weight in network.parameters()]
    network.requires_grad_(True)
    try:
        look = kind(network, layer, postprocessing=lambda found: found)
        found: torch.Tensor = look(image.clone().requires_grad_(True), class_idx=output)
    finally:
        for weight, was in trained:
            weight.requires_grad_(was)
            weight.grad = None
        _without_hooks(network.get_submodule(layer))
    return _to_one(found[0, 0].detach().clamp(min=0))


def _without_hooks(layer: nn.Module) -> None:
    """MONAI leaves its hooks behind; the next image would be seen through them as well."""
    layer._forward_hooks.clear()
    layer._backward_hooks.clear()
    layer._is_full_backward_hook = None


def occlusion(network: nn.Module, image: torch.Tensor, output: int, read: Read) -> torch.Tensor:
    """By how much what is said falls where a part of the image is hidden: (\\*size).

    Positive: that part speaks for it. A hidden part has the image's mean, and an eighth of its edges.

    Args: image: (1, channels, \\*size). read: see :data:`Read`.
    Source: Zeiler, Fergus, ECCV 2014; by MONAI.
    """
    size = [max(2, edge // SHARE) for edge in image.shape[2:]]
    look = OcclusionSensitivity(
        network,
        mask_size=size,
        n_batch=AT_ONCE,
        mode="mean_img",
        overlap=OVERLAP,
        activate=read,
        verbose=False,
    )
    with torch.no_grad(), hushed():  # MONAI indexes in a way that torch is about to drop
        hidden, _ = look(image)
        whole = read(network(image))
    fall: torch.Tensor = float(whole[0, output]) - torch.as_tensor(hidden)[0, output]
    return fall.detach()


def _to_one(values: torch.Tensor) -> torch.Tensor:
    most = float(values.max())
    return values / most if most > 0 else values
