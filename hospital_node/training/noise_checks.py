"""Self-checks of the noise source: fresh keys, and every value the next of its key's stream.

Statistics cannot tell a good stream from one that somebody else can compute, so nothing here is statistical:
a source with a known key is held against AES-256 in counter mode, value by value.
"""

from __future__ import annotations

import hashlib
import os
import sys
from types import FrameType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hospital_node.training.safety import NotSafe
from privacy.dp.noise import KEY_BYTES, NoiseSource

SOURCES = 8
EXACT = 1e-12
"""Largest error of the chance of a value as far out."""
LONG = 70_000
"""Values of a call that passes the source's own blocks."""
DISCRETE = "76877f68690eca572f8d54868fa28f0dcb5ae5c252d3a50cfd378d3853682120"
"""SHA-256 of discrete noise from the first key; tests hold the sampler against exact chances."""
SYSTEM = (os.urandom, getattr(os, "getrandom", os.urandom))


def check_noise_source() -> None:
    """Keys and stream of :class:`privacy.dp.noise.NoiseSource` (NotSafe ``noise`` otherwise)."""
    _check_keys()
    _check_stream(bytes(range(KEY_BYTES)))
    _check_stream(bytes(range(KEY_BYTES))[::-1])
    _check_discrete()


class _Seen(NoiseSource):
    """Keeps its key, to be looked at."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


def _check_keys() -> None:
    """Each fresh source asks the operating system for its key; a counter, a seed or a kept key does not."""
    keys = set()
    for _ in range(SOURCES):
        source, asked = _watched()
        if not isinstance(source, _Seen) or not asked:
            raise NotSafe(check="noise", problem="a fresh source's key is not from the operating system")
        keys.add(source.key)
        if min(sum(map(int.bit_count, source.key)), 8 * KEY_BYTES - sum(map(int.bit_count, source.key))) < 64:
            raise NotSafe(check="noise", problem="a fresh source's key does not look random")
    if len({key[start : start + 8] for key in keys for start in range(0, KEY_BYTES, 8)}) < 4 * SOURCES:
        raise NotSafe(check="noise", problem="two fresh sources share a part of their keys")


def _watched() -> tuple[NoiseSource, int]:
    """A fresh source, and how often the operating system was asked for random bytes on the way."""
    asked, before = [], sys.getprofile()

    def watch(_: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in SYSTEM:
            asked.append(event)

    sys.setprofile(watch)
    try:
        source = _Seen.fresh()
    finally:
        sys.setprofile(before)
    return source, len(asked)


def _check_discrete() -> None:
    """Whole numbers have no rounding, so what one key's stream makes of them is the same everywhere."""
    source, told = NoiseSource(bytes(range(KEY_BYTES))), hashlib.sha256()
    for count, deviation in ((1000, 3), (1000, 2**26 + 1), (7, 2**26 + 1)):
        told.update(source.discrete(count, deviation).astype("<i8").tobytes())
    if told.hexdigest() != DISCRETE:
        raise NotSafe(check="noise", problem="discrete noise is not that of the key's stream")


def _check_stream(key: bytes) -> None:
    """Noise, coins and choices take one stream's numbers one after the other, each once."""
    from scipy.special import ndtr  # as in what is checked: a study without noise does without

    source, stream = NoiseSource(key), Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def words(count: int) -> NDArray[np.uint64]:
        return np.frombuffer(stream.update(bytes(8 * count)), "<u8")

    for scale, count in ((1.0, 7), (3.7, LONG), (0.02, 7)):
        values, wanted = source.gaussian(count, scale), words(count)
        tails, chances = ndtr(-np.abs(values / scale)), (wanted >> np.uint64(1)) * 2.0**-64
        same = (np.abs(tails - chances) <= EXACT) & ((values > 0) == (wanted & np.uint64(1) == 1))
        if values.dtype != np.float64 or not same.all():
            raise NotSafe(
                check="noise", problem="values are not those of the key's stream, at the size asked"
            )
        if not np.array_equal(source.coins(count, 0.3), words(count) * 2.0**-64 < 0.3):
            raise NotSafe(check="draw", problem="coins are not those of the key's stream, at the rate asked")
        if not np.array_equal(source.choose(9, 4), np.sort(np.argsort(words(9))[:4])):
            raise NotSafe(check="draw", problem="the choice of images is not that of the key's stream")
    if not source.coins(LONG, 1.0).all():
        raise NotSafe(check="draw", problem="at rate 1 somebody does not enter")
