"""Images of the next step are made while a step is computed: the same ones, in order, and never two ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hospital_node.training.ahead import Ahead
from medveil.stopping import Stopped, check_stopped, stoppable


def ahead(items: Iterator[int]) -> Iterator[int]:
    return Ahead(worth_it=True)(items)


def counted(made: list[int], last: int) -> Iterator[int]:
    for number in range(last):
        check_stopped()
        made.append(number)
        yield number


def test_the_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    for number in ahead(counted(made, 5)):
        assert made in (list(range(number + 1)), list(range(number + 2)))
    assert made == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []


def test_the_next_item_is_made_while_somebody_works_with_one() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    for _ in ahead(items()):
        assert begun.wait(200)


def test_a_fault_comes_when_its_turn_does() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("a fault")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="a fault"):
        next(found)


def test_the_word_to_end_is_heard_in_the_thread() -> None:
    stop, made = threading.Event(), list[int]()
    with stoppable(stop):
        found = ahead(counted(made, 100))
        next(found)
        stop.set()
        with pytest.raises(Stopped):
            list(found)
    assert len(made) <= 2


def test_what_was_left_in_the_middle_is_at_rest() -> None:
    made: list[int] = []
    together = Ahead(worth_it=True)
    found = together(counted(made, 100))
    next(found)
    found.close()  # type: ignore[attr-defined]
    before = len(made)
    assert before <= 2
    assert list(together(counted(made, 3))) == [0, 1, 2]
    assert len(made) == before + 3


def test_where_it_is_not_worth_it_nothing_is_made_ahead() -> None:
    made: list[int] = []
    for number in Ahead(worth_it=False)(counted(made, 3)):
        assert made == list(range(number + 1))
