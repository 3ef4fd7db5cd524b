"""A vector before it is masked, which the product never has as a whole: made of the product's own pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import CHUNK_WORDS, Encoder, EncodingParams, RandomBytes, Words
from privacy.secagg.checkword import Product, pad
from privacy.secagg.masks import SEGMENT_WORDS, Mask, add_masks
from privacy.secagg.vector import MaskedUpdate


def encode(
    update: Update, p: EncodingParams, *, weight: int, metrics: NDArray[np.uint64], random_bytes: RandomBytes
) -> Words:
    """The words of an update, shape (p.words,); the check word, the last one, is zero."""
    encoder = Encoder(update, p, weight=weight, metrics=metrics, random_bytes=random_bytes)
    words = np.empty(p.words, np.uint64)
    for start in range(0, p.packed_words, CHUNK_WORDS):
        encoder.write(start, words[start : min(start + CHUNK_WORDS, p.packed_words)])
    words[p.packed_words :] = encoder.tail()
    return words


def checked(words: Words, key: Secret, p: EncodingParams, *, index: int) -> Words:
    """The same words with this hospital's check word in the last one."""
    product = Product(key, p)
    product.add(words[: p.packed_words])
    words = words.copy()
    words[-1] = (product.word(words[p.packed_words : -1]) + pad(key, index)) % 2**64
    return words


@dataclass(frozen=True)
class MaskedWords:
    """A masked vector as a whole, which the product never has."""

    words: Words

    def segments(self) -> Iterator[bytes]:
        """As the product sends them."""
        for start in range(0, len(self.words), SEGMENT_WORDS):
            yield self.words[start : start + SEGMENT_WORDS].astype("<u8", copy=False).tobytes()


def mask(words: Words, masks: Iterable[Mask]) -> MaskedWords:
    """Any words under their masks; the input is left as it was."""
    words = words.copy()
    add_masks(words, masks)
    return MaskedWords(words)


def whole(masked: MaskedUpdate) -> Words:
    """All segments together; each is copied before the next one is made in its memory."""
    return np.frombuffer(b"".join(bytes(segment) for segment in masked.segments()), "<u8").copy()
