"""A large sum by a cluster's workers beside the same sum by this machine's own processes.

Run: python tests/benchmarks/cluster.py [--hospitals 50] [--megabytes 100] [--workers 2] [--repeats 5]
from the root, with PYTHONPATH=platform:. (Linux; the rows of two machines need root and iproute2)

Measured in turns, from handing in the first segment to the whole sum in one file: by a pool of so many
processes; by a scheduler and as many workers on the same machine; and by as many workers that are divided
among two network namespaces, each with an address of its own, which stand for two machines. All have the
same cores and the same files in the page cache, so what differs is the engine, TLS, and the parts that go
through the store. All of it runs in a namespace of its own and leaves this machine's network alone. Medians.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from aggregator.storage.blobs import Blobs
from aggregator.work.cluster import Cluster
from aggregator.work.unmasking import Summing, gather, segment_lengths, sum_segment
from aggregator.work.workers import Workers, attempt
from medveil.identity import Secret
from medveil.log import set_up
from privacy.secagg.masks import SEGMENT_BYTES, Mask
from results_page import put_section, table
from rows import Row, Skipped, arguments, publish
from schedulers import Processes

INSIDE = "--inside"
HOST = "10.77.0.1"


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--hospitals", type=int, default=50)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--workers", type=int, default=2, help="processes in each case")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path, help="put the figures into this Markdown page")
    parser.add_argument(INSIDE, action="store_true", help="(inner) in a namespace of its own")
    options = parser.parse_args()
    if os.geteuid() == 0 and not options.inside:
        sys.exit(subprocess.run(["unshare", "-n", sys.executable, *sys.argv, INSIDE], check=False).returncode)
    set_up("error")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="medveil-cluster-") as name:
        found = _measured(Path(name), options)
    publish(found, options.json)
    if options.write:
        rows = [row for row in found if isinstance(row, Row)]
        command = f"tests/benchmarks/cluster.py --workers {options.workers} --write PAGE"
        conditions = f"{os.cpu_count()} cores, load {load:.1f} at the start"
        text = table(f"## A sum by {options.workers} workers, measured", command, conditions, rows)
        put_section(options.write, f"sums by {options.workers} workers", text)


def _measured(folder: Path, options: argparse.Namespace) -> list[Row | Skipped]:
    count = options.workers
    job = _prepared(folder, options.hospitals, int(options.megabytes * 1e6 / 8))
    label = f"{options.hospitals} x {options.megabytes:g} MB"
    with _here(folder, count) as here, _two_machines(folder, count) as apart:
        pool = Workers(count)
        cases: dict[str, Callable[[Summing], None]] = {"pool": lambda one: _by_pool(pool, one)}
        both = {"here": here, "apart": apart}
        clusters = {name: Cluster(one.connect, None) for name, one in both.items() if one}
        cases |= {name: lambda one, c=c: _by_cluster(c, one) for name, c in clusters.items()}  # type: ignore[misc]
        times, sums = _in_turns(cases, job, options.repeats)
        for one in clusters.values():
            one.close()
        pool.shutdown()
    assert len(sums) == 1, "the sums differ"
    rows: list[Row | Skipped] = [Row(f"{label}: {count} processes of one pool", _median(times["pool"]), "s")]
    rows.append(Row(f"{label}: {count} workers of a cluster", _median(times["here"]), "s"))
    rows.append(Row(f"{label}: pool to cluster", _ratio(times["pool"], times["here"]), "x", ">= 0.9"))
    two = f"{label}: workers on two machines (namespaces)"
    if "apart" not in times:
        return [*rows, Skipped(two, "root and iproute2: apt-get install iproute2")]
    rows.append(Row(two, _median(times["apart"]), "s"))
    rows.append(Row(f"{label}: one machine to two", _ratio(times["here"], times["apart"]), "x", ">= 0.95"))
    return rows


def _prepared(folder: Path, hospitals: int, words: int) -> Summing:
    """Uploads of so many hospitals, drawn at random."""
    blobs, uploads = Blobs(folder), dict[int | str, tuple[bytes, ...]]()
    place = folder / "uploads" / "attempt"
    place.mkdir(parents=True)
    for source in range(1, hospitals + 1):
        digests = []
        for number, length in enumerate(segment_lengths(words)):
            data = secrets.token_bytes(length)
            (place / f"{source}-{number}").write_bytes(data)
            digests.append(hashlib.sha256(data).digest())
        uploads[source] = tuple(digests)
    assert max(segment_lengths(words)) <= SEGMENT_BYTES
    os.sync()
    masks = tuple(Mask(Secret(secrets.token_bytes(32)), -1) for _ in range(hospitals))
    return Summing(blobs, "attempt", "0", words, uploads, masks)


def _by_pool(pool: Workers, job: Summing) -> None:
    handed: list[Future[Any]] = [
        pool.submit(attempt, sum_segment, job, number) for number in range(len(segment_lengths(job.words)))
    ]
    assert [one.result() for one in handed] == [None] * len(handed)


def _by_cluster(cluster: Cluster, job: Summing) -> None:
    handed = [cluster.submit(job, number) for number in range(len(segment_lengths(job.words)))]
    digests = [one.result() for one in handed]
    gather(job.blobs, job.folder, job.draft_id, tuple(one for one in digests if isinstance(one, bytes)))


def _in_turns(
    cases: dict[str, Callable[[Summing], None]], job: Summing, repeats: int
) -> tuple[dict[str, list[float]], set[bytes]]:
    """Seconds of each case, and the hashes of what came out."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    sums = set()
    for repeat in range(repeats + 1):  # the first one warms up
        for name, case in cases.items():
            one = replace(job, draft_id=secrets.token_hex(8))
            started = time.perf_counter()
            case(one)
            if repeat:
                times[name].append(time.perf_counter() - started)
            sums.add(hashlib.sha256(one.draft.read_bytes()).digest())
            for left in (job.blobs.draft(job.folder, "sum", "x").parent).glob("sum*"):
                left.unlink()
    return times, sums


