"""From an update to what may leave the hospital, in one pass.

Block after block is encoded, counted into the check word and masked while it is in the core's own caches. So
no unmasked vector exists: what is not yet masked is one block, in the memory where its masked words will be.
Nor does a masked vector exist as a whole: it is sent segment by segment, and so it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import BLOCK_WORDS, Encoder, EncodingParams, RandomBytes
from privacy.secagg.checkword import Product, pad
from privacy.secagg.masks import SEGMENT_WORDS, Mask, Masker


class MaskedUpdate:
    """An encoded update under its masks: uniform words, the only stage that may leave the hospital.

    It is never there as a whole. Each of its segments is made when it is asked for, in the memory of the one
    before; asked once more, they have the same bytes, since the rounding's seed is drawn once.
    """

    def __init__(
        self, encoder: Encoder, p: EncodingParams, *, check_key: Secret, index: int, masks: Sequence[Mask]
    ) -> None:
        self._encoder, self._p, self._masks = encoder, p, masks
        self._check_key, self._index = check_key, index

    def segments(self) -> Iterator[memoryview]:
        """The words' bytes (little-endian) in pieces of 16 MiB, one after the other, check word last.

        A piece is valid until the next one is asked for. So a broken upload goes on where it stopped.
        """
        p, encoder = self._p, self._encoder.again()
        product, masker = Product(self._check_key, p), Masker(self._masks, longest=p.words)
        words, tail = np.empty(min(SEGMENT_WORDS, p.words), "<u8"), np.zeros(0, "<u8")
        for start in range(0, p.words, SEGMENT_WORDS):
            segment = words[: min(SEGMENT_WORDS, p.words - start)]
            packed = segment[: max(0, p.packed_words - start)]
            for at in range(0, len(packed), BLOCK_WORDS):
                block = packed[at : at + BLOCK_WORDS]
                encoder.write(start + at, block)
                product.add(block)
                masker.add(block)
            if len(packed) < len(segment):
                if not len(tail):
                    tail = encoder.tail()
                    tail[-1] = (product.word(tail[:-1]) + pad(self._check_key, self._index)) % 2**64
                    masker.add(tail)
                size = len(segment) - len(packed)
                segment[len(packed) :], tail = tail[:size], tail[size:]
            yield segment.data.cast("B")


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
    Returns: p.words words, which are made segment by segment (:meth:`MaskedUpdate.segments`).
    Guarantees: with at least one seed unknown to an observer, the result is indistinguishable from uniform
        words of Z_2^64 to it (AES-256 as a pseudorandom function). The memory beside the update and one
        segment is below 4 MiB.
    Raises: OutOfRange if the update, the weight or a metric cannot be encoded, before there is any segment;
        ValueError without a mask.
    Source: Bonawitz et al., CCS 2017, section 4.
    """
    if not masks:
        raise ValueError("an update without a mask is not masked")
    encoder = Encoder(update, p, weight=weight, metrics=metrics, random_bytes=random_bytes)
    return MaskedUpdate(encoder, p, check_key=check_key, index=index, masks=masks)
