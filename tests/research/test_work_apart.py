"""Work in processes of its own comes to an end: with an answer, an error, or with whoever asked for it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from medveil_research.apart import WorkerLost, each_apart

CALLER = """
import signal, sys, time
from medveil_research.apart import each_apart
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the demo does
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts this may have turned it off
    print("begun", flush=True)
    try:
        each_apart(time.sleep, [600, 0, 600], most=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_answers_come_in_the_order_of_the_pieces_and_errors_come_through() -> None:
    assert each_apart(math.sqrt, [4.0, 9.0, 16.0], most=2) == [2.0, 3.0, 4.0]
    assert each_apart(math.sqrt, []) == []
    with pytest.raises(ValueError, match="no number"):
        each_apart(int, ["3", "no number"])


def test_a_process_that_is_killed_is_an_error_and_no_endless_wait() -> None:
    with pytest.raises(WorkerLost, match="signal 9"):
        each_apart(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL], most=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_everybody_ends_the_caller_and_all_that_it_started(number: signal.Signals) -> None:
    """A terminal and a service manager send it to the whole group: a pool would wait for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"begun\n"
            while len(members(caller.pid)) < 3:
                assert caller.poll() is None
                time.sleep(0.02)
            os.killpg(caller.pid, number)
            assert caller.wait(60) == 130
            until = time.monotonic() + 30
            while members(caller.pid) and time.monotonic() < until:  # Python's own helper ends last
                time.sleep(0.02)
            assert members(caller.pid) == set()
        finally:
            for one in members(caller.pid):
                os.kill(one, signal.SIGKILL)


def members(group: int) -> set[int]:
    """Living processes of a group."""
    found = set()
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getpgid(int(name)) == group and state(name) != "Z":
                found.add(int(name))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def state(name: str) -> str:
    with open(f"/proc/{name}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
