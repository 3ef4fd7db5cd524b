"""``healthy.py`` tells a process that goes round from one that hangs, also where nothing can be asked."""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aggregator.keeper.run import answer_letters
from aggregator.relay.line import AggregatorRefuses
from deploy_tools import DEPLOY
from medveil.alive import VARIABLE, show_alive, stay_alive

KINDS = ("keeper", "scheduler", "worker")


@pytest.fixture
def alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "alive"
    monkeypatch.setenv(VARIABLE, str(file))
    return file


def looked(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """How the check ends, and what it says."""
    monkeypatch.setattr(sys, "argv", ["healthy.py", kind])
    ended = runpy.run_path(str(DEPLOY / "healthy.py"))["main"]()
    return int(ended), capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_touched_no_more_is_noticed(
    kind: str, alive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert looked(kind, monkeypatch, capsys) == (1, f"the {kind} does not answer (FileNotFoundError)\n")
    show_alive()
    assert looked(kind, monkeypatch, capsys) == (0, "")
    long_ago = alive.stat().st_mtime - 500
    os.utime(alive, (long_ago, long_ago))
    ended, said = looked(kind, monkeypatch, capsys)
    assert (ended, said.partition(" for ")[0]) == (1, f"the {kind} has told nothing")


def test_a_loop_that_goes_round_touches_it_and_where_no_file_is_named_nothing_is_written(
    alive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_a_moment() -> None:
        living = asyncio.create_task(stay_alive())
        await asyncio.sleep(0)
        living.cancel()

    asyncio.run(for_a_moment())
    assert alive.exists()
    monkeypatch.delenv(VARIABLE)
    alive.unlink()
    show_alive()
    assert not alive.exists()


def test_a_keeper_whose_aggregator_is_away_is_well(alive: Path) -> None:
    asked = 0

    class Away:
        async def next(self, wait_s: float) -> Any:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise asyncio.CancelledError
            alive.unlink()
            raise AggregatorRefuses(reason="it does not answer")

    async def keep() -> None:
        with suppress(asyncio.CancelledError):
            await answer_letters(None, Away(), pause_s=0.0)  # type: ignore[arg-type]

    asyncio.run(keep())
    assert asked == 2
    assert alive.exists()
