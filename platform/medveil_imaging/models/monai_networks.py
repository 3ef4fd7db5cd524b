"""MONAI's networks by their own names, ``monai:DenseNet169``: an allow-list, fit for patients' gradients.

A study names the network and gives its options as data; nothing else of MONAI can be reached from a study.
What MONAI builds is changed in place, so every weight keeps MONAI's name, and weights trained elsewhere fit:

* Batch norm of every kind becomes group norm with the same weight and bias. With ``batch_norm=fixed``, an
  option of every network here, it stays as it is in evaluation, by mean and variance of the start weights,
  which are frozen (:mod:`medveil_imaging.per_image`). Running statistics of instance norms are gone.
* Dropout and dropped paths are off. The engine would give each patient a draw of its own (vmap with
  ``randomness="different"``, from torch's global generator), so clipping would still bound a patient; but no
  self-check could compare such a gradient with a plain loop's.
* Of several outputs (hidden states, deep supervision) the first is taken.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from medveil.shown import plain
from medveil_imaging.models import MODELS, BadModel, ModelShape, Option, Options, read_options
from medveil_imaging.per_image import KINDS, FixedNorm, fit

PREFIX = "monai:"
MOST_WEIGHTS = 2**29
"""Of one network: two gigabytes."""
LARGEST, LONGEST = 8192, 16
"""Of whole numbers among the options, and of lists of them."""
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What MONAI and torch raise where options or sizes do not suit a network."""

Chosen = dict[str, Any]
"""Options, with a tuple of whole numbers for each list."""
Make = Callable[[ModelShape, Chosen], nn.Module]


@dataclass(frozen=True)
class Network:
    """One entry of the allow-list."""

    make: Make
    options: Mapping[str, Option] = field(default_factory=dict)
    """Names and defaults; a text such as "16-32-64" is a list of whole numbers."""
    outlines: bool = False
    """Whether it gives logits for every pixel or voxel, (k, outputs, \\*size), or an image, (k, outputs)."""


def _usual(
    make: Callable[..., nn.Module], channels: str = "in_channels", outputs: str = "out_channels", **fixed: Any
) -> Make:
    """A network that takes its input channels and its outputs under these names."""

    def made(shape: ModelShape, chosen: Chosen) -> nn.Module:
        places = {"spatial_dims": shape.dims, channels: shape.channels, outputs: shape.outputs}
        return make(**places, **fixed, **chosen)

    return made


def _halving(make: Callable[..., nn.Module], halvings: int = -1) -> Make:
    """A network of levels that halve the edges, unless ``strides`` says otherwise.

    Args: halvings: how many more than levels.
    """

    def made(shape: ModelShape, chosen: Chosen) -> nn.Module:
        strides = chosen.pop("strides") or (2,) * (len(chosen["channels"]) + halvings)
        return _usual(make, strides=strides)(shape, chosen)

    return made


def _dyn_unet(shape: ModelShape, chosen: Chosen) -> nn.Module:
    strides = chosen.pop("strides")
    kernel = chosen.pop("kernel_size")
    network = nets.DynUNet(
        shape.dims,
        shape.channels,
        shape.outputs,
        kernel_size=(kernel,) * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        **chosen,
    )
    del network.skip_layers, network.heads  # the same layers under other names, and unused ones
    network.__class__ = PlainDynUNet
    built: nn.Module = network
    return built


class PlainDynUNet(nets.DynUNet):  # type: ignore[misc]
    """MONAI's DynUNet with each layer under one name only; same weights, same output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(k, channels, \\*size) → (k, outputs, \\*size)."""
        seen = [self.input_block(x)]
        for layer in self.downsamples:
            seen.append(layer(seen[-1]))
        x = self.bottleneck(seen[-1])
        for layer, skipped in zip(self.upsamples, reversed(seen), strict=True):
            x = layer(x, skipped)
        logits: torch.Tensor = self.output_block(x)
        return logits


def _vit(shape: ModelShape, chosen: Chosen) -> nn.Module:
    network = partial(nets.ViT, classification=True, post_activation=None)
    return _usual(network, outputs="num_classes", img_size=shape.size)(shape, chosen)


def _unetr(shape: ModelShape, chosen: Chosen) -> nn.Module:
    return _usual(nets.UNETR, img_size=shape.size)(shape, chosen)


def _swin(shape: ModelShape, chosen: Chosen) -> nn.Module:
    if max(chosen["depths"], default=0) > 64 or chosen["feature_size"] > 192:
        raise ValueError("depths up to 64, feature_size up to 192")
    return _usual(nets.SwinUNETR)(shape, chosen)


