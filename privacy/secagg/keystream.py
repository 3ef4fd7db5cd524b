"""The one generator behind masks and rounding: AES-256 in counter mode, by the fastest correct call.

Segment s of a seed starts at the counter block be96(s) || be32(2), which is exactly what GCM produces for
zeros under the nonce be96(s). OpenSSL's GCM code is more than twice as fast as its CTR code on CPUs with wide
AES (AVX-512), and half as fast on others. So a process times both once and takes the faster; a wrong guess
costs time and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from medveil.errors import LocalProtocolError


class SelfTestFailed(LocalProtocolError):
    """This machine's AES does not produce the reference keystream."""

    code = "aes-self-test"

    def __init__(self) -> None:
        super().__init__(
            what="The fast AES path and the reference path gave different bytes.",
            meaning="Masks made here would not cancel, so nothing is masked on this machine.",
            remedy="Reinstall the 'cryptography' package; if it stays so, the CPU or OpenSSL is faulty.",
        )


class Stream(Protocol):
    """One segment's generator: it gives its bytes for as many zeros, from the first one on."""

    def update(self, data: bytes) -> bytes:
        """As many bytes of it as ``data`` has zeros."""
        ...

    def update_into(self, data: bytes, buf: memoryview) -> int:
        """The same, written to the front of ``buf``, which has 15 bytes to spare."""
        ...


def keystream(seed: bytes, length: int, segment: int = 0) -> bytes:
    """``length`` bytes of the generator by the plain CTR call, within one segment: the reference."""
    return _ctr(seed, segment).update(bytes(length))


def stream(seed: bytes, segment: int = 0) -> Stream:
    """The fast generator of one segment: encrypt zeros with ``update_into``, at most 64 GiB of them.

    Raises: SelfTestFailed.
    """
    if not _fast_path_agrees():
        raise SelfTestFailed()
    return fastest()(seed, segment)


def _ctr(seed: bytes, segment: int) -> Stream:
    block = segment.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(seed), modes.CTR(block)).encryptor()


def _gcm(seed: bytes, segment: int) -> Stream:
    return Cipher(algorithms.AES256(seed), modes.GCM(segment.to_bytes(12, "big"))).encryptor()


@cache
def _fast_path_agrees() -> bool:
    seed, length = bytes(range(32)), 4096 + 8
    return all(_gcm(seed, s).update(bytes(length)) == keystream(seed, length, s) for s in (0, 1, 2**33))


@cache
def fastest() -> Callable[[bytes, int], Stream]:
    """The call that is faster on this machine. The bytes are the same."""
    return min((_gcm, _ctr), key=_seconds)


def call_in_use() -> str:
    """Its name: ``GCM`` or ``CTR``."""
    return "GCM" if fastest() is _gcm else "CTR"


def _seconds(make: Callable[[bytes, int], Stream]) -> float:
    """For 256 KiB, undisturbed: the least of a few tries."""
    made, zeros = make(bytes(range(32)), 0), bytes(2**18)
    out, found = memoryview(bytearray(2**18 + 16)), []
    for _ in range(6):
        start = time.perf_counter()
        made.update_into(zeros, out)
        found.append(time.perf_counter() - start)
    return min(found)
