"""From the survivors' masked segments to the sum of their encoded updates, one segment at a time.

Each segment is a job of its own for a worker process, so several cores share one sum, or several machines.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed
from medveil.errors import RemoteProtocolError
from privacy.secagg.masks import SEGMENT_WORDS, Mask, Words, add_masks

AT_ONCE = 4
"""Parts that are fetched and checked together: hashing them is most of it, and needs no lock of Python's."""
SUM = "sum"
"""Name of the draft in which a sum grows, segment by segment."""


class WrongLength(RemoteProtocolError):
    """An upload does not have the length that the plan asks for."""

    code = "wrong-length"

    def __init__(self) -> None:
        super().__init__(
            what="A masked upload does not have the length of this study's vector.",
            meaning="It was refused and not summed.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


def check_length(lengths: Sequence[int], number: int, size: int) -> None:
    """Whether this is the size of segment ``number``. Args: lengths: of all. Raises: WrongLength."""
    if not 0 <= number < len(lengths) or size != lengths[number]:
        raise WrongLength()


class DamagedSegment(RemoteProtocolError):
    """A stored segment is not the one that its hospital signed."""

    code = "damaged-segment"

    def __init__(self, *, source: int | str, segment: int) -> None:
        whose = source if isinstance(source, str) else f"hospital {source}"
        super().__init__(
            what=f"Segment {segment} of {whose}'s upload is missing or damaged on the disk.",
            meaning="The sum can be opened, so it is tried again every minute; its plan waits for it.",
            remedy="Check the aggregator's disk; put the folder 'uploads' back from a copy, if there is one.",
        )
        self.source, self.segment = source, segment


@dataclass(frozen=True)
class Summing:
    """What the sum of one attempt is made of. The same values give the same bytes in any process.

    Args:
        folder: the attempt's folder among the uploads.
        draft_id: of this try; its drafts bear it, so that no other try can write into them.
        words: length of the vector.
        uploads: survivor's index, or what a relay's sum is stored under → SHA-256 of each of its segments.
        removal: the masks that are still in the survivors' sum, with their signs reversed.
    """

    blobs: Blobs
    folder: str
    draft_id: str
    words: int
    uploads: Mapping[int | str, tuple[bytes, ...]]
    removal: tuple[Mask, ...] = field(repr=False)

    @property
    def draft(self) -> Path:
        """The file in which the sum grows: little-endian 64-bit words."""
        return self.blobs.draft(self.folder, SUM, self.draft_id)


def segment_lengths(words: int) -> list[int]:
    """Bytes of each segment of a vector of ``words`` 64-bit words."""
    return [8 * min(SEGMENT_WORDS, words - start) for start in range(0, words, SEGMENT_WORDS)]


def sum_segment(job: Summing, number: int) -> None:
    """Write segment ``number`` of the sum of the encoded updates, mod 2^64, to its place in the draft.

    Guarantees: memory stays at two segments, however many hospitals there are; repeating it changes nothing.
    Raises: DamagedSegment, StorageFailed.
    """
    total = _added(job, number)
    try:
        with open(job.draft, "r+b", opener=_create) as file:
            file.seek(8 * SEGMENT_WORDS * number)
            file.write(total.data)
    except OSError as error:
        raise StorageFailed() from error


def sum_part(job: Summing, number: int) -> bytes:
    """Put the same segment among the attempt's uploads, where another machine finds it; its SHA-256.

    Guarantees and raises: as :func:`sum_segment`.
    """
    data = _added(job, number).tobytes()
    job.blobs.put_part(job.folder, part_of(job.draft_id), number, data)
    return hashlib.sha256(data).digest()


def gather(blobs: Blobs, folder: str, draft_id: str, parts: tuple[bytes, ...]) -> None:
    """Write the draft out of the parts that lie among the uploads.

    Args:
        parts: SHA-256 of each.
    Raises: DamagedBlob unless exactly these parts are there; StorageFailed.
    """
    draft = blobs.draft(folder, SUM, draft_id)

    def put(number: int, digest: bytes) -> None:
        with (
            blobs.signed_segment(folder, part_of(draft_id), number, digest) as data,
            open(draft, "r+b") as file,
        ):
            file.seek(8 * SEGMENT_WORDS * number)
            file.write(data)

    try:
        open(draft, "wb", opener=_create).close()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(put, range(len(parts)), parts))
    except OSError as error:
        raise StorageFailed() from error


def part_of(draft_id: str) -> str:
    """What the parts of a sum are stored under: no hospital's index, and no relay's sum."""
    return f"{SUM}.{draft_id}"


def _added(job: Summing, number: int) -> Words:
    """The survivors' segments added up, without their masks: little-endian words."""
    length = segment_lengths(job.words)[number]
    total = np.zeros(length // 8, np.uint64)
    for source, digests in job.uploads.items():
        try:
            with job.blobs.signed_segment(job.folder, source, number, digests[number]) as data:
                if len(data) != length:
                    raise DamagedBlob()
                np.add(total, np.frombuffer(data, "<u8"), out=total)
        except DamagedBlob as error:
            raise DamagedSegment(source=source, segment=number) from error
    add_masks(total, job.removal, first_segment=number)
    return total.astype("<u8", copy=False)


def _create(path: str, flags: int) -> int:
    """Open for writing a part; several workers write parts of one file."""
    return os.open(path, flags | os.O_CREAT, 0o600)