def _classifier(shape: ModelShape, chosen: Chosen) -> nn.Module:
    strides = chosen.pop("strides") or (2,) * len(chosen["channels"])
    place = (shape.channels, *shape.size)
    network: nn.Module = nets.Classifier(in_shape=place, classes=shape.outputs, strides=strides, **chosen)
    return network


CHOICES: dict[str, tuple[str, ...]] = {
    "batch_norm": KINDS,
    "act": ("PRELU", "RELU", "LEAKYRELU", "ELU", "GELU", "SWISH", "TANH"),
    "norm": ("INSTANCE", "BATCH"),
    "upsample_mode": ("deconv", "nontrainable"),
}
"""Of options whose other values need more than their name; "BATCH" has a weight and a bias per channel."""
DENSENETS = ("DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264")
RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200")
SENETS = ("SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNeXt50", "SEResNeXt101")
LIST = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})+")
RESNET: dict[str, Option] = {
    "conv1_t_size": 7,
    "conv1_t_stride": 1,
    "no_max_pool": False,
    "shortcut_type": "B",
    "bias_downsample": True,
}
TRANSFORMER: dict[str, Option] = {
    "hidden_size": 768,
    "mlp_dim": 3072,
    "num_heads": 12,
    "proj_type": "conv",
    "qkv_bias": False,
}
LEVELS: dict[str, Option] = {"channels": "16-32-64-128", "strides": "", "kernel_size": 3, "up_kernel_size": 3}
RESIDUAL: dict[str, Option] = LEVELS | {"num_res_units": 2, "act": "PRELU", "norm": "INSTANCE"}
FEATURES: dict[str, Option] = {"features": "32-32-64-128-256-32"}

_resnet = partial(_usual, channels="n_input_channels", outputs="num_classes")
_senet = partial(_usual, outputs="num_classes")
NETWORKS: dict[str, Network] = {
    **{name: Network(_usual(getattr(nets, name))) for name in DENSENETS},
    "DenseNet": Network(
        _usual(nets.DenseNet),
        {"init_features": 64, "growth_rate": 32, "block_config": "6-12-24-16", "bn_size": 4},
    ),
    "EfficientNetBN": Network(
        _usual(nets.EfficientNetBN, outputs="num_classes", pretrained=False),
        {"model_name": "efficientnet-b0"},
    ),
    **{name: Network(_resnet(getattr(nets, name)), RESNET) for name in RESNETS},
    "ResNet": Network(
        _resnet(nets.ResNet),
        RESNET | {"block": "basic", "layers": "2-2-2-2", "block_inplanes": "64-128-256-512"},
    ),
    **{name: Network(_senet(getattr(nets, name))) for name in SENETS},
    "Classifier": Network(
        _classifier,
        {"channels": "16-32-64", "strides": "", "kernel_size": 3, "num_res_units": 2, "norm": "INSTANCE"},
    ),
    "ViT": Network(_vit, TRANSFORMER | {"patch_size": 16, "num_layers": 12, "pos_embed_type": "learnable"}),
    "UNet": Network(_halving(nets.UNet), RESIDUAL, outlines=True),
    "AHNet": Network(_usual(nets.AHNet), {"psp_block_num": 4}, outlines=True),
    "AttentionUnet": Network(_halving(nets.AttentionUnet), LEVELS, outlines=True),
    "AutoEncoder": Network(_halving(nets.AutoEncoder, 0), RESIDUAL, outlines=True),
    "BasicUNet": Network(_usual(nets.BasicUNet), FEATURES, outlines=True),
    "BasicUNetPlusPlus": Network(_usual(nets.BasicUNetPlusPlus), FEATURES, outlines=True),
    "DynUNet": Network(
        _dyn_unet,
        {"filters": "32-64-128-256", "strides": "1-2-2-2", "kernel_size": 3, "res_block": False},
        outlines=True,
    ),
    "FlexibleUNet": Network(
        _usual(nets.FlexibleUNet, pretrained=False, upsample="deconv"),
        {"backbone": "resnet18", "decoder_channels": "256-128-64-32-16"},
        outlines=True,
    ),
    "HighResNet": Network(_usual(nets.HighResNet), outlines=True),
    "MedNeXt": Network(
        _usual(nets.MedNeXt),
        {
            "init_filters": 32,
            "kernel_size": 7,
            "encoder_expansion_ratio": 2,
            "decoder_expansion_ratio": 2,
            "bottleneck_expansion_ratio": 2,
            "blocks_down": "2-2-2-2",
            "blocks_bottleneck": 2,
            "blocks_up": "2-2-2-2",
            "use_residual_connection": False,
        },
        outlines=True,
    ),
    "SegResNet": Network(
        _usual(nets.SegResNet),
        {"init_filters": 8, "blocks_down": "1-2-2-4", "blocks_up": "1-1-1", "upsample_mode": "deconv"},
        outlines=True,
    ),
    "SegResNetDS": Network(
        _usual(nets.SegResNetDS, upsample_mode="deconv"),
        {"init_filters": 32, "blocks_down": "1-2-2-4"},
        outlines=True,
    ),
    "SwinUNETR": Network(
        _swin,
        {
            "feature_size": 24,
            "patch_size": 2,
            "depths": "2-2-2-2",
            "num_heads": "3-6-12-24",
            "window_size": 7,
            "mlp_ratio": 4.0,
            "use_v2": False,
        },
        outlines=True,
    ),
    "UNETR": Network(
        _unetr, TRANSFORMER | {"feature_size": 16, "conv_block": True, "res_block": True}, outlines=True
    ),
    "VNet": Network(_usual(nets.VNet), outlines=True),
}
"""Name at MONAI → how it is built."""


