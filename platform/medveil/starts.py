"""A fresh start for each study: an initial model that no other plan has."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np

from medveil.study import CENTRE
from medveil.tensors import Float32, ModelSpec

FRESH = 0.01
"""Largest fresh part of an initial weight, in model units: too little to matter to training."""
FRESH_OF_TRAINED = FRESH / 100
"""Largest fresh part of a weight that was trained elsewhere: it tells two studies apart and no more."""


def fresh_seed() -> int:
    """For initial weights that are drawn at random: 48 bits of the operating system's randomness."""
    return int.from_bytes(secrets.token_bytes(6), "big")


def fresh(
    spec: ModelSpec,
    start: Float32,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    *,
    most: float = FRESH,
) -> Float32:
    """Add a fresh part, uniform within ``most``, to every weight that is trained.

    Heads that begin at zero have no random weights, so that every study of a kind would start from one model;
    and no hospital sends a second masked vector from a model (docs/decisions/0021-one-sum-per-model.md).

    Args:
        start: float32, shape (d,).
    Returns: float32, shape (d,); the released mean of a centred model stays as it is.
    """
    drawn = np.frombuffer(random_bytes(2 * start.size), "<i2").astype(np.float32)
    drawn *= np.float32(most / 2**15)
    place = 0
    for tensor in spec.root:
        if tensor.name == CENTRE:
            drawn[place : place + tensor.size] = 0
        place += tensor.size
    return start + drawn
