"""The only source of randomness that differential privacy rests on: an AES-256-CTR key stream.

General-purpose generators are predictable on purpose: whoever fixes their seed (a common call in training
scripts, and then with the same value at every hospital) makes the noise public. Nothing here touches them.
"""

from __future__ import annotations

import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.dp.discrete import discrete_gaussian

KEY_BYTES = 32
_BLOCK = 2**16
"""Values at once: a block that fits a processor's cache saves a third of the time; the stream is the same."""


def normal(words: NDArray[np.uint64], out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Standard normal values from 64-bit words, by inversion.

    The lowest bit is the sign. The other 63, plus one half, over 2^64 are the chance of a value as far out or
    farther: from 2^-65 (9.16 standard deviations) to 1/2, in steps of 2^-64, which floating point keeps to 53
    significant bits wherever they are more. So both tails are alike, no value is infinite, and each interval
    of the normal distribution gets its share of the words, but for 2^-63 and a relative 2^-52 at its ends.

    Args:
        words: shape (n,). out: where the values go, shape (n,).
    """
    from scipy.special import ndtri  # 27 MiB, which a node without a private study can do without

    chances = (words >> np.uint64(1)).astype(np.float64)
    chances += 0.5
    chances *= 2.0**-64
    values = chances if out is None else out
    ndtri(chances, out=values)
    signs = values.view(np.uint64)
    signs ^= words << np.uint64(63)
    return values


class NoiseSource:
    """Noise, coins and choices from one key stream; two sources with different keys are independent.

    Args:
        key: 32 bytes, used for this source only. In production call :meth:`fresh`; a key of one's own is
        for tests.

    Assumes that AES-256 in counter mode cannot be told from random bytes. A source cannot be copied or
    pickled: a copy would give the same noise twice, and the difference of two releases would show the data.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a noise key has {KEY_BYTES} bytes")
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def fresh(cls) -> NoiseSource:
        """A source with a new key from the operating system, which nobody keeps."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def gaussian(self, size: int, scale: float) -> NDArray[np.float64]:
        """Independent normal values of standard deviation ``scale``; shape (size,), float64.

        See :func:`normal`. The low bits of floating-point noise can betray what it was added to (Mironov,
        CCS 2012): whoever adds it rounds the sum to a grid before it goes anywhere.
        """
        values = np.empty(size)
        for start in range(0, size, _BLOCK):
            part = values[start : start + _BLOCK]
            normal(self._words(len(part)), out=part)
        values *= scale
        return values

    def discrete(self, size: int, deviation: int) -> NDArray[np.int64]:
        """Independent whole numbers of an exact discrete Gaussian; shape (size,), int64.

        See :func:`privacy.dp.discrete.discrete_gaussian`. They may be added to whole numbers only.
        """
        values = np.empty(size, np.int64)
        for start in range(0, size, _BLOCK):
            part = values[start : start + _BLOCK]
            part[:] = discrete_gaussian(self._words, len(part), deviation)
        return values

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Shape (count,): each True with chance ``rate`` by itself (Poisson sampling); at rate 1 always."""
        return self._integers(count) * 2.0**-53 < rate

    def choose(self, count: int, wanted: int) -> NDArray[np.intp]:
        """``min(wanted, count)`` different numbers below ``count``, ascending; all subsets equally likely."""
        return np.sort(np.argsort(self._integers(count), kind="stable")[:wanted])

    def _integers(self, count: int) -> NDArray[np.float64]:
        """Uniform whole numbers below 2**53, as float64 (exact)."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64)

    def _words(self, count: int) -> NDArray[np.uint64]:
        """The stream's next 64-bit words."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")

    def __repr__(self) -> str:
        return "NoiseSource(key hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a NoiseSource cannot be copied or pickled: the same noise must never be used twice")