def _chosen(name: str, options: Options, defaults: Mapping[str, Option]) -> Chosen:
    """The options with their defaults. Raises: BadModel: an unknown one, another type, or out of bounds."""
    lists = {key for key, value in defaults.items() if LIST.fullmatch(str(value)) or key == "strides"}
    # "16" is a list of one, which a command line takes for a number
    texts = {k: str(v) if k in lists and type(v) is int else v for k, v in options.items()}
    chosen: Chosen = read_options(name, texts, defaults)
    for key, value in chosen.items():
        if key in lists:
            if value and not LIST.fullmatch(value) and not value.isdecimal():
                raise BadModel(name=name, problem=f"option '{key}' must look like '16-32-64'")
            chosen[key] = tuple(int(part) for part in value.split("-")) if value else ()
        elif key in CHOICES and value not in CHOICES[key]:
            raise BadModel(name=name, problem=f"option '{key}' must be one of {', '.join(CHOICES[key])}")
        numbers = chosen[key] if key in lists else (chosen[key],)
        whole = [number for number in numbers if type(number) is int]
        if len(numbers) > LONGEST or any(not 0 <= number <= LARGEST for number in whole):
            raise BadModel(
                name=name, problem=f"option '{key}' has at most {LONGEST} numbers from 0 to {LARGEST}"
            )
    return chosen


def build_network(own_name: str, shape: ModelShape, options: Options) -> nn.Module:
    """The network that MONAI calls so, fit for per-patient training.

    Input (k, channels, \\*size), output (k, outputs), or (k, outputs, \\*size) if it outlines.

    Raises:
        BadModel: an option that it does not have, or options or a size that do not suit it.
    """
    name, entry = PREFIX + own_name, NETWORKS[own_name]
    if any("drop" in key for key in options):
        raise BadModel(name=name, problem="dropout is off in every network; leave the option out")
    chosen = _chosen(name, options, {**entry.options, "batch_norm": "group"})
    batch_norm = chosen.pop("batch_norm")
    try:
        network = fit(entry.make(shape, chosen), batch_norm)
        if batch_norm == "fixed" and not any(isinstance(layer, FixedNorm) for layer in network.modules()):
            raise BadModel(name=name, problem="it has no batch norm; leave out option 'batch_norm'")
        if sum(weight.numel() for weight in network.parameters()) > MOST_WEIGHTS:
            raise BadModel(name=name, problem=f"with these options it has more than {MOST_WEIGHTS:,} weights")
        empty = copy.deepcopy(network).to("meta")
        found = empty(torch.empty(1, shape.channels, *shape.size, device="meta")).shape
    except FAILURES as error:
        raise BadModel(
            name=name, problem=f"MONAI refuses these options or this size ({plain(str(error), 160)})"
        ) from error
    wanted = (1, shape.outputs, *(shape.size if entry.outlines else ()))
    if found != wanted:
        raise BadModel(name=name, problem=f"of an image it gives {tuple(found)} where {wanted} is wanted")
    return network


for _name in NETWORKS:
    MODELS.register(PREFIX + _name)(partial(build_network, _name))
