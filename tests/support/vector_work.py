"""A hospital's vector work in one round, as the benchmarks time it: encode, check word, masks."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crowd import NO_METRICS
from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import EncodedUpdate, EncodingParams, encode
from privacy.secagg.checkword import CheckedUpdate, with_check_word
from privacy.secagg.keystream import stream
from privacy.secagg.masks import CHUNK_WORDS, Mask, mask
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
    """Encode, check word, masks: as a node does it."""
    return lambda: mask(checked(update, params), masks, in_place=True)


def step_unchecked(update: Update, masks: list[Mask], params: EncodingParams) -> Case:
    """The same without the check word, which no node leaves out: only to show what it costs."""
    return lambda: mask(CheckedUpdate(encoded(update, params).words), masks, in_place=True)


def checked(update: Update, params: EncodingParams) -> CheckedUpdate:
    """With the check word of some key."""
    return with_check_word(encoded(update, params), CHECK_KEY, params, index=1)


def encoded(update: Update, params: EncodingParams) -> EncodedUpdate:
    """With the largest weight."""
    return encode(update, params, weight=100, metrics=NO_METRICS, random_bytes=secrets.token_bytes)


def keystreams(masks: list[Mask], words: int) -> None:
    """The same bytes in the same order as masking, added to nothing."""
    _expand([stream(m.seed.reveal()) for m in masks], words)


def plain_keystreams(masks: list[Mask], words: int) -> None:
    """The same, by the plain CTR call."""
    block = (2).to_bytes(16, "big")
    _expand([Cipher(algorithms.AES256(m.seed.reveal()), modes.CTR(block)).encryptor() for m in masks], words)


def _expand(streams: list[Any], words: int) -> None:
    zeros, out = memoryview(bytes(8 * CHUNK_WORDS)), bytearray(8 * CHUNK_WORDS + 16)
    for start in range(0, words, CHUNK_WORDS):
        size = 8 * min(CHUNK_WORDS, words - start)
        for each in streams:
            each.update_into(zeros[:size], out)
