"""What thousands of hospitals have sent to each other, kept small: bytes side by side instead of objects.

Two thousand hospitals deal each other four million sealed boxes. As Python objects they would take gigabytes;
here they lie in one file without a name, or in one piece of memory, behind mappings that look like the dicts
of ``privacy.secagg``'s messages and make a value when it is asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from medveil.identity import Secret
from privacy.secagg.messages import Shares, Unmask
from privacy.secagg.node import Dealt
from privacy.secagg.shamir import SHARE_BYTES

SEALED_BYTES, COMMITMENT_BYTES = 114, 32
DEALT_BYTES = 2 * SHARE_BYTES + 32


class Place(Protocol):
    """Bytes that can be read by their offset."""

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there."""
        ...


class Memory:
    """A place in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there."""
        return self._data[offset : offset + length]


class Spool:
    """A place in a file that nobody else can open, and that is gone with this process.

    Args:
        folder: on whose disk it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix="spool-", buffering=0)  # noqa: SIM115
        self._end = 0

    def add(self, data: bytes) -> int:
        """Write at the end; the offset."""
        offset, self._end = self._end, self._end + len(data)
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._file.fileno(), view, self._end - len(view)) :]
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there."""
        return os.pread(self._file.fileno(), length, offset)

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()


class Rows(Mapping[int, bytes]):
    """Values of one length, by hospital.

    Args:
        places: hospital → its number among the values; shared by all mappings of a round.
        own: a hospital that has no value here, although it has a number.
    """

    __slots__ = ("_first", "_length", "_own", "_place", "_places")

    def __init__(
        self, place: Place, first: int, length: int, places: Mapping[int, int], *, own: int = 0
    ) -> None:
        self._place, self._first, self._length = place, first, length
        self._places, self._own = places, own

    def __getitem__(self, index: int) -> bytes:
        if index == self._own:
            raise KeyError(index)
        return self._place.read(self._first + self._length * self._places[index], self._length)

    def __iter__(self) -> Iterator[int]:
        return (index for index in self._places if index != self._own)

    def __len__(self) -> int:
        return len(self._places) - (self._own in self._places)


class Holdings(Mapping[int, Dealt]):
    """What a hospital holds of the others' secrets, 98 bytes for each."""

    __slots__ = ("_data", "_places")

    def __init__(self, held: Mapping[int, Dealt], places: Mapping[int, int]) -> None:
        self._places = places
        self._data = b"".join(b"".join(part.reveal() for part in held[index]) for index in places)

    def __getitem__(self, index: int) -> Dealt:
        start = DEALT_BYTES * self._places[index]
        cut = (start, start + SHARE_BYTES, start + 2 * SHARE_BYTES, start + DEALT_BYTES)
        one, two, three = (Secret(self._data[a:b]) for a, b in pairwise(cut))
        return Dealt(one, two, three)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def numbered(members: Sequence[int]) -> dict[int, int]:
    """Hospital → its number in this order."""
    return {index: number for number, index in enumerate(members)}


def spooled_shares(message: Shares, spool: Spool, places: Mapping[int, int]) -> Shares:
    """The same message, with its boxes and commitments in a spool.

    Args:
        places: of exactly the hospitals that it deals to, and of the dealer itself.
    """
    own = message.sender
    boxes = b"".join(bytes(SEALED_BYTES) if j == own else message.sealed[j] for j in places)
    commitments = b"".join(message.share_commitments[j] for j in places)
    first, second = spool.add(boxes), spool.add(commitments)
    changes = {
        "sealed": Rows(spool, first, SEALED_BYTES, places, own=own),
        "share_commitments": Rows(spool, second, COMMITMENT_BYTES, places),
    }
    return message.model_copy(update=changes)


def packed_unmask(message: Unmask, alive: Mapping[int, int], dropped: Mapping[int, int]) -> Unmask:
    """The same message, with its shares side by side in memory."""
    own, keys = message.self_shares, message.key_shares
    changes = {
        "self_shares": Rows(Memory(b"".join(own[j] for j in alive)), 0, SHARE_BYTES, alive),
        "key_shares": Rows(Memory(b"".join(keys[j] for j in dropped)), 0, SHARE_BYTES, dropped),
    }
    return message.model_copy(update=changes)
