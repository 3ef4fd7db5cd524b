"""From an update to what may leave the hospital, in one pass.

Chunk after chunk is encoded, counted into the check word and masked while it is in the core's own caches. So
no unmasked vector exists: what is not yet masked is one chunk, in the memory where its masked words will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import CHUNK_WORDS, Encoder, EncodingParams, RandomBytes, Words
from privacy.secagg.checkword import Product, pad
from privacy.secagg.masks import SEGMENT_BYTES, Mask, Masker


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


def masked_update(
    update: Update,
    p: EncodingParams,
    *,
    weight: int,
    metrics: NDArray[np.uint64],
    check_key: Secret,
    index: int,
    masks: Sequence[Mask],
    random_bytes: RandomBytes,
) -> MaskedUpdate:
    """Encode an update, give it its check word and add every mask.

    Args:
        update: float32, shape (d,), every |entry| <= p.clip (model units).
        weight: this hospital's weight, 1 to p.max_weight.
        metrics: uint64, shape (p.metrics,), fixed point (``privacy.encoding.encode_metrics``).
        check_key: of the committed set (``CommittedState.check_key``).
        index: this hospital's index on the roster.
        masks: the node's own mask and one for each of its neighbours in the committed set.
        random_bytes: a cryptographic source; 32 bytes of it seed the rounding.
    Returns: p.words words, the check word last.
    Guarantees: with at least one seed unknown to an observer, the result is indistinguishable from uniform
        words of Z_2^64 to it (AES-256 as a pseudorandom function). The memory beside the update and the
        result is below 4 MiB.
    Raises: OutOfRange if the update, the weight or a metric cannot be encoded; ValueError without a mask.
    Source: Bonawitz et al., CCS 2017, section 4.
    """
    if not masks:
        raise ValueError("an update without a mask is not masked")
    encoder = Encoder(update, p, weight=weight, metrics=metrics, random_bytes=random_bytes)
    product, masker, words = Product(check_key, p), Masker(masks, longest=p.words), np.empty(p.words, "<u8")
    for start in range(0, p.packed_words, CHUNK_WORDS):
        chunk = words[start : min(start + CHUNK_WORDS, p.packed_words)]
        encoder.write(start, chunk)
        product.add(chunk)
        masker.add(chunk)
    tail = encoder.tail()
    tail[-1] = (product.word(tail[:-1]) + pad(check_key, index)) % 2**64
    masker.add(tail)
    words[p.packed_words :] = tail
    return MaskedUpdate(words)
