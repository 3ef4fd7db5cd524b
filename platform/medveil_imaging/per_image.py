"""Networks changed so that what they make of an image depends on that image alone, and on nothing drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

MOST_GROUPS = 8
KINDS = ("group", "fixed")
"""What an option ``batch_norm`` may say."""
STATISTICS = ("running_mean", "running_var")


def fit(network: nn.Module, batch_norm: str = "group") -> nn.Module:
    """Change a network in place so that an image's output depends on that image alone, and on nothing drawn.

    Batch norm becomes group norm, or is fixed; running statistics of instance norms, dropout and dropped
    paths are off; of several outputs (hidden states, deep supervision) the first is given. Names and shapes
    of the weights stay. Buffers of whole numbers, which are tables and no data, are stored with them no more.
    """
    for layer in list(network.modules()):
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(layer, name, instead_of(child, batch_norm))
            elif _is_monai(child, "MemoryEfficientSwish"):  # its own backward pass knows no vmap
                setattr(layer, name, nn.SiLU())
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        for rate in _rates(layer):
            setattr(layer, rate, 0.0)
        for name, value in layer.named_buffers(recurse=False):
            if not (value.is_floating_point() or value.is_complex()):
                layer._non_persistent_buffers_set.add(name)
    network.register_forward_hook(_first)
    return network


def _rates(layer: nn.Module) -> Sequence[str]:
    """Attributes of a layer that say how much it drops."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return ("p",)
    if _is_monai(layer, "DropPath"):
        return ("drop_prob",)
    return tuple({"drop_connect_rate"} & vars(layer).keys())


def _is_monai(layer: nn.Module, name: str) -> bool:
    """Whether it is of MONAI's class of this name. By name: a network without MONAI's layers loads none."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == "monai" for kind in type(layer).__mro__
    )


def _first(_layer: nn.Module, _given: object, found: Any) -> Any:
    """A forward hook, for networks that give more than logits."""
    while isinstance(found, list | tuple):
        found = found[0]
    return found


def group_norm(channels: int, *, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    """In the most groups, up to 8, that divide the channels and leave two for each."""
    groups = max(g for g in range(1, MOST_GROUPS + 1) if channels % g == 0 and (g == 1 or 2 * g <= channels))
    return nn.GroupNorm(groups, channels, eps=eps, affine=affine)


class FixedNorm(nn.Module):
    """Batch norm with the mean and variance that its training left, as numbers: the same for every image.

    Both are weights that are never trained, under batch norm's names, so a checkpoint fits; in a study they
    come from the file of frozen weights. Without one they are 0 and 1, and the layer normalises nothing.

    Source: "frozen batch norm" of object detection (He et al., Mask R-CNN, ICCV 2017).
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.running_mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.running_var = nn.Parameter(torch.ones(channels), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(k, channels, …) → the same shape."""
        wide = (1, -1, *(1,) * (images.ndim - 2))
        factor = (self.running_var + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight
        shift = -self.running_mean * factor
        if self.bias is not None:
            shift = shift + self.bias
        return images * factor.view(wide) + shift.view(wide)


def instead_of(batch_norm: nn.modules.batchnorm._BatchNorm, kind: str) -> nn.Module:
    """Group norm, or the batch norm with its statistics fixed; its weight, bias and eps stay."""
    channels, eps, affine = batch_norm.num_features, batch_norm.eps, batch_norm.affine
    norm = (FixedNorm if kind == "fixed" else group_norm)(channels, eps=eps, affine=affine)
    if affine:
        norm.weight, norm.bias = batch_norm.weight, batch_norm.bias
    return norm


def is_statistic(name: str) -> bool:
    """Whether a weight of this name is a fixed mean or variance, which nothing trains."""
    return name.rpartition(".")[2] in STATISTICS
