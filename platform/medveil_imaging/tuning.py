"""Which weights of a network are trained: those whose names match patterns, or low-rank adapters.

Noise falls on every trained weight alike, so what is trained privately should be few weights. Three options
do that for any network without fixed features:

* ``train_only``: patterns with ``*`` and ``?``, separated by ``|``, over the names of the weights
  ("classifier.*|*.norm*"). What matches none is frozen.
* ``adapters``: a rank r. Each linear layer and each convolution that is larger than its adapter is frozen and
  gives W x + B A x, A with r rows from the model's seed, B zero. These are trained, and what ``train_only``
  names; without it the last layer.
* ``base_weights``: SHA-256 of the file with the frozen weights (:mod:`medveil_imaging.frozen`).

Sources: LoRA (Hu et al., ICLR 2022), under differential privacy (Yu et al., ICLR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from medveil_imaging.frozen import BASE
from medveil_imaging.per_image import is_statistic

TRAIN_ONLY, ADAPTERS = "train_only", "adapters"
DEFAULTS: dict[str, int | float | str | bool] = {TRAIN_ONLY: "", ADAPTERS: 0, BASE: ""}
MOST_RANK = 256
DOWN, UP = "adapter_down", "adapter_up"


@dataclass(frozen=True)
class Tuning:
    """What is asked for. Raises: ValueError: a rank out of bounds."""

    patterns: tuple[str, ...] = ()
    rank: int = 0
    base: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MOST_RANK:
            raise ValueError(f"option '{ADAPTERS}' must lie between 0 and {MOST_RANK}")

    def __bool__(self) -> bool:
        return bool(self.patterns or self.rank)


def tuning_of(options: Mapping[str, int | float | str | bool]) -> Tuning:
    """From the options of a model, of which these three have their defaults. Raises: ValueError."""
    patterns = tuple(part.strip() for part in str(options[TRAIN_ONLY]).split("|") if part.strip())
    return Tuning(patterns, int(options[ADAPTERS]), str(options[BASE]))


def tune(network: nn.Module, tuning: Tuning, outputs: int) -> None:
    """Freeze what is not trained, in place, and add the adapters, whose A is drawn from torch's generator.

    Guarantees: without a step of training the network computes what it computed before.
    Raises:
        ValueError: in words: fixed features, a pattern that nothing matches, or no last layer to train.
    """
    if getattr(network, "frozen_features", False):
        raise ValueError("its features are fixed, and its head is all there is to train")
    names = [name for name, _ in network.named_parameters()]
    for pattern in tuning.patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"no weight matches '{pattern}' of '{TRAIN_ONLY}' (there is {', '.join(names[-4:])})"
            )
    if tuning.patterns:
        trained = {name for name in names if any(fnmatchcase(name, p) for p in tuning.patterns)}
    else:
        head = head_of(network, outputs)
        trained = {name for name in names if name.rpartition(".")[0] == head}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained and not is_statistic(name))
    if tuning.rank:
        adapt(network, tuning.rank)


def frozen_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are not trained, by name; a network with fixed features sees to its own."""
    if getattr(network, "frozen_features", False):
        return {}
    return {name: value for name, value in network.named_parameters() if not value.requires_grad}


def head_of(network: nn.Module, outputs: int) -> str:
    """Name of the last layer: the last linear layer or convolution with as many outputs as there are logits.

    Raises:
        ValueError: there is none.
    """
    found = ""
    for name, layer in network.named_modules():
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if width == outputs and isinstance(getattr(layer, "weight", None), nn.Parameter):
            found = name
    if not found:
        raise ValueError(f"its last layer was not found; say what is trained with '{TRAIN_ONLY}'")
    return found


class AdaptedLinear(nn.Linear):
    """W x + b + B A x."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(…, features) → (…, outputs)."""
        beside = functional.linear(functional.linear(values, self.adapter_down), self.adapter_up)
        return super().forward(values) + beside


class AdaptedConv2d(nn.Conv2d):
    """A convolution, and beside it one to r channels followed by a 1x1 convolution."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As the layer without its adapter."""
        few = self._conv_forward(values, self.adapter_down, None)
        return super().forward(values) + functional.conv2d(few, self.adapter_up)


class AdaptedConv3d(nn.Conv3d):
    """The same for volumes."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As the layer without its adapter."""
        few = self._conv_forward(values, self.adapter_down, None)
        return super().forward(values) + functional.conv3d(few, self.adapter_up)


ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
}
"""By exact kind: a layer of another kind may use its weight without calling forward()."""


def adapt(network: nn.Module, rank: int) -> None:
    """Give every frozen layer that is larger than its adapter one of this rank. Raises: ValueError."""
    found = list(_adaptable(network, rank))
    if not found:
        raise ValueError(f"it has no layer that is larger than adapters of rank {rank}")
    for layer, weight in found:
        outputs, *inner = weight.shape
        down = torch.empty(rank, *inner)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        layer.register_parameter(DOWN, nn.Parameter(down))
        layer.register_parameter(UP, nn.Parameter(torch.zeros(outputs, rank, *(1 for _ in inner[1:]))))
        layer.__class__ = ADAPTED[type(layer)]


def _adaptable(network: nn.Module, rank: int) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    for layer in network.modules():
        if type(layer) in ADAPTED and getattr(layer, "groups", 1) == 1:
            weight = cast(nn.Parameter, layer.weight)
            outputs, *inner = weight.shape
            if not weight.requires_grad and rank * (math.prod(inner) + outputs) < weight.numel():
                yield layer, weight
