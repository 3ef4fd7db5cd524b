"""How long nobody leads after a leader was killed, and how long one that hangs keeps the lead.

``python tests/benchmarks/takeovers.py kills [TIMES [PAGE]]`` from the root, with
``PYTHONPATH=platform:.:tests/support``: a pair on PostgreSQL behind nginx while three hospitals play rounds.
The leader is killed (SIGKILL), 100 times, at random moments; the seconds are those until a hospital's
question to the leader is answered through nginx. At the end every attempt must be done at its first try. With
PAGE the figures are put into that Markdown page.

``python tests/benchmarks/takeovers.py [TIMES]``: a pair, stopped again and again.
It prints the seconds from the stop until the other process answers, for a leader stopped while idle and for
one stopped inside a write, and checks after each that the log is whole and has one leader more. Then it stops
every backend of the database instead: the seconds are those until either process answers over new
sessions, for good, and of the slowest answer of the leader's ``/readyz`` meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from aggregator.storage.database import WRITERS
from fronted import Playing, front_with
from pair import Pair, pair_of
from postgres import Cluster
from remote_sites import RemoteSite, Stage
from results_page import put_section, table
from rows import Row, publish
from served import Served
from world import unit

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


def kills(folder: Path, cluster: Cluster, times: int) -> list[float]:
    """Seconds without a leader after each of so many kills, under load."""
    draw, measured = random.Random(1), []
    study = {
        "training": {"rounds": 100 * times, "local_steps": 1, "learning_rate": 1.0},
        "deadlines": {"silence_s": 120.0, "train_s": 600.0},
        "evaluation": {"every_round": False},
    }
    with front_with(folder, cluster, **study) as front:
        world = front.pair.world
        stage: Any = Stage(world.plan, world.identities, front.remote)
        playing = Playing([RemoteSite(stage, i, lambda _, i=i: unit(i)) for i in (1, 2, 3)])  # type: ignore[misc]
        for _ in range(times):
            time.sleep(draw.uniform(0.0, 1.0))
            measured.append(front.kill_the_leader())
            print(f"kill {measured[-1]:.2f} s", flush=True)
        name, at = world.identities[0].name, f"/v1/plans/{world.plan.id}"
        status = json.loads(front.remote.send(name, "GET", f"{at}/status"))
        playing.stop()
        assert all((a["attempt"], a["outcome"]) == (1, "done") for a in status["attempts"])
        assert len(front.pair.leaders()) == times + 1
        print(f"{len(status['attempts'])} rounds went through meanwhile, each at its first attempt")
    return measured


def quantiles(measured: list[float]) -> list[Row]:
    """What all kills came to."""
    ordered = sorted(measured)
    kinds = {"median": ordered[len(ordered) // 2], "longest": ordered[-1]}
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    rows = [Row(f"a leader killed {len(ordered)} times: p99", p99, "s", "<= 5")]
    return rows + [Row(f"a leader killed {len(ordered)} times: {kind}", s, "s") for kind, s in kinds.items()]


def summary(kind: str, measured: list[float]) -> str:
    """One line about all of a kind."""
    within = sum(seconds <= 12 for seconds in measured)
    return f"{kind}: {within} of {len(measured)} within 12 s, {min(measured):.1f} to {max(measured):.1f} s"


def main() -> None:
    """Measure."""
    if sys.argv[1:2] == ["kills"]:
        times, load = int(sys.argv[2]) if sys.argv[2:] else 100, os.getloadavg()[0]
        cluster = Cluster()
        try:
            with tempfile.TemporaryDirectory() as name:
                rows = quantiles(kills(Path(name), cluster, times))
        finally:
            cluster.remove()
        publish(rows, None)
        if sys.argv[3:]:
            command = f"tests/benchmarks/takeovers.py kills {times} PAGE"
            conditions = f"{os.cpu_count()} cores, load {load:.1f} at the start; three hospitals play rounds"
            text = table("## Takeovers, measured", command, conditions, rows)
            put_section(Path(sys.argv[3]), "takeovers", text)
        return
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
