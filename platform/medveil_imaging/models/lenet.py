"""The small network for digits: two wide 5x5 convolutions, three linear layers; 186,110 weights for MNIST.

The layers are LeNet-5's (LeCun, Bottou, Bengio, Haffner, Proceedings of the IEEE 1998) with the convolutions
of McMahan, Moore, Ramage, Hampson, Agüera y Arcas (AISTATS 2017), who federated it first, with ReLU and
maxima in place of sigmoids and means. It has no norm: nothing that one image could change for another.
"""

from __future__ import annotations

from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options

NAME = "lenet"
WIDTHS, HIDDEN, KERNEL = (32, 64), (120, 84), 5
LARGEST = 64
"""Pixels of an edge: the first linear layer grows with the square of it."""


@MODELS.register(NAME)
def lenet(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, rows, columns), output (k, outputs). It takes no options.

    Raises:
        BadModel: not 2-D, or an edge outside of 16 to 64.
    """
    read_options(NAME, options, {})
    if shape.dims != 2:
        raise BadModel(name=NAME, problem="it is for pictures (2-D images) only")
    if min(shape.size) < 16 or max(shape.size) > LARGEST:
        raise BadModel(name=NAME, problem=f"every edge of the images must lie between 16 and {LARGEST}")
    rows, columns = (_left(edge) for edge in shape.size)
    return nn.Sequential(
        nn.Conv2d(shape.channels, WIDTHS[0], KERNEL),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(WIDTHS[0], WIDTHS[1], KERNEL),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(WIDTHS[1] * rows * columns, HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(HIDDEN[0], HIDDEN[1]),
        nn.ReLU(),
        nn.Linear(HIDDEN[1], shape.outputs),
    )


def _left(edge: int) -> int:
    """Of an edge behind both convolutions and maxima."""
    return ((edge - KERNEL + 1) // 2 - KERNEL + 1) // 2
