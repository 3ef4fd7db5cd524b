"""Weights that a study freezes: a safetensors file that it names by SHA-256, the same at every hospital.

The file holds numbers only, and nobody fetches it: whoever runs a node puts it there. What is frozen does not
travel with the rounds, so it must be known beforehand, to the last bit.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from medveil.errors import Error
from medveil.files import replace_durably
from medveil.tensors import Float32, ModelSpec, TensorSpec, flatten, to_safetensors

if TYPE_CHECKING:
    from torch import nn

    from medveil.study import ModelChoice

FOLDER = "MEDVEIL_ENCODERS"
"""Environment variable with the folder of encoder files; without it ``.medveil/encoders`` in the home."""
MAX_BYTES = 2 * 2**30
BASE = "base_weights"
"""Option of every model that names the file with what is frozen of it."""


class NoEncoder(Error):
    """The file of frozen weights that a study names is not on this machine."""

    code = "no-encoder"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The file of frozen weights '{name}' is not in this machine's folder of encoders.",
            meaning="The study's model cannot be built here, so nothing was trained and nothing left.",
            remedy=f"Get the file from the study's author and put it, under that name, into the folder that "
            f"the environment variable {FOLDER} names (.medveil/encoders in the home without it).",
        )


class BadEncoder(Error):
    """A file of frozen weights is damaged, or not for the network that the study names."""

    code = "bad-encoder"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The file of frozen weights '{name}' was refused: {problem}.",
            meaning="The study's model cannot be built here, so nothing was trained and nothing left.",
            remedy="Get the file again; if its hash is right, tell the study's author.",
        )


def encoder_path(digest: str) -> Path:
    """Where the file with this SHA-256 (hex) belongs."""
    folder = os.environ.get(FOLDER)
    return (Path(folder) if folder else Path.home() / ".medveil" / "encoders") / f"{digest}.safetensors"


def frozen_file(model: ModelChoice) -> Path | None:
    """Where a study's file of frozen weights belongs on this machine; None if it has none."""
    named = (str(model.options.get(option, "")) for option in (BASE, "weights"))
    return next((encoder_path(digest) for digest in named if is_digest(digest)), None)


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


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 in 64 hex digits, and so no path."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def load_frozen(parameters: Mapping[str, nn.Parameter], digest: str, *, of: str) -> None:
    """Set parameters from the file with this SHA-256 (hex); what else it holds is not used.

    Args: of: the network, as an error names it.
    Raises:
        NoEncoder, BadEncoder: see :func:`read_encoder`; or a tensor is missing or has another shape.
    """
    import torch  # not before: whoever only asks where the file belongs need not load it

    stored = read_encoder(digest)
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = stored.get(name)
            if value is None or value.shape != tuple(parameter.shape):
                raise BadEncoder(
                    name=encoder_path(digest).name, problem=f"its tensors are not those of '{of}'"
                )
            parameter.copy_(torch.from_numpy(value))


def keep_frozen(tensors: Mapping[str, Float32]) -> str:
    """Write tensors into this machine's folder of such files; the SHA-256 (hex) that names the file."""
    spec = ModelSpec(tuple(TensorSpec(name=name, shape=value.shape) for name, value in tensors.items()))
    data = to_safetensors(flatten(tensors, spec), spec)
    digest = hashlib.sha256(data).hexdigest()
    path = encoder_path(digest)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, data)
    return digest
