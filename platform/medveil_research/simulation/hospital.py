"""One simulated hospital: the node's own attempt (:mod:`hospital_node.attempt`) on a line that leads nowhere
far.

What it sends is put into a box, from which the caller takes it; what it is shown comes as bytes, as over the
wire. A journal in memory takes the place of the one on disk.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from hospital_node.attempt import Attempt
from hospital_node.contribution import Contribution
from hospital_node.journal import Journal
from hospital_node.line import Line, Unreachable
from hospital_node.relay import RelayLine
from hospital_node.steps import AlreadyDone
from medveil.identity import Body, Secret
from medveil.messages import Work
from medveil.plan import Plan
from medveil.rounds import AttemptKey, Phase
from medveil.tensors import Float32, Update
from medveil_research.simulation.spool import Holdings, numbered
from privacy.encoding import Words
from privacy.secagg.masks import Mask, add_masks
from privacy.secagg.messages import Advertise, Certificates, Published
from privacy.secagg.node import AdvertisedState, AgreedState, CommittedState, Party, SharedState
from privacy.secagg.vector import MaskedUpdate

NOTHING = Contribution(Update(np.empty(0, np.float32)), None, 1)
Make = Callable[[], Contribution]


@dataclass
class Box:
    """What a hospital has sent in one step."""

    letters: list[tuple[str, bytes]] = field(default_factory=list)
    """Kind and body of each message."""
    segments: list[bytes] = field(default_factory=list, repr=False)


class PostBox:
    """A :class:`hospital_node.line.Line` of one hospital that keeps what is handed in."""

    def __init__(self) -> None:
        self._box = Box()

    def empty(self) -> Box:
        """What was handed in since the last time."""
        box, self._box = self._box, Box()
        return box

    async def message(self, key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Work:
        """Keep a protocol message; what is next is told by the next view."""
        self._box.letters.append((kind, body))
        return await self.work(key.plan, seen="", wait_s=wait_s)

    async def segment(self, key: AttemptKey, segment: int, data: Body, *, digest: bytes) -> None:
        """Keep a copy of a segment of a masked vector."""
        self._box.segments.append(bytes(data))

    async def work(
        self,
        plan: str,
        *,
        seen: str,
        wait_s: float,
        sitting_out: AttemptKey | None = None,
        away: bool = False,
    ) -> Work:
        """Nothing yet: the simulation shows each phase itself."""
        return Work(mark="", status="waiting")

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        """A simulated hospital is handed its model. Raises: Unreachable."""
        raise Unreachable(reason="a simulated hospital fetches nothing")

    async def proof(self, plan: str, version: int) -> Published:
        """As :meth:`model`. Raises: Unreachable."""
        raise Unreachable(reason="a simulated hospital fetches nothing")

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        """As :meth:`model`. Raises: Unreachable."""
        raise Unreachable(reason="a simulated hospital fetches nothing")

    async def certificates(self, plan: str, number: int) -> Certificates:
        """As :meth:`model`. Raises: Unreachable."""
        raise Unreachable(reason="a simulated hospital fetches nothing")


class Notes:
    """What a hospital has done in one attempt, in memory: it refuses what the journal on disk refuses."""

    def __init__(self) -> None:
        self.steps: dict[str, str] = {}

    def upload(self, key: AttemptKey, *, advertised: tuple[int, ...]) -> None:
        """The masked vector leaves. Raises: AlreadyDone."""
        self._add("upload", "")

    def note(self, key: AttemptKey, step: str, detail: str = "") -> None:
        """A step after that. Raises: AlreadyDone."""
        if "upload" not in self.steps:
            raise AlreadyDone(reason="its masked vector has not left")
        self._add(step, "")

    def give_up(self) -> None:
        """It never unmasks in this attempt. Raises: AlreadyDone if it has."""
        self._add("abort", "", unless="unmask")

    def _add(self, step: str, detail: str, *, unless: str = "abort") -> None:
        if step in self.steps or unless in self.steps:
            raise AlreadyDone(reason=f"the step '{step}' is done or excluded")
        self.steps[step] = detail


class Later(asyncio.Future[Contribution]):
    """A contribution that is made when it is asked for: thousands of them are never in memory together."""

    def __init__(self, make: Make, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._make = make
        self.set_result(NOTHING)

    def result(self) -> Contribution:
        """Make it. Raises: what making it raises."""
        return self._make()


@dataclass
class Truth:
    """What the sum must be, known because whoever simulates holds every hospital's masks.

    Args:
        words: sum of the encoded vectors mod 2^64, without masks, uint64.
        updates: sum of weight times update, float64.
    """

    words: Words
    updates: np.ndarray[tuple[int], np.dtype[np.float64]]
    weight: int = 0
    hospitals: int = 0
    masks: int = 0

    def add(self, words: Words, contribution: Contribution) -> None:
        """One hospital more."""
        np.add(self.words, words, out=self.words)
        np.add(self.updates, contribution.update.values * np.float64(contribution.weight), out=self.updates)
        self.weight, self.hospitals = self.weight + contribution.weight, self.hospitals + 1


@dataclass
class Common:
    """What all hospitals of a process have in common in an attempt, so that it is in memory once."""

    transcript: bytes = b""
    peers: Mapping[int, Advertise] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)


class SimulatedAttempt(Attempt):
    """The node's attempt, that between two steps keeps no more than the next one needs.

    Args:
        truth: takes what the hospital has encoded, for comparison with the sum.
    """

    def __init__(
        self, plan: Plan, party: Party, contribution: Later, *, common: Common, truth: Truth
    ) -> None:
        self.box, self.notes = PostBox(), Notes()
        self._common, self._truth = common, truth
        self.aside_s, self.masking_s, self.neighbours = 0.0, 0.0, 0
        super().__init__(
            plan,
            party,
            contribution,
            journal=cast(Journal, self.notes),
            line=self.box,
            remember=lambda _: None,
        )

    @property
    def committed(self) -> CommittedState | None:
        """What it knows since the committed set was fixed."""
        state = self._state
        if isinstance(state, AgreedState):
            return state.committed
        return state if isinstance(state, CommittedState) else None

    async def take(self, phase: Phase, payload: bytes) -> Box:
        """Answer a phase, as :meth:`Attempt.answer` does, and let go of what is not needed any more."""
        await (self.begin() if phase is Phase.ADVERTISE else self.answer(phase, payload))
        common, state = self._common, self._state
        if isinstance(state, SharedState) and phase is Phase.SHARE:
            if not common.transcript:
                common.transcript, common.peers = state.transcript, state.peers
            if state.transcript == common.transcript:  # a hash of all of them
                self._state = replace(state, peers=common.peers)
        if isinstance(state, CommittedState) and phase is Phase.UPLOAD:
            self.neighbours = len(state.neighbours)
            if not common.places:
                common.places = numbered(state.members)
            self._state = replace(state, held=Holdings(state.held, common.places), masks=())
            box = self.box.empty()
            self._tell_truth(state, box)
            return box
        return self.box.empty()

    async def _send_segments(self, masked: MaskedUpdate, to: Line | RelayLine) -> list[bytes]:
        began = _cpu_s()
        hashes = await super()._send_segments(masked, to)
        self.masking_s = _cpu_s() - began
        return hashes

    def add_plain(self) -> None:
        """Add this hospital's vector to the truth and send nothing: its one mask is taken off again."""
        state = self._state
        assert isinstance(state, AdvertisedState)  # as it was made
        own, key = Mask(Secret(secrets.token_bytes(32)), 1), Secret(secrets.token_bytes(32))
        nobody = CommittedState(state.party, {}, b"", (), b"", (own,), frozenset(), key, {})
        box = Box()
        box.segments += map(bytes, self._masked(nobody, self._contribution.result()).segments())
        self._tell_truth(nobody, box)

    def _tell_truth(self, state: CommittedState, box: Box) -> None:
        """Add what lies under the masks of what was sent, aside from what the hospital itself does."""
        began = _cpu_s()
        words = np.frombuffer(b"".join(box.segments), "<u8").astype(np.uint64)
        add_masks(words, [Mask(one.seed, -one.sign) for one in state.masks])
        self._truth.add(words, self._contribution.result())
        self.aside_s += _cpu_s() - began


def drawn_update(size: int, clip: float, *, seed: int, number: int, index: int) -> Float32:
    """An update of no patient: uniform within half the clip, the same for the same numbers."""
    draw = np.random.default_rng([seed, number, index])
    return ((draw.random(size, np.float32) - np.float32(0.5)) * np.float32(clip)).astype(np.float32)


def _cpu_s() -> float:
    return time.process_time()
