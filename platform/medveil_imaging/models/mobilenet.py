"""MobileNetV2 (Sandler et al., CVPR 2018) with group norm: for films, colour pictures, small machines."""

from __future__ import annotations

import torch
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options
from medveil_imaging.per_image import KINDS, fit

NAME = "mobilenet"
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride (the paper's table 2)."""
FIRST, LAST, STEP = 32, 1280, 8
HALVINGS = 32


class InvertedResidual(nn.Module):
    """Widen by 1x1, each channel by 3x3, narrow by 1x1 without activation; the input is added back."""

    def __init__(self, channels: int, outputs: int, *, stride: int, widen: int) -> None:
        super().__init__()
        hidden = channels * widen
        first = [_normed(channels, hidden, 1)] if widen > 1 else []
        narrow = nn.Conv2d(hidden, outputs, 1, bias=False)
        depthwise = _normed(hidden, hidden, 3, stride=stride, groups=hidden)
        self.conv = nn.Sequential(*first, depthwise, narrow, nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and channels == outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(k, channels, rows, columns) → (k, outputs, rows / stride, columns / stride)."""
        found: torch.Tensor = self.conv(images)
        return images + found if self.adds else found


class MobileNet(nn.Module):
    """The network; its weights have the names and shapes of torchvision's ``mobilenet_v2``."""

    def __init__(self, shape: ModelShape, width: float) -> None:
        super().__init__()
        channels = _rounded(FIRST * width)
        layers: list[nn.Module] = [_normed(shape.channels, channels, 3, stride=2)]
        for widen, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                layer = InvertedResidual(
                    channels, _rounded(outputs * width), stride=1 if block else stride, widen=widen
                )
                channels = _rounded(outputs * width)
                layers.append(layer)
        last = _rounded(LAST * max(1.0, width))
        layers.append(_normed(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(last, shape.outputs))  # dropout is left out

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs) of images (k, channels, rows, columns)."""
        logits: torch.Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def _normed(channels: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def _rounded(channels: float) -> int:
    """To a multiple of 8 that is at least nine tenths of it, as the authors' code does."""
    near = max(STEP, int(channels + STEP / 2) // STEP * STEP)
    return near + STEP if near < 0.9 * channels else near


@MODELS.register(NAME)
def mobilenet(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, rows, columns), output (k, outputs); 2.2 million weights at three channels.

    Options: ``width`` (1.0, from 0.1 to 2.0), factor on the channels of every layer; ``batch_norm``, what
    stands for it: group norm ("group"), or its statistics as the start weights have them ("fixed",
    :mod:`medveil_imaging.per_image`). A checkpoint of torchvision's ``mobilenet_v2`` fits by name.

    Raises:
        BadModel: not 2-D, an edge below 32, or a bad option.
    """
    chosen = read_options(NAME, options, {"width": 1.0, "batch_norm": "group"})
    width, batch_norm = float(chosen["width"]), str(chosen["batch_norm"])
    if batch_norm not in KINDS:
        raise BadModel(name=NAME, problem=f"option 'batch_norm' must be one of {', '.join(KINDS)}")
    if not 0.1 <= width <= 2:
        raise BadModel(name=NAME, problem="option 'width' must lie between 0.1 and 2")
    if shape.dims != 2:
        raise BadModel(name=NAME, problem="it is for pictures (2-D images) only")
    if min(shape.size) < HALVINGS:
        raise BadModel(name=NAME, problem=f"every edge of the images must be {HALVINGS} or more")
    return fit(MobileNet(shape, width), batch_norm)
