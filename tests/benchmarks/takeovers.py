"""How long a hung leader keeps the lead: a pair on PostgreSQL, stopped again and again.

``python tests/benchmarks/takeovers.py [TIMES]`` from the root, with ``PYTHONPATH=platform:.:tests/support``.
It prints the seconds from the stop until the other process answers, for a leader stopped while idle and for
one stopped inside a write, and checks after each that the log is whole and has one leader more. Then it stops
every backend of the database instead: the seconds are those until either process answers over new
sessions, for good, and of the slowest answer of the leader's ``/readyz`` meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg

from aggregator.storage.database import WRITERS
from pair import Pair, pair_of
from postgres import Cluster
from served import Served

WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
WATCHED_S = 16.0
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


def stop_idle(pair: Pair, leader: Served) -> None:
    """Nothing is asked of it at this moment."""
    pair.freeze(leader)


def stop_in_a_write(pair: Pair, leader: Served) -> None:
    """It waits for its turn to write; it is stopped, and then it is its turn."""
    with psycopg.connect(
        host=str(pair.cluster.folder), user="medveil", dbname=pair.database, autocommit=True
    ) as ours:
        ours.execute("SELECT pg_advisory_lock(%s)", [WRITERS])
        asking = ThreadPoolExecutor(1)
        asking.submit(pair.code, leader, "/readyz")
        pair.wait_until(lambda: pair.look(WAITING))
        pair.freeze(leader)
        ours.execute("SELECT pg_advisory_unlock(%s)", [WRITERS])
        asking.shutdown(wait=False)


def send_to(backends: list[int], what: signal.Signals) -> None:
    """A signal to those that are still there."""
    for backend in backends:
        with suppress(ProcessLookupError):
            os.kill(backend, what)


def slowest_look(pair: Pair, leader: Served, enough: threading.Event) -> float:
    """Seconds of the slowest answer of /readyz, asked all the time. Raises: TransportError if none."""
    slowest = 0.0
    while not enough.is_set():
        started = time.monotonic()
        pair.ask(leader, "/readyz", timeout=60)
        slowest = max(slowest, time.monotonic() - started)
        enough.wait(0.1)
    return slowest


def seconds_without_answers(pair: Pair, started: float) -> float:
    """From ``started`` until the last request that failed or took over a second had come back."""
    over = 0.0
    while time.monotonic() - started < WATCHED_S:
        asked = time.monotonic()
        answered = any(pair.code(server) == "ok" for server in (pair.one, pair.other))
        if not answered or time.monotonic() - asked > 1:
            over = time.monotonic() - started
        time.sleep(0.1)
    return over


def without_backends(pair: Pair) -> tuple[float, float]:
    """Stop the backends of both; seconds without answers, and of the slowest look at ``/readyz``."""
    leader, _ = pair.roles()
    enough = threading.Event()
    backends = [int(str(pid)) for (pid,) in pair.look(BACKENDS, "medveil-aggregator")]
    with ThreadPoolExecutor(1) as looking:
        send_to(backends, signal.SIGSTOP)
        started = time.monotonic()
        looks = looking.submit(slowest_look, pair, leader, enough)
        try:
            seconds = seconds_without_answers(pair, started)
        finally:
            enough.set()
            send_to(backends, signal.SIGCONT)
        slowest = looks.result()
    pair.roles()
    pair.leaders()
    return seconds, slowest


def summary(kind: str, measured: list[float]) -> str:
    """One line about all of a kind."""
    within = sum(seconds <= 12 for seconds in measured)
    return f"{kind}: {within} of {len(measured)} within 12 s, {min(measured):.1f} to {max(measured):.1f} s"


def main() -> None:
    """Measure."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    cluster = Cluster()
    try:
        with tempfile.TemporaryDirectory() as name, pair_of(Path(name), cluster) as pair:
            for stop in (stop_idle, stop_in_a_write):
                measured = []
                for _ in range(times):
                    leader, standby = pair.roles()
                    before = len(pair.leaders())
                    stop(pair, leader)
                    started = time.monotonic()
                    pair.wait_until_leading(standby)
                    measured.append(time.monotonic() - started)
                    pair.thaw(leader)
                    assert pair.roles() == (standby, leader)
                    assert len(pair.leaders()) == before + 1
                    print(f"{stop.__name__} {measured[-1]:.1f} s", flush=True)
                print(summary(stop.__name__, measured), flush=True)
            frozen = [without_backends(pair) for _ in range(times)]
            print(summary("without_backends", [seconds for seconds, _ in frozen]))
            print(f"the slowest answer of /readyz meanwhile: {max(slowest for _, slowest in frozen):.1f} s")
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
