"""One attempt at a secure sum as this hospital follows it: see what is shown, write down, answer.

Each step of ``privacy.secagg.node`` takes the state that the step before it has left, so none is left out,
taken twice or out of its turn. docs/protocol.md tells the steps.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from hospital_node.contribution import Contribution
from hospital_node.journal import Journal
from hospital_node.line import Line, decoded
from hospital_node.lineage import CommittedCheck
from hospital_node.relay import RelayLine, by_relay
from medveil.errors import RemoteProtocolError
from medveil.log import get_logger
from medveil.messages import Work
from medveil.parts import in_round
from medveil.plan import Plan
from medveil.rounds import AttemptKey, Phase, RoundKind
from medveil.tracing import span
from privacy.encoding import encode_metrics, params_for
from privacy.secagg import node as secagg
from privacy.secagg.messages import Advertised, Committed, Quorum, Signed, Survivors
from privacy.secagg.vector import MaskedUpdate, masked_update

POLL_S = 5.0
"""How long an answer waits at the aggregator for news, and this node for its own computation."""
State = secagg.AdvertisedState | secagg.SharedState | secagg.CommittedState | secagg.AgreedState
log = get_logger()


class OutOfOrder(RemoteProtocolError):
    """A round, attempt or phase that does not follow from what this node has seen and approved."""

    code = "out-of-order"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator asks for something out of order: {reason}.",
            meaning="This node missed a step, or it is asked to repeat one; it leaves the attempt.",
            remedy="If it recurs while this node is well connected, tell the consortium's admin.",
        )


class Attempt:
    """This node's part in one attempt, in memory only: a crash forgets the keys on purpose.

    Args:
        contribution: what it will add, once that is computed.
        remember: keeps what the published sum will be checked with.
        relay: of this hospital's region, if it has one.
    """

    def __init__(
        self,
        plan: Plan,
        party: secagg.Party,
        contribution: asyncio.Future[Contribution],
        *,
        journal: Journal,
        line: Line,
        remember: Callable[[CommittedCheck], None],
        relay: RelayLine | None = None,
    ) -> None:
        context = party.setting.context
        self.key = AttemptKey(plan.id, context.round, context.attempt)
        self._plan, self._contribution = plan, contribution
        self._journal, self._line, self._remember = journal, line, remember
        self._relay = relay
        self._state: State
        self._state, self._keys = secagg.advertise(party, secrets.token_bytes)
        self._phase = self._answered = Phase.ADVERTISE

    @property
    def computing(self) -> bool:
        """Whether the attempt waits for this hospital's own computation."""
        return (self._answered, self._phase) == (Phase.SHARE, Phase.COMMIT)

    @property
    def answered(self) -> Phase:
        """The last phase that this hospital has answered."""
        return self._answered

    async def begin(self) -> Work:
        """Hand out this node's keys; the work that comes with the answer."""
        with span(self.key, "keys"):
            return await self._send("advertise", self._keys)

    async def answer(self, phase: Phase, payload: bytes) -> Work | None:
        """Take the step of a phase, once; the work that comes with the answer to it.

        Args:
            payload: what the aggregator shows for this phase.
        Returns: None if nothing was to be sent.
        Raises: OutOfOrder, BadMessage, what the steps of :mod:`privacy.secagg.node` raise; AlreadyDone; what
            the computation and the line raise. The attempt is of no use then.
        """
        if phase is self._answered:
            return None
        self._phase = phase
        work = await self._step(phase, payload)
        if work is not None:
            self._answered = phase
        return work

    async def _step(self, phase: Phase, payload: bytes) -> Work | None:
        match phase, self._state:
            case Phase.SHARE, secagg.AdvertisedState() as state:
                advertised = await decoded(Advertised, payload)
                with span(self.key, "share"):
                    self._state, shares = secagg.share(state, advertised, secrets.token_bytes)
                    return await self._send("shares", shares)
            case Phase.COMMIT, secagg.SharedState() as state:
                if not await self._computed():
                    return None
                with span(self.key, "ready"):
                    return await self._send("ready", secagg.ready(state))
            case Phase.UPLOAD, secagg.SharedState() as state if self._answered is Phase.COMMIT:
                committed = secagg.commit(state, await decoded(Committed, payload))
                self._state = committed
                with span(self.key, "upload"):
                    work = await self._upload(committed)
                log.info("update.sent", **self.key.where)
                return work
            case Phase.AGREE, secagg.CommittedState() as state:
                self._state, agreement = secagg.agree(state, await decoded(Survivors, payload))
                self._journal.note(self.key, "agree", agreement.to_bytes().hex())
                with span(self.key, "agree"):
                    return await self._send("agree", agreement)
            case Phase.UNMASK, secagg.AgreedState() as state:
                opening = secagg.unmask(state, await decoded(Quorum, payload))
                self._journal.note(self.key, "unmask")
                with span(self.key, "unmask"):
                    return await self._send("unmask", opening)
            case _:
                raise OutOfOrder(reason="a phase that does not follow the last one")

    async def _computed(self) -> bool:
        """Whether the contribution is there; a local failure surfaces here, before anything is promised."""
        await asyncio.wait({self._contribution}, timeout=POLL_S)
        if self._contribution.done():
            self._contribution.result()
            return True
        return False

    async def _upload(self, state: secagg.CommittedState) -> Work:
        """Look at the contribution, note that it leaves, send it masked and sign for it; what is next."""
        contribution, context = self._contribution.result(), state.party.setting.context
        loop = asyncio.get_running_loop()
        masked = await loop.run_in_executor(None, self._masked, state, contribution)
        if context.kind is RoundKind.TRAIN:
            self._remember(CommittedCheck(context, state.committed_hash, state.check_key))
        self._journal.upload(self.key, advertised=tuple(state.peers))
        work = None
        if self._relay is not None:
            work = await by_relay(
                self._relay,
                self._line,
                self.key,
                partial(self._send_segments, masked),
                lambda hashes, relay: secagg.upload(state, hashes, relay=relay).to_bytes(),
            )
        if work is None:
            work = await self._send(
                "upload", secagg.upload(state, await self._send_segments(masked, self._line))
            )
        return work

    def _masked(self, state: secagg.CommittedState, contribution: Contribution) -> MaskedUpdate:
        kind = state.party.setting.context.kind
        study, metrics = in_round(self._plan.study, kind), np.zeros(0, np.uint64)
        places = [member.index for member in self._plan.roster]
        if contribution.sums is not None:
            own = places.index(state.party.index)
            metrics = encode_metrics(study, contribution.sums, place=own, cohort=len(places))
        return masked_update(
            contribution.update,
            params_for(study, kind, len(places), self.key.round),
            weight=contribution.weight,
            metrics=metrics,
            check_key=state.check_key,
            index=state.party.index,
            masks=state.masks,
            random_bytes=secrets.token_bytes,
        )

    async def _send_segments(self, masked: MaskedUpdate, to: Line | RelayLine) -> list[bytes]:
        """Make and send one segment after the other; their hashes."""
        loop, segments = asyncio.get_running_loop(), masked.segments()
        hashes: list[bytes] = []
        while True:
            with span(self.key, "mask"):
                made = await loop.run_in_executor(None, _next, segments)
            if made is None:
                return hashes
            segment, digest = made
            with span(self.key, "send"):
                await to.segment(self.key, len(hashes), segment, digest=digest)
            hashes.append(digest)

    async def _send(self, kind: str, message: Signed) -> Work:
        """Hand in a message; its answer waits for news as a poll does, and tells what is next."""
        return await self._line.message(self.key, kind, message.to_bytes(), wait_s=POLL_S)


def _next(segments: Iterator[memoryview]) -> tuple[memoryview, bytes] | None:
    """The next segment and its SHA-256; None after the last."""
    segment = next(segments, None)
    return None if segment is None else (segment, hashlib.sha256(segment).digest())
