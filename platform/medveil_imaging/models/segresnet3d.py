"""SegResNet (Myronenko, BrainLes 2018) from MONAI with group norm and without in-place arithmetic."""

from __future__ import annotations

import torch
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets import SegResNet
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options, whole_number

NAME = "segresnet3d"
GROUPS = 4
HALVINGS = 8
"""Three strided levels."""


class PlainResBlock(ResBlock):  # type: ignore[misc]
    """MONAI's residual block with ``x + y`` for ``x += y``, which gradient hooks do not survive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape in and out."""
        inner = self.conv1(self.act(self.norm1(x)))
        residual: torch.Tensor = x + self.conv2(self.act(self.norm2(inner)))
        return residual


@MODELS.register(NAME)
def segresnet3d(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, x, y, z), output (k, outputs, x, y, z); 1.2 million weights at the default width.

    Option ``width`` (default 8): channels of the first level, a multiple of 4. Upsampling is a transposed
    convolution because trilinear interpolation is not reproducible on a GPU.

    Raises:
        BadModel: not 3-D, an edge that is no multiple of 8, or a bad width.
    """
    chosen = read_options(NAME, options, {"width": 8})
    width = whole_number(NAME, chosen, "width", low=GROUPS, high=128)
    if width % GROUPS:
        raise BadModel(name=NAME, problem=f"option 'width' must be a multiple of {GROUPS}")
    if shape.dims != 3:
        raise BadModel(name=NAME, problem="it is for volumes (3-D images) only")
    if any(edge % HALVINGS for edge in shape.size):
        raise BadModel(name=NAME, problem=f"every edge must be a multiple of {HALVINGS}")
    model: nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=width,
        in_channels=shape.channels,
        out_channels=shape.outputs,
        act=("RELU", {"inplace": False}),
        norm=("GROUP", {"num_groups": GROUPS}),
        upsample_mode="deconv",
    )
    for block in model.modules():
        if type(block) is ResBlock:
            block.__class__ = PlainResBlock  # same weights, same names; only the addition differs
    return model
