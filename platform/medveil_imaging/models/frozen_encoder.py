"""A registered network with weights from a file, frozen, and a trained linear head on what it sees.

Weights learned on public images carry what a few hundred patients cannot teach under noise. The file is named
in the study by the SHA-256 of its content and never fetched: whoever runs a node puts it there. It holds
numbers only; the network that they belong to is one of ours.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medveil_imaging.frozen import is_digest, load_frozen
from medveil_imaging.heads import Head
from medveil_imaging.models import MODELS, BadModel, ModelShape, Option, Options, make_safe, read_options

NAME = "frozen_encoder"
BIAS = 0.3
"""The constant feature: small beside the unit length of the others, so the bias does not eat the clip."""


class FrozenEncoder(nn.Module):
    """Logits = head(features); the encoder's weights stay as they were read.

    Source: frozen public features for private learning (Tramer, Boneh, ICLR 2021).
    """

    frozen_features = True
    """Tells a training engine that :meth:`features` may be computed once for a whole data set."""

    def __init__(self, encoder: nn.Module, width: int, outputs: int, *, centred: bool) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.head = Head(width + 1, outputs, centred=centred)
        self.train()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Only the head is ever in training mode: the encoder sees an image the same way each time."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (k, width + 1) of images (k, channels, \\*size): centred, unit length, the constant 0.3.

        Each row depends on its own image only; no trained weight takes part.
        """
        if not len(images):
            return images.new_zeros(0, self.head.in_features)
        with torch.no_grad():
            seen = self.encoder(images).flatten(1)
            seen = functional.normalize(seen - seen.mean(1, keepdim=True), dim=1)
        return torch.cat([seen, seen.new_full((len(seen), 1), BIAS)], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs) of images, or of features computed before."""
        logits: torch.Tensor = self.head(images if images.ndim == 2 else self.features(images))
        return logits


def _beheaded(name: str, shape: ModelShape, options: Options) -> tuple[nn.Module, int]:
    """The network without its last linear layer, and how many numbers an image becomes."""
    network = make_safe(MODELS[name](shape, options))
    linear = [(place, layer) for place, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or getattr(network, "frozen_features", False):
        raise BadModel(name=NAME, problem=f"'{name}' has no linear head and so cannot be an encoder")
    place, last = linear[-1]
    owner, _, own = place.rpartition(".")
    setattr(network.get_submodule(owner), own, nn.Identity())
    return network, last.in_features


@MODELS.register(NAME)
def frozen_encoder(shape: ModelShape, options: Options) -> nn.Module:
    """A frozen network and a linear head that starts at zero; with ``densenet121`` 1,025 weights a logit.

    Input (k, channels, \\*size), 2-D or 3-D, output (k, outputs). Options: ``encoder``, a registered
    classification model; ``weights``, SHA-256 of the safetensors file with all of its tensors but the last
    linear layer's (which may be there and is not used); ``centred`` (false), see
    :class:`medveil_imaging.heads.Head`; ``batch_norm`` ("group"), handed on to encoders that have the option.

    Raises:
        BadModel: no such encoder, or ``weights`` is no SHA-256.
        NoEncoder, BadEncoder: the file is missing, damaged or for another network.
    """
    defaults: dict[str, Option] = {
        "encoder": "densenet121",
        "weights": "",
        "centred": False,
        "mean_rounds": 1,
        "batch_norm": "group",
    }
    chosen = read_options(NAME, options, defaults)
    encoder, digest = str(chosen["encoder"]), str(chosen["weights"])
    if not is_digest(digest):
        raise BadModel(name=NAME, problem="option 'weights' must be the SHA-256 of a file, in 64 hex digits")
    if encoder == NAME:
        raise BadModel(name=NAME, problem="an encoder cannot be made of itself")
    own = {} if chosen["batch_norm"] == "group" else {"batch_norm": chosen["batch_norm"]}
    network, width = _beheaded(encoder, ModelShape(shape.size, 1, shape.channels), own)
    load_frozen(dict(network.named_parameters()), digest, of=encoder)
    return FrozenEncoder(network, width, shape.outputs, centred=bool(chosen["centred"]))
