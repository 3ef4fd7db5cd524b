"""Long polls wait for their own plan only, end together with others, and never wait longer than asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aggregator.web.longpolls import BEAT_S, LONG_S, LongPolls

T = TypeVar("T")


class LoopThatJumps(asyncio.SelectorEventLoop):
    """Its clock stands still while anything runs, and then goes to the next timer at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wakes = 1000.03, 0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            if timeout:
                self.now, self.wakes = self.now + timeout, self.wakes + 1
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def play(scene: Callable[[LoopThatJumps, LongPolls, dict[str, str]], Coroutine[Any, Any, T]]) -> T:
    """Run a scene with the states of two plans, which the scene may change."""
    states = {"plan-1": "1", "plan-2": "1"}
    with asyncio.Runner(loop_factory=LoopThatJumps) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, LoopThatJumps)
        return runner.run(scene(loop, LongPolls(states.get), states))


async def wait(polls: LongPolls, plan: str, wait_s: float) -> None:
    """What the route does for somebody who has seen state "1"."""
    await polls.rest(plan, "1", polls.end_of(wait_s))


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_waits_that_began_one_after_the_other_end_together_and_none_too_late() -> None:
    async def scene(loop: LoopThatJumps, polls: LongPolls, _: dict[str, str]) -> tuple[list[float], int]:
        late = []

        async def node(number: int) -> None:
            await asyncio.sleep(number * BEAT_S / 20)
            asked = loop.time() + 10
            await wait(polls, f"plan-{1 + number % 2}", 10.0)
            late.append(loop.time() - asked)

        nodes = [asyncio.create_task(node(number)) for number in range(20)]
        await asyncio.sleep(BEAT_S)
        begun = loop.wakes
        await asyncio.gather(*nodes)
        return late, loop.wakes - begun

    late, wakes = play(scene)
    assert len(late) == 20
    assert -BEAT_S - 1e-6 < min(late) <= max(late) <= 1e-6
    assert wakes <= 2  # they began in a span of one beat, so they lie around one or two


def test_a_short_wait_is_as_long_as_it_was_asked_to_be() -> None:
    async def scene(loop: LoopThatJumps, polls: LongPolls, _: dict[str, str]) -> float:
        await wait(polls, "plan-1", LONG_S / 3)
        return loop.time() - 1000.03

    assert abs(play(scene) - LONG_S / 3) < 1e-6


def test_news_of_one_plan_wakes_its_own_polls_and_nobody_else() -> None:
    async def scene(
        loop: LoopThatJumps, polls: LongPolls, states: dict[str, str]
    ) -> tuple[list[bool], float]:
        waiting = [asyncio.create_task(wait(polls, f"plan-{i}", 10.0)) for i in (1, 1, 2)]
        await settle()
        polls.announce()  # nothing is new
        await settle()
        assert not any(one.done() for one in waiting)
        states["plan-1"] = "2"
        polls.announce()
        await settle()
        done, at = [one.done() for one in waiting], loop.time()
        await asyncio.gather(*waiting)
        return done, at

    assert play(scene) == ([True, True, False], 1000.03)


def test_news_that_came_before_the_wait_began_is_not_missed() -> None:
    async def scene(loop: LoopThatJumps, polls: LongPolls, states: dict[str, str]) -> float:
        states["plan-1"] = "2"  # on the coordinator's thread, after the poll has looked
        poll = asyncio.create_task(wait(polls, "plan-1", 10.0))
        await settle()
        polls.announce()
        await poll
        return loop.time()

    assert play(scene) == 1000.03


def test_a_plan_that_has_gone_is_news() -> None:
    async def scene(loop: LoopThatJumps, polls: LongPolls, states: dict[str, str]) -> float:
        poll = asyncio.create_task(wait(polls, "plan-1", 10.0))
        await settle()
        del states["plan-1"]
        polls.announce()
        await poll
        return loop.time()

    assert play(scene) == 1000.03


def test_at_the_end_everybody_is_woken_and_a_poll_that_gave_up_takes_nobody_with_it() -> None:
    async def scene(loop: LoopThatJumps, polls: LongPolls, _: dict[str, str]) -> float:
        waiting = [asyncio.create_task(wait(polls, "plan-1", 10.0)) for _ in range(3)]
        await settle()
        waiting.pop().cancel()
        await settle()
        assert not any(one.done() for one in waiting)
        polls.stop()
        await asyncio.gather(*waiting)
        return loop.time()

    assert play(scene) == 1000.03


def test_nothing_is_kept_of_waits_that_are_over() -> None:
    async def scene(_: LoopThatJumps, polls: LongPolls, states: dict[str, str]) -> int:
        poll = asyncio.create_task(wait(polls, "plan-1", 10.0))
        await settle()
        poll.cancel()
        await asyncio.gather(*(wait(polls, f"plan-{i}", 0.1 * i) for i in (1, 2, 2)))
        await wait(polls, "plan-1", 20.0)
        return len(polls._resting)

    assert play(scene) == 0
