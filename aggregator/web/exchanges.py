"""What passes between a hospital and the coordinator: polls, messages and segments, each on its thread."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from aggregator.rounds.intake import Received, SegmentClaim
from aggregator.storage.register import Party
from aggregator.web.callers import SMALL_LIMIT
from aggregator.web.service import Service
from aggregator.web.standby import StandBy
from medveil.messages import Work
from medveil.rounds import AttemptKey, Phase

MESSAGE_LIMIT = 4 * 2**20
SEGMENT_LIMIT = 16 * 2**20
RELAY = "relay"
"""The role of a region's relay."""


def longest_message(service: Service, plan: str) -> int:
    """Most bytes that are read of a hospital's message in this plan."""
    return min(service.coordinator.intake.longest_message(plan) or SMALL_LIMIT, MESSAGE_LIMIT)


@dataclass(frozen=True)
class Told:
    """What a poll tells by the way; each is empty where there is nothing to tell."""

    ledger: str
    """Where the hospital's ledger ends."""
    sitting_out: str
    """Which attempt it has left."""
    away: bool
    """Whether it joins no attempt for now."""


async def take_poll(service: Service, plan: str, party: Party, told: Told, *, size: int) -> None:
    """Note what a poll tells by the way.

    Raises: NotFound; for a ledger's end BadMessage, BadSignature, LedgerBehind.
    """
    coordinator = service.coordinator
    if told.ledger:
        await service.run(lambda: coordinator.ledger_ends.note(party, told.ledger))
    run = coordinator.runs.get(plan)
    if told.away is not (run is not None and party.name in run.away):
        await service.run(lambda: coordinator.intake.is_away(plan, party.name, told.away))
    if told.sitting_out:
        left = AttemptKey(plan, *map(int, told.sitting_out.split(".")))
        await service.run(lambda: coordinator.intake.sits_out(left, party.name))
    coordinator.runs.count_bytes(plan, party.name, up=size, down=0)


async def next_work(
    service: Service, plan: str, party: Party, *, seen: str, wait_s: float, word: int | None = None
) -> bytes:
    """What the hospital is to do, once that is not what it has seen, or when ``wait_s`` are over.

    ``word`` is as :meth:`Instructions.work` takes it.

    Raises: NotFound; Revoked if that has happened during the wait.
    """
    runs, instructions = service.coordinator.runs, service.coordinator.instructions
    deadline, waited = service.polls.end_of(wait_s), False
    while time.monotonic() < deadline and not service.stopping:
        if instructions.is_news(plan, party.name, seen):
            break
        await service.polls.rest(plan, seen, deadline)
        waited = True
    found = instructions.still_idle(plan, party.name, seen) if waited and service.surely_leads else None
    if found is not None:
        await service.callers.still_welcome(party)
    else:  # one way to the coordinator's thread for both
        look_again = waited and not service.callers.is_remembered(party)

        def told() -> Work:
            if look_again:
                service.callers.check_enrolled(party)
            return instructions.work(plan, party.name, word=word)

        found = await service.run(told)
    answer = found.to_bytes()
    runs.touch(party.name)
    runs.count_bytes(plan, party.name, up=0, down=len(answer))
    return answer


async def take_message(
    service: Service, key: AttemptKey, party: Party, kind: str, body: bytes, *, ledger: str
) -> str:
    """Take a protocol message; it is on the disk afterwards.

    Returns: the mark of the phase that it answers.
    Raises: what :meth:`Intake.receive` raises, and LedgerBehind.
    """
    if kind == Phase.UPLOAD:
        await service.with_segments(lambda: service.coordinator.intake.read_back(key.plan, party.name, body))

    return await service.messages.take(Received(key, party, kind, body, ledger))


async def look_at_segment(
    service: Service | StandBy, key: AttemptKey, party: Party, segment: int, *, size: int
) -> None:
    """Whether a segment of this size is wanted of a hospital or a relay, before its body is read.

    Raises: what :meth:`Intake.look_at_segment` or, in a process that stands by, :meth:`Taking.look` raises.
    """
    if isinstance(service, StandBy):
        await service.with_segments(lambda: service.taking.look(key, party.name, segment, size=size))
        return
    look = partial(service.coordinator.intake.look_at_segment, key, party.name, segment, size=size)
    await service.run(partial(look, relay=party.role == RELAY))


async def take_segment(
    service: Service | StandBy, key: AttemptKey, party: Party, segment: int, body: bytes
) -> None:
    """Keep one segment of a masked vector, unless its upload is signed already.

    Raises: what :meth:`Intake.claim_segment` or :meth:`Taking.take` raises; StorageFailed.
    """
    if isinstance(service, StandBy):
        await service.with_segments(lambda: service.taking.take(key, party.name, segment, body))
        return
    coordinator = service.coordinator
    ask = partial(coordinator.intake.claim_segment, key, party.name, segment, size=len(body))
    claim = await service.run(partial(ask, relay=party.role == RELAY))
    if claim is not None:
        await _keep(service, claim, body)
    coordinator.runs.count_bytes(key.plan, party.name, up=len(body), down=0)


async def take_relayed(service: Service, key: AttemptKey, relay: Party, body: bytes) -> None:
    """Take a region's uploads; they are on the disk afterwards.

    Raises: what :meth:`Intake.receive_relayed` raises.
    """
    coordinator = service.coordinator
    await service.with_segments(lambda: coordinator.intake.read_back_relayed(key, relay.name, body))

    def take() -> bool:
        coordinator.intake.receive_relayed(key, relay, body)
        coordinator.runs.count_bytes(key.plan, relay.name, up=len(body), down=0)
        return coordinator.go_on()

    if await service.run(take):
        service.announce()


async def _keep(service: Service, claim: SegmentClaim, data: bytes) -> None:
    """Write a claimed segment while the coordinator's thread does other things: storage may be slow."""
    try:
        await service.with_segments(lambda: service.coordinator.intake.keep_segment(claim, data))
    finally:
        await service.run(lambda: service.coordinator.intake.settle_segment(claim))