@contextmanager
def _here(folder: Path, workers: int) -> Iterator[Processes]:
    """Scheduler and workers on the loopback."""
    _up("lo")
    found = Processes(_alike(folder, "here"), workers=workers)
    try:
        found.wait_until_joined()
        yield found
    finally:
        found.close()


@contextmanager
def _two_machines(folder: Path, workers: int) -> Iterator[Processes | None]:
    """A scheduler here, and half of the workers on each of two machines that reach it over a cable."""
    if os.geteuid() != 0:
        yield None
        return
    for number in (0, 1):
        _ip("link", "add", f"here{number}", "type", "veth", "peer", "name", f"there{number}")
        _ip("address", "add", f"10.77.{number}.1/24", "dev", f"here{number}")
        _up(f"here{number}")
    found = Processes(_alike(folder, "apart"), workers=0, host=HOST)
    try:
        for number in (0, 1):
            count = (workers + 1 - number) // 2
            started = found.start_workers(count, within=["unshare", "-n", "sh", "-c", _WAIT, "sh"])
            _connect(started.pid, number)
        found.wait_until_joined()
        yield found
    finally:
        found.close()


_WAIT = 'until ip -4 -o address show scope global | grep -q .; do sleep 0.1; done; exec "$@"'


def _connect(pid: int, number: int) -> None:
    """The other end of a cable into the namespace of a process."""
    while os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        time.sleep(0.01)
    _ip("link", "set", f"there{number}", "netns", str(pid))
    inside = ["nsenter", "-t", str(pid), "-n", "ip"]
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "set", f"there{number}", "up"],
        ["address", "add", f"10.77.{number}.2/24", "dev", f"there{number}"],
        ["route", "add", f"{HOST}/32", "dev", f"there{number}"] if number else None,
    ):
        if words is not None:
            subprocess.run([*inside, *words], check=True)


def _alike(folder: Path, name: str) -> Path:
    """A folder of settings and certificates whose uploads are those of ``folder``."""
    own = folder / name
    own.mkdir()
    (own / "uploads").symlink_to(folder / "uploads")
    return own


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _up(card: str) -> None:
    if os.geteuid() == 0:
        _ip("link", "set", card, "up")


def _median(times: list[float]) -> float:
    return statistics.median(times)


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
