"""Sums for a cluster: a small one in a folder, and studies whose sums go there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.storage.blobs import Blobs
from aggregator.work.unmasking import Summing
from medveil.identity import Secret
from privacy.secagg.masks import SEGMENT_BYTES, Mask
from world import Site, World


@dataclass
class Played:
    """A study and its hospitals."""

    world: World
    sites: list[Site]


def summing(folder: Path, *, words: int, hospitals: int = 2, attempt: str = "attempt") -> Summing:
    """What so many hospitals have sent, drawn from a fixed seed, with one mask in the sum."""
    draw, blobs, uploads = np.random.default_rng(0), Blobs(folder), {}
    for source in range(1, hospitals + 1):
        data = draw.bytes(8 * words)
        segments = [data[start : start + SEGMENT_BYTES] for start in range(0, len(data), SEGMENT_BYTES)]
        for number, segment in enumerate(segments):
            blobs.put_segment(attempt, source, number, segment)
        uploads[source] = tuple(hashlib.sha256(segment).digest() for segment in segments)
    removal = (Mask(Secret(bytes(range(32))), -1),)
    return Summing(blobs, attempt, "1", words, dict(uploads), removal)
