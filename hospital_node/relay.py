"""Sending a masked vector by way of the region's relay, where the operator has named one.

The relay adds vectors that are masked already and learns nothing; whatever it does, this node can send the
same vector to the aggregator itself (docs/decisions/0042-regions.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from hospital_node.line import Line
from hospital_node.settings import Node
from medveil.errors import Error
from medveil.identity import Body, Identity
from medveil.log import get_logger
from medveil.messages import Work
from medveil.relaying import Held, RelayIdentity
from medveil.rounds import AttemptKey, Phase

if TYPE_CHECKING:
    from hospital_node.transport import Transport

HOLD_S = 5.0
"""How long the relay's answer may wait for the rest of the region; the aggregator is asked in between."""
PATIENCE_S = 5.0
"""How long a relay that does not answer is tried; the vector then goes to the aggregator."""
log = get_logger()


class RelayLine(Protocol):
    """What a node needs of a relay. Every call raises AggregatorProblem, BadMessage or Unreachable."""

    async def relay(self) -> RelayIdentity:
        """Who it is."""
        ...

    async def segment(self, key: AttemptKey, segment: int, data: Body, *, digest: bytes) -> None:
        """One segment of a masked vector, and its SHA-256. It is not looked at once this has returned."""
        ...

    async def hold(self, key: AttemptKey, body: bytes, *, wait_s: float) -> Held:
        """This hospital's word for its vector; whether the aggregator has it in a sum."""
        ...


@asynccontextmanager
async def line_to_relay(node: Node, identity: Identity) -> AsyncIterator[Transport | None]:
    """A line to the relay of this hospital's region, if the operator has named one."""
    if node.settings.relay is None:
        yield None
        return
    from hospital_node.transport import Transport  # an agent in a simulation starts without it

    address, authority, proxy = node.settings.relay.address, node.relay_authority, node.settings.proxy
    async with Transport(address, authority, identity, patience_s=PATIENCE_S, proxy=proxy) as relay:
        yield relay


async def by_relay(
    relay: RelayLine,
    line: Line,
    key: AttemptKey,
    send: Callable[[RelayLine], Awaitable[list[bytes]]],
    sign: Callable[[list[bytes], bytes], bytes],
) -> Work | None:
    """Hand a masked vector to the relay and wait until the aggregator has it, or collects no more.

    Args:
        send: sends the segments; their hashes.
        sign: the signed word for these hashes, naming the relay's key.
    Returns: what the aggregator says is next; None if the vector is to be sent to it directly.
    """
    try:
        who = await relay.relay()
        body = sign(await send(relay), who.key)
        while True:
            held = await relay.hold(key, body, wait_s=HOLD_S)
            work = await line.work(key.plan, seen="", wait_s=0.0)
            here = (work.status, work.round, work.attempt) == ("running", key.round, key.attempt)
            if held.state == "taken" or not here or work.phase != Phase.UPLOAD:
                return work
    except Error as error:
        log.info("relay.passed-over", **key.where, code=error.code)
        return None
