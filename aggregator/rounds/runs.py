"""What the coordinator remembers of each plan: its last round, its newest model and the open attempt."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field

from aggregator.work.versions import Made
from aggregator.work.workers import Failure
from medveil.errors import RemoteProtocolError
from medveil.plan import Plan
from medveil.reports import AttemptReport, Waiting
from medveil.rounds import AttemptKey, ModelVersion, Phase, RoundKind
from privacy.encoding import EncodingParams
from privacy.secagg import server

WORDS_OF_A_SEGMENT = 2**21


class WrongRound(RemoteProtocolError):
    """A message for a round or attempt that is not the current one."""

    code = "wrong-round"

    def __init__(self) -> None:
        super().__init__(
            what="The message is for a round that is not open.",
            meaning="It came too late, or it is an old message repeated; nothing was changed.",
            remedy="The node goes on with the round it is told.",
        )


class StillWriting(RemoteProtocolError):
    """A segment that an earlier request of the same hospital is still writing."""

    code = "still-writing"
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__(
            what="An earlier request of this hospital is still writing a segment of its upload.",
            meaning="Nothing was changed by this one.",
            remedy="Nothing to do; the node sends it again. If it lasts, the aggregator's storage is slow.",
        )


class UnmaskingLost(RemoteProtocolError):
    """The processes that unmask a sum ended again and again without a result."""

    code = "unmasking-lost"

    def __init__(self) -> None:
        super().__init__(
            what="The worker processes that were to unmask a sum ended without a result, several times.",
            meaning="The sum can be opened, so it is tried again every minute; its plan waits for it.",
            remedy="Check the aggregator's memory (was a process killed for it?) and its log.",
        )


class UnmaskingStuck(RemoteProtocolError):
    """A process that unmasks a sum did not come to an end."""

    code = "unmasking-stuck"

    def __init__(self) -> None:
        super().__init__(
            what="The worker processes did not unmask a sum in time, several times.",
            meaning="They are replaced each time and it is tried again every minute; its plan waits for it.",
            remedy="Does the disk with the aggregator's folder answer? Has the machine enough memory?",
        )


@dataclass(frozen=True)
class SegmentClaim:
    """The right of one request to write one segment of a masked vector."""

    key: AttemptKey
    hospital: int
    segment: int


@dataclass
class Publication:
    """A finished attempt on its way to a result: jobs in the hands of the workers."""

    started: float
    token: str
    """Of this try: its drafts bear it."""
    parts: list[Future[Failure | None]]
    """The segments of the sum."""
    made: Future[Failure | Made] | None = None
    """What is made of the sum; handed in when all its segments are there."""


@dataclass
class Attempt:
    """One attempt at a secure sum, in memory."""

    key: AttemptKey
    kind: RoundKind
    params: EncodingParams
    state: server.ServerState
    opened: float
    phase_opened: float
    events: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    bytes_up: Counter[str] = field(default_factory=Counter)
    bytes_down: Counter[str] = field(default_factory=Counter)
    claims: Counter[int] = field(default_factory=Counter)
    """Hospital's index → how often it was allowed to write a segment."""
    read_back: dict[int, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)
    """Hospital's index → the segments that were found stored as it signed them, and its claims by then."""
    sitting_out: set[str] = field(default_factory=set)
    """Hospitals that said they have left this attempt; they say so with every poll."""
    wrong_shares: tuple[str, ...] = ()
    """Who returned other shares than it was dealt."""
    reason: str = ""
    """Why it has failed, once hospitals are asked to give it up."""
    trouble: Waiting | None = None
    """Why its sum, which can be opened, is not published yet."""
    retry_at: float = 0.0
    """When that is tried again (monotonic clock)."""
    publication: Publication | None = None
    lost: int = 0
    """How often a worker ended without the result of its job, or did not end."""


@dataclass
class Run:
    """A plan that is being worked on."""

    plan: Plan
    admin_signature: bytes
    approvals: dict[str, bytes]
    """Hospital → signature."""
    finished: bool
    newest: tuple[ModelVersion, dict[str, str]]
    """The last version of the model, and the hashes of the optimiser's state."""
    ended: int = 0
    """Attempts behind it; what they were is in the store."""
    last: tuple[AttemptReport, ...] = ()
    """Those of the newest round that has any, in order."""
    attempt: Attempt | None = None
    approved_at: float | None = None
    """When most hospitals had approved (monotonic clock); None before."""
    received: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Hospital → what its last message answered, and the message's SHA-256."""

    @property
    def longest_message(self) -> int:
        """Most bytes that a hospital's message in this plan may have.

        The longest has two boxes' hashes and one box for each hospital, or a hash for each segment.
        """
        words = self.plan.study.model.tensors.size
        return 1024 + 200 * len(self.plan.roster) + 40 * (words // WORDS_OF_A_SEGMENT + 8)

    def end(self, report: AttemptReport) -> None:
        """Remember an attempt that has ended."""
        self.ended += 1
        self.last = (*(a for a in self.last if a.round == report.round), report)

    @property
    def token(self) -> str:
        """Changes whenever a hospital might have something new to do."""
        attempt = self.attempt  # read once: the coordinator may be at work on another thread
        if attempt is None:
            return f"finished {self.finished} {self.ended}"
        return token_of(attempt.key, attempt.state.phase)


def token_of(key: AttemptKey, phase: Phase) -> str:
    """Names what a hospital is told of an open attempt; a node only compares it."""
    return f"{key.round} {key.attempt} {phase}"
