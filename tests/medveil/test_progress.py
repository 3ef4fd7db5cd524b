"""Whoever waits is told how far a long piece of work is; a short one says nothing."""

from __future__ import annotations

import pytest

from medveil.progress import Done, Look, Pace, listening, tell
from medveil.shown import Screen


def looks(every_s: float, ticks: list[tuple[str, int, int, float]]) -> list[Look]:
    found: list[Look] = []
    now = [0.0]
    pace = Pace(found.append, every_s=every_s, clock=lambda: now[0])
    for part, done, total, at in ticks:
        now[0] = at
        pace(Done(part, done, total))
    return found


def test_a_look_tells_rate_and_time_left() -> None:
    [look, last] = looks(10, [("images", 1, 300, 0), ("images", 200, 300, 10), ("images", 300, 300, 15)])
    assert (look.rate, look.left_s) == (20, 5)
    assert (last.now.done, last.rate, last.left_s) == (300, 20, 0)


def test_a_short_part_is_not_told_of() -> None:
    assert (
        looks(2, [("images", 1, 2, 0), ("images", 2, 2, 1.9), ("files", 1, 2, 2), ("files", 2, 2, 3)]) == []
    )


def test_a_loop_is_heard_inside_only_and_by_the_nearest() -> None:
    outer: list[Done] = []
    inner: list[Done] = []
    tell("images", 1, 3)
    with listening(outer.append):
        tell("images", 2, 3)
        with listening(inner.append):
            tell("images", 3, 3)
    tell("images", 3, 3)
    assert (outer, inner) == ([Done("images", 2, 3)], [Done("images", 3, 3)])


def test_a_file_gets_one_line_for_each_part_that_took_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medveil.shown.LONG_S", 0.0)
    with Screen(stderr=True).waiting():
        for part in ("images", "files compared"):
            for done in range(1, 1001):
                tell(part, done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" a second")[0].split(", ")[0] for line in lines] == [
        "images: 1,000 in 0 s",
        "files compared: 1,000 in 0 s",
    ]
