"""DenseNet-121 (Huang et al., CVPR 2017) from MONAI with group norm; for large cohorts or without privacy."""

from __future__ import annotations

from monai.networks.nets import DenseNet121
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options

NAME = "densenet121"


@MODELS.register(NAME)
def densenet121(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, \\*size), 2-D or 3-D, output (k, outputs); 7 (2-D) or 11 (3-D) million weights.

    It has no options.

    Raises:
        BadModel: an edge below 32, which its five halvings would leave without a pixel.
    """
    read_options(NAME, options, {})
    if min(shape.size) < 32:
        raise BadModel(name=NAME, problem="every edge of the images must be 32 or more")
    model: nn.Module = DenseNet121(
        spatial_dims=shape.dims,
        in_channels=shape.channels,
        out_channels=shape.outputs,
        norm=("GROUP", {"num_groups": 8}),
        act=("RELU", {"inplace": False}),
    )
    return model
