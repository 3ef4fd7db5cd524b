"""The one generator behind masks and rounding: AES-256 in counter mode, by the fastest correct call.

Segment s of a seed starts at the counter block be96(s) || be32(2), which is exactly what GCM produces for
zeros under the nonce be96(s). OpenSSL's GCM code is faster than its CTR code on CPUs with wide AES; the plain
CTR call stays here as the tested reference.
"""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes

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


def keystream(seed: bytes, length: int, segment: int = 0) -> bytes:
    """``length`` bytes of the generator by the plain CTR call, within one segment: the reference."""
    block = segment.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(seed), modes.CTR(block)).encryptor().update(bytes(length))


def stream(seed: bytes, segment: int = 0) -> AEADEncryptionContext:
    """The fast generator of one segment: encrypt zeros with ``update_into``, at most 64 GiB of them.

    Raises: SelfTestFailed.
    """
    if not _fast_path_agrees():
        raise SelfTestFailed()
    return _gcm(seed, segment)


def _gcm(seed: bytes, segment: int) -> AEADEncryptionContext:
    return Cipher(algorithms.AES256(seed), modes.GCM(segment.to_bytes(12, "big"))).encryptor()


@cache
def _fast_path_agrees() -> bool:
    seed, length = bytes(range(32)), 4096 + 8
    return all(_gcm(seed, s).update(bytes(length)) == keystream(seed, length, s) for s in (0, 1, 2**33))
