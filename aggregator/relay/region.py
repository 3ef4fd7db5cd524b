"""The masked vectors of one region in one attempt: kept until all are there, then added.

What is kept is masked: nobody who reads it, the relay included, learns anything of a hospital's update.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from aggregator.work.unmasking import check_length, segment_lengths
from medveil.errors import RemoteProtocolError
from medveil.relaying import RelayedUploads, RelayIdentity
from privacy.secagg.messages import Upload


class NotWhole(RemoteProtocolError):
    """A hospital signs for segments that are not here."""

    code = "not-whole"

    def __init__(self) -> None:
        super().__init__(
            what="The segments that this hospital signed are not those that the relay has of it.",
            meaning="The vector was not added to the region's sum.",
            remedy="Nothing to do: the node sends its vector to the aggregator itself.",
        )


class Region:
    """Vectors of one attempt on the relay's disk.

    Args:
        folder: of its own; removed by :meth:`forget`. words: length of a vector in 64-bit words.
    """

    def __init__(self, folder: Path, words: int) -> None:
        self._folder, self._lengths = folder, segment_lengths(words)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.whole: dict[str, Upload] = {}
        """Hospital → its word for a vector that is here in full."""

    def put(self, name: str, number: int, data: bytes) -> None:
        """Keep one segment; a repeated one replaces it. Raises: WrongLength."""
        check_length(self._lengths, number, len(data))
        self._file(name, number).write_bytes(data)

    def sign_for(self, name: str, word: Upload) -> None:
        """A hospital has sent all. Raises: NotWhole unless exactly what it signed is here."""
        if len(word.segments) != len(self._lengths):
            raise NotWhole()
        for number, digest in enumerate(word.segments):
            try:
                data = self._file(name, number).read_bytes()
            except FileNotFoundError as error:
                raise NotWhole() from error
            if hashlib.sha256(data).digest() != digest:
                raise NotWhole()
        self.whole[name] = word

    def sums(self, words: Mapping[str, Upload]) -> Iterator[bytes]:
        """Each segment of the sum of these hospitals' vectors, mod 2^64, in little-endian words.

        Guarantees: memory stays at two segments, however many hospitals there are.
        """
        for number, length in enumerate(self._lengths):
            total = np.zeros(length // 8, np.uint64)
            for name in words:
                np.add(total, np.fromfile(self._file(name, number), "<u8"), out=total)
            yield total.astype("<u8", copy=False).tobytes()

    def forget(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, name: str, number: int) -> Path:
        return self._folder / f"{name}.{number}"


def told(relay: RelayIdentity, words: Mapping[str, Upload], segments: tuple[bytes, ...]) -> RelayedUploads:
    """What the aggregator is told of a sum."""
    ordered = sorted(words.values(), key=lambda word: word.sender)
    return RelayedUploads(relay=relay, uploads=tuple(w.to_bytes() for w in ordered), segments=segments)
