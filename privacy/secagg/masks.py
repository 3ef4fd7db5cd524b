"""Masks: pseudorandom words of Z_2^64 expanded from 32-byte seeds, added to a vector chunk by chunk.

The generator is AES-256 in counter mode. Segment s of a seed (16 MiB) starts at the counter block
be96(s) || be32(2), which is exactly what GCM produces for zeros under the nonce be96(s); OpenSSL's GCM code
is faster than its CTR code on CPUs with wide AES, and the plain CTR call stays here as the tested reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import (
    AEADEncryptionContext,
    Cipher,
    CipherContext,
    algorithms,
    modes,
)
from numpy.typing import NDArray

from medveil.errors import LocalProtocolError
from medveil.identity import Secret
from privacy.encoding import EncodedUpdate

Words = NDArray[np.uint64]
SEGMENT_BYTES = 16 * 2**20
SEGMENT_WORDS = SEGMENT_BYTES // 8
CHUNK_WORDS = 2**15
"""256 KiB: the running sum of a chunk stays in the core's own cache while every seed is added to it."""


class SelfTestFailed(LocalProtocolError):
    """This machine's AES does not produce the reference keystream."""

    code = "aes-self-test"

    def __init__(self) -> None:
        super().__init__(
            what="The fast AES path and the reference path gave different bytes.",
            meaning="Masks made here would not cancel, so nothing is masked on this machine.",
            remedy="Reinstall the 'cryptography' package; if it stays so, the CPU or OpenSSL is faulty.",
        )


@dataclass(frozen=True)
class Mask:
    """One seed and whether its words are added (+1) or subtracted (-1)."""

    seed: Secret
    sign: int


@dataclass(frozen=True)
class MaskedUpdate:
    """An encoded update under its masks: uniform words, the only stage that may leave the hospital."""

    words: Words

    def to_bytes(self) -> memoryview:
        """Little-endian 64-bit words; 8 * len(words) bytes, not copied."""
        return self.words.astype("<u8", copy=False).data.cast("B")

    def segments(self) -> Iterator[memoryview]:
        """The bytes in pieces of 16 MiB, so that a broken upload goes on where it stopped."""
        data = self.to_bytes()
        for start in range(0, len(data), SEGMENT_BYTES):
            yield data[start : start + SEGMENT_BYTES]


def segments_digest(hashes: Sequence[bytes]) -> bytes:
    """SHA-256 over the SHA-256 of each segment: what a node signs instead of the whole vector."""
    return hashlib.sha256(b"".join(hashes)).digest()


def mask(encoded: EncodedUpdate, masks: Sequence[Mask]) -> MaskedUpdate:
    """Add every mask to an encoded update.

    Args:
        masks: the node's own mask and one for each other member of the committed set.
    Guarantees: with at least one seed unknown to an observer, the result is indistinguishable from
        uniform words of Z_2^64 to it (AES-256 as a pseudorandom function). The input is left as it was.
    Source: Bonawitz et al., CCS 2017, section 4.
    """
    words = encoded.words.copy()
    add_masks(words, masks)
    return MaskedUpdate(words)


def add_masks(words: Words, masks: Iterable[Mask], *, first_segment: int = 0) -> None:
    """Add masks to ``words`` in place (mod 2^64).

    Args:
        words: uint64, shape (n,); its first word is the first of segment ``first_segment``.
    """
    pairs = list(masks)
    for offset in range(0, len(words), SEGMENT_WORDS):
        segment = words[offset : offset + SEGMENT_WORDS]
        _add_to_segment(segment, pairs, first_segment + offset // SEGMENT_WORDS)


def _add_to_segment(segment: Words, masks: Sequence[Mask], number: int) -> None:
    streams = [(_stream(m.seed.reveal(), number), m.sign) for m in masks]
    length = min(CHUNK_WORDS, len(segment))
    zeros, buffer = bytes(8 * length), np.empty(8 * length + 16, np.uint8)
    pad = buffer[: 8 * length].view("<u8")
    for start in range(0, len(segment), length):
        chunk = segment[start : start + length]
        source = zeros if len(chunk) == length else zeros[: 8 * len(chunk)]
        for stream, sign in streams:
            stream.update_into(source, buffer.data)
            if sign > 0:
                np.add(chunk, pad[: len(chunk)], out=chunk)
            else:
                np.subtract(chunk, pad[: len(chunk)], out=chunk)


def keystream(seed: bytes, length: int, segment: int = 0) -> bytes:
    """``length`` bytes of the generator by the plain CTR call, within one segment: the reference."""
    block = segment.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(seed), modes.CTR(block)).encryptor().update(bytes(length))


def _stream(seed: bytes, segment: int) -> CipherContext | AEADEncryptionContext:
    if not _fast_path_agrees():
        raise SelfTestFailed()
    return _gcm(seed, segment)


def _gcm(seed: bytes, segment: int) -> AEADEncryptionContext:
    return Cipher(algorithms.AES256(seed), modes.GCM(segment.to_bytes(12, "big"))).encryptor()


@cache
def _fast_path_agrees() -> bool:
    seed, length = bytes(range(32)), 4096 + 8
    return all(_gcm(seed, s).update(bytes(length)) == keystream(seed, length, s) for s in (0, 1, 2**33))
