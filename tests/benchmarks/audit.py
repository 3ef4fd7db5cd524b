"""What the audit log costs: bytes and time of an entry, speed of the check."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, RoundKind
from rows import Row, arguments, publish
from world import make_world

ROUNDS, MESSAGES = 20, 60


def main() -> None:
    """Play the database's part of rounds with ten hospitals, then check the log."""
    given = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name) / "world")
        store, file = world.store, Path(name) / "world" / "aggregator.db"
        before, size, started = store.transactions.head.number, file.stat().st_size, time.perf_counter()
        for number in range(1, ROUNDS + 1):
            key = AttemptKey(world.plan.id, number, 1)
            store.plans.open_attempt(key, kind=RoundKind.TRAIN, model="00" * 32, now=1.0)
            for message in range(MESSAGES):
                store.plans.add_event(key, message, "shares", bytes(500), actor="hospital-1")
            report = AttemptReport(
                round=number,
                attempt=1,
                kind=RoundKind.TRAIN,
                outcome="failed",
                reason="below-threshold",
            )
            store.plans.end_attempt(world.plan.id, report)
        spent, entries = time.perf_counter() - started, store.transactions.head.number - before
        bytes_each = (file.stat().st_size - size) / entries
        started = time.perf_counter()
        checked = store.log.verify().number
        speed = checked / (time.perf_counter() - started)
        store.close()
    rows = [
        Row("database per entry", bytes_each, "bytes", "<= 600"),
        Row("database per round of ten hospitals", bytes_each * (MESSAGES + 2) / 1000, "kB"),
        Row("a change with its entry, on this disk", 1000 * spent / entries, "ms", "<= 50"),
        Row("entries checked", speed, "1/s", ">= 1000"),
    ]
    publish(rows, given.json)


if __name__ == "__main__":
    main()
