"""Segments of masked vectors that a process takes which does not lead; and how the leader hears of them.

What is wanted is read from the store, where everything is that the leader has told a hospital. What is kept
is named by its content, so no write of it can change what the leader has taken; the leader takes the upload
as ever, by the hospital's signed word, once it has found exactly its segments.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from aggregator.errors import NotFound
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.runs import Run, Runs, WrongRound
from aggregator.rounds.status import PlanReader
from aggregator.storage.blobs import Blobs
from aggregator.storage.transactions import NotLeading
from aggregator.work.unmasking import check_length, segment_lengths
from medveil.rounds import AttemptKey, Phase

MOST_VERSIONS = 3
"""Different contents of one segment that this process keeps: an honest node sends the same bytes again."""


class Taking:
    """Takes hospitals' segments beside the leader. Any thread may call it."""

    def __init__(self, reader: PlanReader, blobs: Blobs) -> None:
        self._reader, self._blobs = reader, blobs
        self._kept: dict[tuple[AttemptKey, int, int], set[bytes]] = {}
        self._counting = threading.Lock()

    def look(self, key: AttemptKey, name: str, segment: int, *, size: int) -> int | None:
        """Whose segment it would be, or None if its upload is signed; asked before a body is read.

        Raises: NotFound, WrongRound, OutOfPhase, WrongLength, as the leader would.
        """
        plan, attempt = self._reader.opened(key.plan)
        member = plan.member(name)
        if member is None:
            raise NotFound()
        if attempt is None or attempt.key != key:
            raise WrongRound()
        source = attempt.source_of(member.index)
        if source is not None:
            check_length(segment_lengths(attempt.params.words), segment, size)
        return source

    def take(self, key: AttemptKey, name: str, segment: int, data: bytes) -> None:
        """Keep a segment; it is on stable storage afterwards.

        Raises: as :meth:`look`, and StorageFailed; NotLeading if a hospital sends ever other contents.
        """
        source = self.look(key, name, segment, size=len(data))
        if source is None:
            return
        self._count(key, source, segment, hashlib.sha256(data).digest())
        self._blobs.put_aside(key.folder, source, segment, data)
        _, attempt = self._reader.opened(key.plan)
        if attempt is None or attempt.key != key:
            self._blobs.forget_uploads(key.folder)  # it has ended meanwhile, and its files are gone
            raise WrongRound()

    def _count(self, key: AttemptKey, source: int, segment: int, digest: bytes) -> None:
        with self._counting:
            for other in [k for k in self._kept if k[0].plan == key.plan and k[0] != key]:
                del self._kept[other]
            versions = self._kept.setdefault((key, source, segment), set())
            if digest not in versions and len(versions) >= MOST_VERSIONS:
                raise NotLeading()
            versions.add(digest)


def open_uploads(runs: Runs) -> list[tuple[Run, Attempt]]:
    """The attempts that take masked vectors at the moment; any thread may ask."""
    found = [(run, run.attempt) for run in tuple(runs.all())]
    return [(run, one) for run, one in found if one is not None and one.state.phase is Phase.UPLOAD]


def hear(runs: Runs, run: Run, attempt: Attempt, aside: Iterable[tuple[int, int, str]]) -> None:
    """At the leader: who has sent a segment to another process since is in reach, and its bytes count.

    Args:
        aside: as :meth:`~aggregator.storage.blobs.Blobs.aside` tells it.
    """
    lengths = segment_lengths(attempt.params.words)
    for source, number, digest in set(aside) - attempt.aside:
        attempt.aside.add((source, number, digest))
        for name in run.names([source]):
            runs.touch(name)
            runs.count_bytes(run.plan.id, name, up=lengths[number] if number < len(lengths) else 0, down=0)
