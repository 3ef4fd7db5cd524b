"""How long a hung leader keeps the lead: a pair on PostgreSQL, stopped again and again.

``python tests/benchmarks/takeovers.py [TIMES]`` from the root, with ``PYTHONPATH=platform:.:tests/support``.
It prints the seconds from the stop until the other process answers, for a leader stopped while idle and for
one stopped inside a write, and checks after each that the log is whole and has one leader more.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from aggregator.database import WRITERS
from pair import Pair, pair_of
from postgres import Cluster
from served import Served

WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


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
                within = sum(seconds <= 12 for seconds in measured)
                print(
                    f"{stop.__name__}: {within} of {times} within 12 s, "
                    f"{min(measured):.1f} to {max(measured):.1f} s",
                    flush=True,
                )
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
