"""Three strided convolutions: small enough to be trained privately from scratch with about 1,000 patients."""

from __future__ import annotations

from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options, whole_number

NAME = "small_cnn"
GROUPS = 4
"""Groups of each norm; a norm over few channels keeps an image's own contrast out of the features."""


@MODELS.register(NAME)
def small_cnn(shape: ModelShape, options: Options) -> nn.Module:
    """Convolution, group norm and tanh three times, then a linear head on a coarse grid.

    Input (k, channels, \\*size), output (k, outputs). Option ``width`` (default 16 in 2-D: 15,361 weights at
    one logit; 8 in 3-D: 11,617): channels of the first layer; the other two have twice as many.
    Tanh rather than ReLU: bounded activations suit clipped gradients (Papernot et al., AAAI 2021).

    Raises:
        BadModel: width not a multiple of 4, or an edge below 16.
    """
    flat = shape.dims == 2
    chosen = read_options(NAME, options, {"width": 16 if flat else 8})
    width = whole_number(NAME, chosen, "width", low=GROUPS, high=256)
    if width % GROUPS:
        raise BadModel(name=NAME, problem=f"option 'width' must be a multiple of {GROUPS}")
    if min(shape.size) < 16:
        raise BadModel(name=NAME, problem="every edge of the images must be 16 or more")
    convolution = nn.Conv2d if flat else nn.Conv3d
    first, grid = (7, 4) if flat else (5, 2)
    pool = nn.AdaptiveAvgPool2d(grid) if flat else nn.AdaptiveAvgPool3d(grid)
    return nn.Sequential(
        convolution(shape.channels, width, first, 2, first // 2),
        nn.GroupNorm(GROUPS, width),
        nn.Tanh(),
        convolution(width, 2 * width, 3, 2, 1),
        nn.GroupNorm(GROUPS, 2 * width),
        nn.Tanh(),
        convolution(2 * width, 2 * width, 3, 2, 1),
        nn.GroupNorm(GROUPS, 2 * width),
        nn.Tanh(),
        pool,
        nn.Flatten(),
        nn.Linear(2 * width * grid**shape.dims, shape.outputs),
    )
