"""A node with nothing to compute gives memory back by beginning anew, and never while an attempt is open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hospital_node.resting import REST_S, Quiet, Resting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def looks(quiet: Quiet, clock: Clock, busy: Callable[[float], bool]) -> float | None:
    """When it rests, of ten minutes that it is looked at every second."""
    for second in range(600):
        clock.now = float(second)
        try:
            quiet.look(["one"], busy=busy(clock.now))
        except Resting as resting:
            return clock.now if resting.plans == {"one"} else None
    return None


def test_it_rests_after_a_while_without_anything_to_do(clock: Clock) -> None:
    assert looks(Quiet(lambda: True, clock), clock, lambda _: False) == REST_S
    clock.now = 0.0
    assert looks(Quiet(lambda: True, clock), clock, lambda now: now <= 100) == 100 + REST_S
    clock.now = 0.0
    assert looks(Quiet(lambda: True, clock), clock, lambda now: now % (REST_S - 1) == 0) is None


def test_without_anything_to_give_back_it_never_rests(clock: Clock) -> None:
    assert looks(Quiet(lambda: False, clock), clock, lambda _: False) is None


AGAIN = """
import fcntl, os, sys
from hospital_node.resting import begin_anew, rested
if not rested():
    file = open(sys.argv[1], "w")
    os.set_inheritable(file.fileno(), True)  # as a driver may leave one
    fcntl.flock(file, fcntl.LOCK_EX)
    print(os.getpid(), flush=True)
    begin_anew(frozenset({"one", "two"}))
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(os.getpid(), *sorted(rested()), *sys.argv[2:], sorted(os.listdir("/proc/self/fd"), key=int)[:3])
"""


@pytest.mark.slow
def test_the_process_goes_on_under_its_number_and_holds_no_file_of_the_one_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AGAIN, str(tmp_path / "lock"), "--folder", "a b"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert second == f"{first} one two --folder a b ['0', '1', '2']"
