"""A hospital's vector work in one round, as the benchmarks time it: the real pass, and its pieces alone."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crowd import NO_METRICS
from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import BLOCK_WORDS, Encoder, EncodingParams
from privacy.secagg.checkword import Product
from privacy.secagg.keystream import stream
from privacy.secagg.masks import CHUNK_WORDS as MASKED_WORDS
from privacy.secagg.masks import Mask, Masker
from privacy.secagg.vector import MaskedUpdate, masked_update
from timing import Case

CLIP = 0.1
NEIGHBOURS = 10
CHECK_KEY = Secret(secrets.token_bytes(32))
LANES = {32: "1x32", 21: "3x21", 16: "2x16"}


def some_update(parameters: int) -> Update:
    """Values all over the range."""
    return Update(np.random.default_rng(0).uniform(-CLIP, CLIP, parameters).astype(np.float32))


def params_of(parameters: int, bits: int, *, cohort: int = NEIGHBOURS + 1) -> EncodingParams:
    """Of a vector without metrics."""
    return EncodingParams(parameters, 0, bits, clip=CLIP, max_weight=100, cohort=cohort)


def some_masks(count: int = NEIGHBOURS + 1) -> list[Mask]:
    """Fresh ones: the hospital's own and one for each neighbour."""
    return [Mask(Secret(secrets.token_bytes(32)), 1 if i % 2 else -1) for i in range(count)]


def step(update: Update, masks: list[Mask], params: EncodingParams) -> Case:
    """The node's own function, and every segment that it makes, one after the other."""
    return lambda: sum(map(len, masked(update, masks, params).segments()))


def masked(update: Update, masks: list[Mask], params: EncodingParams) -> MaskedUpdate:
    """With the largest weight, and the check word of some key."""
    return masked_update(
        update,
        params,
        weight=params.max_weight,
        metrics=NO_METRICS,
        check_key=CHECK_KEY,
        index=1,
        masks=masks,
        random_bytes=secrets.token_bytes,
    )


def pieces(update: Update, masks: list[Mask], params: EncodingParams) -> dict[str, Case]:
    """Each piece of that pass alone, over and over in the memory of one block."""
    words, sizes = np.zeros(BLOCK_WORDS, np.uint64), range(0, params.packed_words, BLOCK_WORDS)
    chunks = [(start, words[: min(BLOCK_WORDS, params.packed_words - start)]) for start in sizes]

    def encode() -> None:
        encoder = Encoder(
            update,
            params,
            weight=params.max_weight,
            metrics=NO_METRICS,
            random_bytes=secrets.token_bytes,
        )
        for start, chunk in chunks:
            encoder.write(start, chunk)

    def check() -> None:
        words.fill(0)
        product = Product(CHECK_KEY, params)
        for _, chunk in chunks:
            product.add(chunk)

    def mask() -> None:
        masker = Masker(masks)
        for _, chunk in chunks:
            masker.add(chunk)

    return {"encode": encode, "check word": check, "masks": mask}


def keystreams(masks: list[Mask], words: int) -> None:
    """The same bytes in the same order as masking, added to nothing."""
    _expand([stream(m.seed.reveal()) for m in masks], words)


def plain_keystreams(masks: list[Mask], words: int) -> None:
    """The same, by the plain CTR call."""
    block = (2).to_bytes(16, "big")
    _expand([Cipher(algorithms.AES256(m.seed.reveal()), modes.CTR(block)).encryptor() for m in masks], words)


def _expand(streams: list[Any], words: int) -> None:
    zeros, out = memoryview(bytes(8 * MASKED_WORDS)), bytearray(8 * MASKED_WORDS + 16)
    for start in range(0, words, MASKED_WORDS):
        size = 8 * min(MASKED_WORDS, words - start)
        for each in streams:
            each.update_into(zeros[:size], out)
