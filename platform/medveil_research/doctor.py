"""``medveil doctor``: whether this machine can do the work, before anything depends on it."""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hospital_node.doctor import masking, torch_and_gpu
from medveil.examined import Finding, clock, disk, examined, memory, python
from medveil.software import version_of


def examine(folder: Path) -> Iterator[Finding]:
    """Look at everything; a check that itself fails is a finding, not a crash.

    Args:
        folder: where MedVeil would keep its files; its disk and its database locking are looked at.
    """
    return examined(
        (
            ("Python", python),
            ("processor", _cores),
            ("memory", memory),
            ("disk", lambda: disk(folder)),
            ("torch", _torch),
            ("masking", masking),
            ("SQLite", lambda: _sqlite(folder)),
            ("clock", clock),
            ("loopback port", _port),
        )
    )


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processor", f"{count} core{'s' if count > 1 else ''}")


def _torch() -> Finding:
    """An aggregator needs none, and here nobody has said what the machine is for."""
    if version_of("torch"):
        return torch_and_gpu()
    return Finding("torch", "not installed: fine for an aggregator; nodes and researchers need medveil[node]")


def _sqlite(folder: Path) -> Finding:
    """Version, and whether a second writer is really kept out: on some network disks it is not."""
    version = sqlite3.sqlite_version
    # SQLite could lose a commit in WAL mode before 3.51.3 when two connections met in a checkpoint.
    wal = (
        "WAL safe"
        if sqlite3.sqlite_version_info >= (3, 51, 3)
        else "WAL not safe before 3.51.3, not used here"
    )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "probe.sqlite"
        first, second = (sqlite3.connect(path, timeout=0, isolation_level=None) for _ in range(2))
        try:
            first.execute("CREATE TABLE probe (value)")
            first.execute("BEGIN IMMEDIATE")
            try:
                second.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return Finding("SQLite", f"{version}, {wal}; rollback journal locks correctly")
        finally:
            first.close()
            second.close()
    return Finding(
        "SQLite", f"{version}: two writers at once", "Use a local disk; file locks do not work here."
    )


def _port() -> Finding:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.create_connection(server.getsockname(), timeout=5):
            return Finding("loopback port", f"127.0.0.1:{server.getsockname()[1]} answers")
