"""Several studies on one machine: nobody waits for more than one round of each other, and none starves."""

from __future__ import annotations

import threading
from collections import Counter, deque
from functools import partial
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_node.turns import Turns
from medveil.stopping import Stopped
from tries import tries


class Asked(deque[object]):
    """Whoever waits for a turn, noted as it begins to wait."""

    def __init__(self, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self._log = log

    def append(self, ticket: object) -> None:
        self._log.append(("asks", threading.current_thread().name))
        super().append(ticket)


def played(rounds: list[int]) -> list[tuple[str, str]]:
    """Studies that ask for the next turn as soon as they have had one, as computations do."""
    turns, log = Turns(10**9), list[tuple[str, str]]()
    turns._waiting = Asked(log)
    everybody_asks, inside = threading.Barrier(len(rounds)), list[str]()

    def run(name: str, left: int) -> None:
        everybody_asks.wait()
        for _ in range(left):
            with turns.turn(name, Event()):
                inside.append(name)
                log.append(("has", name))
                assert inside.pop() == name
                assert not inside

    threads = [Thread(target=run, args=(f"study-{i}", n), name=f"study-{i}") for i, n in enumerate(rounds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return log


@settings(max_examples=tries(25))
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_who_waits_for_a_turn_waits_for_one_round_of_each_other_study_at_most(rounds: list[int]) -> None:
    log = played(rounds)
    assert Counter(who for what, who in log if what == "has") == {
        f"study-{i}": number for i, number in enumerate(rounds)
    }
    for place, (what, who) in enumerate(log):
        if what == "asks":
            later = log[place + 1 :]
            others = [name for kind, name in later[: later.index(("has", who))] if kind == "has"]
            assert len(others) == len(set(others))


def test_first_come_first_served() -> None:
    turns, order, asked = Turns(10**9), list[int](), [Event() for _ in range(4)]

    def ask(number: int) -> None:
        asked[number].set()
        with turns.turn(str(number), Event()):
            order.append(number)

    threads = []
    with turns.turn("first", Event()):
        for number in range(4):
            threads.append(Thread(target=ask, args=(number,)))
            threads[-1].start()
            asked[number].wait(60)
            while len(turns._waiting) < number + 2:
                pass
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3]


def test_who_is_to_stop_gives_its_place_in_the_queue_back() -> None:
    turns, stop, ended = Turns(10**9), Event(), Event()

    def ask() -> None:
        with pytest.raises(Stopped), turns.turn("second", stop):
            pass
        ended.set()

    with turns.turn("first", Event()):
        thread = Thread(target=ask)
        thread.start()
        stop.set()
        assert ended.wait(60)
    thread.join(60)
    with turns.turn("third", Event()):
        pass


def test_images_are_forgotten_only_where_they_do_not_fit_together() -> None:
    for most, expected in ((100, []), (99, ["a"])):
        turns, forgotten = Turns(most), list[str]()
        for name in ("a", "b"):
            turns.join(name, size=50, forget=partial(forgotten.append, name))
        assert turns.has_room == (most == 100)
        with turns.turn("b", Event()):
            assert forgotten == expected
        turns.leave("a")
        assert turns.has_room
