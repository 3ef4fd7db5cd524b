"""Other projects' own functions, measured and attacked beside ours; nothing of MedVeil needs them.

``requirements/peers.txt`` lists the packages. Without them, what needs them is skipped by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

INSTALL = "pip install --no-deps -r requirements/peers.txt"
FLOWER = ("flwr", "Crypto", "google.protobuf", "grpc", "iterators")
MODULUS = 2**32
"""Of Flower's masked words; its default."""


def missing(*modules: str) -> str:
    """Why something cannot be run here; empty if it can."""
    absent = [name for name in modules if not _found(name)]
    return f"needs {', '.join(absent)}: {INSTALL}" if absent else ""


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def flower(module: str) -> Any:
    """A module of Flower's secure aggregation."""
    return importlib.import_module(f"flwr.{module}")


def flower_step(
    values: NDArray[np.float32], seeds: Sequence[bytes], *, clip: float, steps: int
) -> Callable[[], Any]:
    """The vector work of a Flower client, in the order of its ``_collect_masked_vectors``.

    Without its key agreements and without turning the result into bytes: ours is not charged with these.

    Args:
        seeds: first the client's own, then one for each neighbour; 32 bytes each.
        clip, steps: values within ±clip become integers from 0 to ``steps``.
    """
    helpers = flower("common.secure_aggregation.secaggplus_utils")
    arithmetic = flower("common.secure_aggregation.ndarrays_arithmetic")
    quantization = flower("common.secure_aggregation.quantization")

    def step() -> Any:
        weighted = arithmetic.parameters_multiply([values], 1.0)
        words = arithmetic.factor_combine(steps, quantization.quantize(weighted, clip, steps))
        shapes = [part.shape for part in words]
        words = arithmetic.parameters_addition(words, helpers.pseudo_rand_gen(seeds[0], MODULUS, shapes))
        for number, seed in enumerate(seeds[1:]):
            pad = helpers.pseudo_rand_gen(seed, MODULUS, shapes)
            combine = arithmetic.parameters_subtraction if number % 2 else arithmetic.parameters_addition
            words = combine(words, pad)
        return arithmetic.parameters_mod(words, MODULUS)

    return step


def flower_mask(parameters: int) -> Callable[[], Any]:
    """What Flower's server does for each mask: expand it and subtract it from the sum."""
    helpers = flower("common.secure_aggregation.secaggplus_utils")
    arithmetic = flower("common.secure_aggregation.ndarrays_arithmetic")
    total = [np.zeros(parameters, np.int64)]

    def remove() -> Any:
        pad = helpers.pseudo_rand_gen(os.urandom(32), MODULUS, [(parameters,)])
        return arithmetic.parameters_subtraction(total, pad)

    return remove


def ckks_step(values: NDArray[np.float32]) -> tuple[Callable[[], bytes], str]:
    """A client that encrypts with TenSEAL's CKKS and serialises, and the settings in words.

    The settings are those of the usual examples: 8192 slots' degree, 60-40-40 bits, scale 2^40.
    """
    tenseal = importlib.import_module("tenseal")
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40]
    )
    context.global_scale = 2**40
    plain = values.astype(np.float64)

    def step() -> bytes:
        with _silent():  # it warns, from C, that the vector needs several ciphertexts
            return bytes(tenseal.ckks_vector(context, plain).serialize())

    return step, "CKKS 8192; 60,40,40; 2^40"


@contextmanager
def _silent() -> Iterator[None]:
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
