"""A U-Net on top of another segmentation model: it sees the images and what that model says of them.

What it is for: a model that was learned together under privacy has few weights. A hospital may correct it
with a large network of its own, which costs no privacy as long as that network never leaves the house
(``medveil research evaluate --adapt --on-top``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options
from medveil_imaging.models.unet3d import unet3d

NAME = "on_top"
UNDER = "under_"
"""What the options of the model below begin with."""


class OnTop(nn.Module):
    """Logits of ``under`` plus those of ``above``, a U-Net that sees the images and the former's softmax.

    The last layer of ``above`` starts at zero: before training the whole says what ``under`` says. All
    weights are trained. Where ``under`` has fixed features they are kept with the images, as one row.

    Source: Tu, "Auto-context", CVPR 2008: a second model that sees the first one's probabilities.
    """

    def __init__(self, shape: ModelShape, under: nn.Module, above: nn.Module) -> None:
        super().__init__()
        self.image = (shape.channels, *shape.size)
        self.under, self.above = under, above
        self.frozen_features = bool(getattr(under, "frozen_features", False))
        last = [layer for layer in above.modules() if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)][-1]
        for weights in last.parameters():
            nn.init.zeros_(weights)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (k, channels, x, y, z) and the features of ``under``, flat and beside each other: (k, n)."""
        return self._beside(images, self.under.features(images))  # type: ignore[operator]

    def features_at_once(self, images: torch.Tensor) -> torch.Tensor:
        """As :meth:`features`; memory grows with k. The images themselves where nothing below is fixed."""
        if not self.frozen_features:
            return images
        at_once = getattr(self.under, "features_at_once", None)
        return self._beside(images, self.under.features(images) if at_once is None else at_once(images))  # type: ignore[operator]

    def _beside(self, images: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.flatten(1).to(below.dtype), below.flatten(1)], 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs, x, y, z) of volumes, or of features computed before."""
        if self.frozen_features:
            rows = values if values.ndim == 2 else self.features(values)
            count = int(np.prod(self.image))
            images = rows[:, :count].reshape(len(rows), *self.image).to(next(self.above.parameters()).dtype)
            below = self.under(rows[:, count:].reshape(len(rows), *self._kept()))
        else:
            images, below = values, self.under(values)
        logits: torch.Tensor = below + self.above(torch.cat([images, below.softmax(1)], 1))
        return logits

    def _kept(self) -> tuple[int, ...]:
        """The shape of one image's features."""
        with torch.no_grad():
            empty = torch.zeros(0, *self.image)
            return tuple(self.under.features(empty).shape[1:])  # type: ignore[operator]


def options_under(options: Options) -> Options:
    """A model's options as those of what is under a U-Net."""
    return {UNDER + key: value for key, value in options.items()}


@MODELS.register(NAME)
def on_top(shape: ModelShape, options: Options) -> nn.Module:
    """Input (k, channels, x, y, z), output (k, outputs, x, y, z); 124 thousand weights more than below.

    Options: ``under`` (default "position_head"), the model below; ``under_NAME``, its option NAME;
    ``channels`` (default "8-16-32-64"), of the U-Net.

    Raises:
        BadModel: as the model below and unet3d; the model below is one of these, or does not outline volumes.
        UnknownName: there is no such model.
    """
    beneath = {key.removeprefix(UNDER): value for key, value in options.items() if key.startswith(UNDER)}
    own = {key: value for key, value in options.items() if not key.startswith(UNDER)}
    chosen = read_options(NAME, own, {"under": "position_head", "channels": "8-16-32-64"})
    if chosen["under"] == NAME:
        raise BadModel(name=NAME, problem="one network on top is enough")
    if shape.outputs < 2:
        raise BadModel(name=NAME, problem="it outlines structures and does not classify")
    both = ModelShape(shape.size, shape.outputs, shape.channels + shape.outputs)
    above = unet3d(both, {"channels": chosen["channels"]})
    return OnTop(shape, MODELS[str(chosen["under"])](shape, beneath), above)
