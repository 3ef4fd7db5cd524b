"""The network that the other projects were measured with, and a node that knows it.

``python tests/support/peers_network.py node run --folder F`` is ``medveil node run`` with one model more; as
in the runs of the others, the vector is padded with unused values to one and to seven million.
"""

from __future__ import annotations

import torch
from torch import nn

from medveil_imaging.models import MODELS, ModelShape, Options, read_options, whole_number

NAME = "peers_network"
WEIGHTS = 55_137


@MODELS.register(NAME)
def peers_network(shape: ModelShape, options: Options) -> nn.Module:
    """Two strided convolutions with group norm and tanh, two dense layers: 55,137 weights for 28x28 films.

    Option ``padding``: how many weights more the vector has, which nothing uses.
    """
    padding = whole_number(
        NAME, read_options(NAME, options, {"padding": 0}), "padding", low=0, high=10_000_000
    )
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.GroupNorm(4, 16),
        nn.Tanh(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.GroupNorm(4, 32),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32 * (shape.size[0] // 4) * (shape.size[1] // 4), 32),
        nn.Tanh(),
        nn.Linear(32, shape.outputs),
    )
    if padding:
        network.register_parameter("padding", nn.Parameter(torch.zeros(padding)))
    return network


if __name__ == "__main__":
    from medveil.cli import main

    main()
