"""A node whose operator has named a relay sends by way of it, and itself whenever that does not work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from hospital_node.line import AggregatorProblem, Unreachable
from hospital_node.relay import by_relay
from medveil.messages import AuditHead, BadMessage, Work
from medveil.relaying import Held, RelayIdentity
from medveil.rounds import AttemptKey

KEY = AttemptKey("ab" * 32, 2, 1)
WHO = RelayIdentity(name="north", key=bytes(range(32)))
HEAD = AuditHead(number=1, hash=bytes(32), key=bytes(32), signature=bytes(64), succession=())


def work(phase: str = "upload", number: int = 2, status: str = "running") -> Work:
    return Work(mark="m", status=status, round=number, attempt=1, kind="train", phase=phase, head=HEAD)


@dataclass
class FakeRelay:
    """Answers in turn; an error is raised."""

    answers: list[Any]
    bodies: list[bytes] = field(default_factory=list)

    async def relay(self) -> RelayIdentity:
        return WHO

    async def segment(
        self, key: AttemptKey, segment: int, data: bytes | memoryview, *, digest: bytes
    ) -> None:
        raise AssertionError("the segments are the caller's")

    async def hold(self, key: AttemptKey, body: bytes, *, wait_s: float) -> Held:
        self.bodies.append(body)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Held(state=answer)


@dataclass
class FakeLine:
    """The aggregator's answers to polls, in turn."""

    works: list[Work]
    polls: int = 0

    async def work(self, plan: str, **_: Any) -> Work:
        self.polls += 1
        return self.works.pop(0) if len(self.works) > 1 else self.works[0]


def sent(relay: FakeRelay, line: FakeLine) -> Work | None:
    async def send(_: Any) -> list[bytes]:
        return [b"hash"]

    def sign(hashes: list[bytes], key: bytes) -> bytes:
        return b"|".join([*hashes, key])

    return asyncio.run(by_relay(relay, line, KEY, send, sign))  # type: ignore[arg-type]


def test_it_waits_for_the_region_and_polls_the_aggregator_meanwhile() -> None:
    relay, line = FakeRelay(["held", "held", "taken"]), FakeLine([work(), work(), work("agree")])
    assert sent(relay, line) == work("agree")
    assert line.polls == 3  # so that the aggregator does not take it for gone
    assert set(relay.bodies) == {b"hash|" + WHO.key}  # it signs for this relay, and always the same


REFUSED = AggregatorProblem(status=409, code="relay-closed", title="closed", detail="")


@pytest.mark.parametrize("answer", [REFUSED, Unreachable(reason="cut"), BadMessage()])
def test_whatever_goes_wrong_the_vector_is_to_be_sent_directly(answer: Exception) -> None:
    assert sent(FakeRelay(["held", answer]), FakeLine([work()])) is None


@pytest.mark.parametrize("gone", [work("agree"), work("advertise", number=3), work(status="waiting")])
def test_it_does_not_wait_when_the_attempt_goes_on_without_it(gone: Work) -> None:
    assert sent(FakeRelay(["held"] * 9), FakeLine([work(), gone])) == gone
