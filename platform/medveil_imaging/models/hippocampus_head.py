"""Hippocampus crops with 140 weights: a network that has seen drawings only says most, a head corrects it.

With a hundred patients the noise that hides each of them decides how many weights can be learned. So what
is public is fixed here: how a hippocampus lies and looks, as drawn by :mod:`medveil_imaging.drawn_crops`. A
small U-Net that was trained on such drawings, and on no patient, describes each voxel and makes a first
outline; what is trained corrects that outline along few directions. ``hippocampus_head.safetensors``, beside
this module, is written by ``tests/support/hippocampus_features.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.nn import functional

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options
from medveil_imaging.models.position_head import PositionHead, hats, one_by_one, smoothing

NAME = "hippocampus_head"
FILE = Path(__file__).with_suffix(".safetensors")
SHA256 = "b8adeee81f3ccc79713e1d49fba073013c2dd67e057e36de3dbb424d6bfbea3f"
"""Of the file: every hospital computes the same features, or none."""
CHANNELS, LOOKS = (8, 16, 32), 8
"""Of the U-Net: channels per level, and what it says of each voxel."""
FEATURES = 16
"""Directions of the U-Net's and the position head's features that are kept, of equal spread on drawings."""
KNOTS = (9, 12, 9)
LARGEST, SUREST = 3.0, 12.0
"""Bounds of a feature, and of a logit of the first outline."""
EVENNESS, REACH, TIMES = 8.0, 1.2, 3
"""How much a voxel listens to its neighbours when an outline is judged, how far away (voxels), how often."""


class DrawnNetwork(nn.Module):
    """A U-Net that sees a volume and where each voxel lies: logits (k, 3, …), and 8 looks under them."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(
            spatial_dims=3,
            in_channels=4,
            out_channels=LOOKS,
            channels=CHANNELS,
            strides=(2,) * (len(CHANNELS) - 1),
            num_res_units=0,
            norm=("INSTANCE", {"affine": True}),
        )
        self.last = nn.Conv3d(LOOKS, 3, 1)

    def forward(self, images: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (k, 1, x, y, z) and places (3, x, y, z) in [-1, 1] → looks (k, 8, …), logits (k, 3, …)."""
        seen = torch.cat([images, places.expand(len(images), -1, -1, -1, -1)], 1)
        looks = functional.leaky_relu(self.unet(seen), 0.1)
        return looks, self.last(looks)


class HippocampusHead(nn.Module):
    """Logits 0, h + s, h - s: h outlines the whole, s tells the front part from the one behind.

    Inside the ellipsoid of the position head, h and s begin at the first outline. To h are added 40 maps, the
    main ways in which drawn shapes differ, and the features with weights that vary along the three axes and
    with depth; to s a plane and the features. With two classes there is h alone. Outside all is background.

    Where an outline is judged (``eval``), each voxel listens to its neighbours: mean-field inference of a
    random field with fixed strengths (Krähenbühl and Koltun, NeurIPS 2011), which takes away specks.
    """

    frozen_features = True
    """Tells a training engine that :meth:`features` may be computed once for a whole data set."""

    def __init__(self, shape: ModelShape, public: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.size, self.outputs = shape.size, shape.outputs
        self.filters = PositionHead(ModelShape(shape.size, 2)).requires_grad_(False)
        self.network = DrawnNetwork().requires_grad_(False)
        own = {key.removeprefix("network."): v for key, v in public.items() if key.startswith("network.")}
        self.network.load_state_dict({key: value.float() for key, value in own.items()})
        for name, value in _maps(shape.size, public, self.filters.get_buffer("inside")).items():
            self.register_buffer(name, value, persistent=False)
        self.shape = nn.Parameter(torch.zeros(len(self.get_buffer("shapes"))))
        self.looks = nn.Parameter(torch.zeros(FEATURES, len(self.get_buffer("where"))))
        if shape.outputs == 3:
            self.border = nn.Parameter(torch.zeros(len(self.get_buffer("plane"))))
            self.parts = nn.Parameter(torch.zeros(FEATURES))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (k, 16 + 2, voxels of the ellipsoid) of z-scored volumes (k, 1, x, y, z).

        The last two are h and s of the first outline. float16 for float32 volumes, which halves a data set's
        memory. Each row depends on its own volume only; no trained weight takes part.

        Raises:
            ValueError: another size than the model was built for.
        """
        empty = images.new_zeros(0, FEATURES + 2, len(self.filters.get_buffer("inside")))
        return one_by_one(self.features_at_once, images, size=self.size, empty=empty)

    def features_at_once(self, volumes: torch.Tensor) -> torch.Tensor:
        """As :meth:`features`; memory grows with k."""
        inside = self.filters.get_buffer("inside")
        classic = self.filters.features_at_once(volumes)
        looks, logits = self.network(volumes, self.get_buffer("places").to(volumes.dtype))
        looks, logits = (part.flatten(2).index_select(2, inside) for part in (looks, logits))
        every = torch.cat([classic.to(looks.dtype), looks], 1) - self.get_buffer("usual").to(looks.dtype)
        kept = torch.einsum("fe,kev->kfv", self.get_buffer("turn").to(looks.dtype), every)
        first, second = logits[:, 1] - logits[:, 0], logits[:, 2] - logits[:, 0]
        whole = (first + second) / 2 if self.outputs == 3 else torch.logaddexp(first, second)
        outline = torch.stack([whole, (first - second) / 2], 1)
        rows = [kept.clamp(-LARGEST, LARGEST), outline.clamp(-SUREST, SUREST)]
        return torch.cat(rows, 1).to(classic.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs, x, y, z) of volumes (k, 1, x, y, z), or of features computed before."""
        rows = (images if images.ndim == 3 else self.features(images)).to(self.shape.dtype)
        looks = rows[:, :FEATURES]
        whole = rows[:, FEATURES] + self.shape @ self.get_buffer("shapes")
        whole = whole + ((self.looks @ self.get_buffer("where")) * looks).sum(1)
        found = whole[:, None]
        if self.outputs == 3:
            apart = rows[:, FEATURES + 1] + self.border @ self.get_buffer("plane")
            apart = apart + (self.parts[:, None] * looks).sum(1)
            found = torch.stack([whole + apart, whole - apart], 1)
        prior = self.filters.get_buffer("prior").to(found.dtype).clone()
        inside = self.filters.get_buffer("inside")
        prior = prior.index_fill(0, inside, 0.0).expand(len(found), found.shape[1], -1)
        parts = prior.index_add(2, inside, found)
        logits = torch.cat([torch.zeros_like(parts[:, :1]), parts], 1)
        logits = logits.view(len(found), self.outputs, *self.size)
        return logits if self.training else self._even(logits)

    def _even(self, logits: torch.Tensor) -> torch.Tensor:
        found = logits
        for _ in range(TIMES):
            shares = found.softmax(1)
            for axis in range(3):
                blur = self.get_buffer(f"blur_{axis}").to(logits.dtype)
                shares = torch.movedim(torch.movedim(shares, axis + 2, -1) @ blur.T, -1, axis + 2)
            found = logits + EVENNESS * shares
        return found


def places_in(size: tuple[int, ...]) -> torch.Tensor:
    """Where each voxel lies along the axes, from -1 to 1: (3, x, y, z)."""
    axes = [(torch.arange(edge) + 0.5 - edge / 2) / (edge / 2) for edge in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _maps(
    size: tuple[int, ...], public: Mapping[str, torch.Tensor], inside: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Everything fixed for a size beside the networks."""
    x, y, z = (torch.from_numpy(hats(edge, n)).float() for edge, n in zip(size, KNOTS, strict=True))
    spread = torch.einsum("kabc,xa,yb,zc->kxyz", public["shapes"].float(), x, y, z)
    shapes = spread.flatten(1)[:, inside]
    places = places_in(size)
    flat = 2 * places.flatten(1)[:, inside] * torch.tensor([1.0, 0.8, 1.0])[:, None]
    one = torch.ones_like(flat[:1])
    depth = (shapes[:1] / 3).clamp(-1.5, 1.5)
    found = {
        "places": places,
        "shapes": shapes[1:].contiguous(),
        "where": torch.cat([one, flat, depth]),
        "plane": torch.cat([one, flat]),
        "turn": public["turn"].float(),
        "usual": public["usual"].float()[None, :, None],
    }
    for axis, edge in enumerate(size):
        found[f"blur_{axis}"] = torch.from_numpy(smoothing(edge, REACH).astype(np.float32))
    return found


@lru_cache(maxsize=1)
def _public() -> dict[str, torch.Tensor]:
    """The shipped file. Raises: BadModel: it is not the one that was shipped."""
    data = FILE.read_bytes() if FILE.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadModel(name=NAME, problem=f"its file {FILE.name} is missing or changed")
    return dict(safetensors.torch.load(data))


@MODELS.register(NAME)
def hippocampus_head(shape: ModelShape, options: Options) -> nn.Module:
    """Fixed features of drawings and a head that starts at zero; 140 weights for three classes.

    Input (k, 1, x, y, z), output (k, outputs, x, y, z); 120 weights for two classes. For T1 crops around one
    hippocampus, about 48 x 64 x 48 voxels of 1 mm, all turned as those of the Decathlon task: background,
    front, behind; or background and hippocampus. Before training it outlines what drawings have taught it. It
    has no options.

    Raises:
        BadModel: not 3-D, an edge below 16 or no multiple of 4, several channels, or other than two or three
            classes; or the shipped file is missing.
    """
    read_options(NAME, options, {})
    if shape.dims != 3 or shape.channels != 1:
        raise BadModel(name=NAME, problem="it is for volumes (3-D images) with one channel only")
    if min(shape.size) < 16 or any(edge % 4 for edge in shape.size):
        raise BadModel(name=NAME, problem="every edge must be 16 or more, and a multiple of 4")
    if shape.outputs not in (2, 3):
        raise BadModel(name=NAME, problem="it outlines one structure, or its front and its back part")
    return HippocampusHead(shape, _public())
