"""The plain 3-D U-Net (Cicek et al., MICCAI 2016) from MONAI with affine instance norm."""

from __future__ import annotations

import re

from monai.networks.nets import UNet
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options, whole_number
from medveil_imaging.per_image import fit

NAME = "unet3d"


@MODELS.register(NAME)
def unet3d(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, x, y, z), output (k, outputs, x, y, z); 123 thousand weights by default.

    Options: ``channels`` (default "8-16-32-64"), channels per level, each level halving the edges; ``units``
    (0), residual units of two convolutions per level (Zhang, Liu, Wang, IEEE GRSL 2018), 0 for one plain
    convolution; ``norm`` ("instance" or "group").

    Raises:
        BadModel: not 3-D, an edge that cannot be halved that often, or a bad option.
    """
    chosen = read_options(NAME, options, {"channels": "8-16-32-64", "units": 0, "norm": "instance"})
    text, units = str(chosen["channels"]), whole_number(NAME, chosen, "units", low=0, high=8)
    if chosen["norm"] not in ("instance", "group"):
        raise BadModel(name=NAME, problem="option 'norm' must be instance or group")
    if not re.fullmatch(r"[1-9][0-9]{0,3}(-[1-9][0-9]{0,3}){1,5}", text):
        raise BadModel(name=NAME, problem="option 'channels' must look like '8-16-32-64' (2 to 6 levels)")
    channels = tuple(int(part) for part in text.split("-"))
    halvings = 2 ** (len(channels) - 1)
    if shape.dims != 3:
        raise BadModel(name=NAME, problem="it is for volumes (3-D images) only")
    if any(edge % halvings for edge in shape.size) or all(edge == halvings for edge in shape.size):
        raise BadModel(
            name=NAME, problem=f"every edge must be a multiple of {halvings}, one at least twice it"
        )
    model: nn.Module = UNet(
        spatial_dims=3,
        in_channels=shape.channels,
        out_channels=shape.outputs,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=units,
        norm=("INSTANCE" if chosen["norm"] == "instance" else "BATCH", {"affine": True}),
    )
    return model if chosen["norm"] == "instance" else fit(model)
