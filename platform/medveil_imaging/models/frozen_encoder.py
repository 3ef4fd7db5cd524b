"""A registered network with weights from a file, frozen, and a trained linear head on what it sees.

Weights learned on public images carry what a few hundred patients cannot teach under noise. The file is named
in the study by the SHA-256 of its content and never fetched: whoever runs a node puts it there. It holds
numbers only; the network that they belong to is one of ours.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import nn
from torch.nn import functional

from medveil.errors import Error
from medveil.tensors import Float32
from medveil_imaging.heads import Head
from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, make_safe, read_options

NAME = "frozen_encoder"
FOLDER = "MEDVEIL_ENCODERS"
"""Environment variable with the folder of encoder files; without it ``.medveil/encoders`` in the home."""
BIAS = 0.3
"""The constant feature: small beside the unit length of the others, so the bias does not eat the clip."""
MAX_BYTES = 2 * 2**30


class NoEncoder(Error):
    """The encoder file that a study names is not on this machine."""

    code = "no-encoder"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The encoder file '{name}' is not in this machine's folder of encoders.",
            meaning="The study's model cannot be built here, so nothing was trained and nothing left.",
            remedy=f"Get the file from the study's author and put it, under that name, into the folder that "
            f"the environment variable {FOLDER} names (.medveil/encoders in the home without it).",
        )


class BadEncoder(Error):
    """An encoder file is damaged, or not for the network that the study names."""

    code = "bad-encoder"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The encoder file '{name}' was refused: {problem}.",
            meaning="The study's model cannot be built here, so nothing was trained and nothing left.",
            remedy="Get the file again; if its hash is right, tell the study's author.",
        )


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


def encoder_path(digest: str) -> Path:
    """Where the file with this SHA-256 (hex) belongs."""
    folder = os.environ.get(FOLDER)
    return (Path(folder) if folder else Path.home() / ".medveil" / "encoders") / f"{digest}.safetensors"


def read_encoder(digest: str) -> dict[str, Float32]:
    """The tensors of the encoder file with this SHA-256 (hex), as float32.

    Raises:
        NoEncoder: there is no such file.
        BadEncoder: its content has another hash, is no safetensors file, or holds anything but finite numbers
            of 16 or 32 bits.
    """
    path = encoder_path(digest)
    if not path.is_file():
        raise NoEncoder(name=path.name)
    if path.stat().st_size > MAX_BYTES:
        raise BadEncoder(name=path.name, problem="it is larger than 2 GB")
    return _checked(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _checked(path: Path, _changed: int) -> dict[str, Float32]:
    """Reading again only when the file has changed: a node builds its model several times a round."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise BadEncoder(name=path.name, problem="its content does not have the hash that it is named by")
    try:
        found = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadEncoder(name=path.name, problem="it is not a safetensors file of plain numbers") from error
    if any(value.dtype not in (np.float16, np.float32) for value in found.values()):
        raise BadEncoder(name=path.name, problem="a tensor is not of 16 or 32 bit floating point")
    if not all(np.isfinite(value).all() for value in found.values()):
        raise BadEncoder(name=path.name, problem="it holds values that are not finite numbers")
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _beheaded(name: str, shape: ModelShape) -> tuple[nn.Module, int]:
    """The network without its last linear layer, and how many numbers an image becomes."""
    network = make_safe(MODELS[name](shape, {}))
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
    :class:`medveil_imaging.heads.Head`.

    Raises:
        BadModel: no such encoder, or ``weights`` is no SHA-256.
        NoEncoder, BadEncoder: the file is missing, damaged or for another network.
    """
    chosen = read_options(
        NAME, options, {"encoder": "densenet121", "weights": "", "centred": False, "mean_rounds": 1}
    )
    encoder, digest = str(chosen["encoder"]), str(chosen["weights"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BadModel(name=NAME, problem="option 'weights' must be the SHA-256 of a file, in 64 hex digits")
    if encoder == NAME:
        raise BadModel(name=NAME, problem="an encoder cannot be made of itself")
    network, width = _beheaded(encoder, ModelShape(shape.size, 1, shape.channels))
    stored = read_encoder(digest)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            value = stored.get(name)
            if value is None or value.shape != tuple(parameter.shape):
                raise BadEncoder(
                    name=encoder_path(digest).name, problem=f"its tensors are not those of '{encoder}'"
                )
            parameter.copy_(torch.from_numpy(value))
    return FrozenEncoder(network, width, shape.outputs, centred=bool(chosen["centred"]))
