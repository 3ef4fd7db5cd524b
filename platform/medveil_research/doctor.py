"""A look at this machine before anything depends on it: PASSED lines, problems, and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_GB = 4.0
DISK_GB = 5.0
BUILT = 1_767_225_600
"""1 January 2026, Unix seconds: a clock before that is wrong for certain."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``remedy`` is empty when it is in order."""

    name: str
    found: str
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is in order."""
        return not self.remedy


def examine(folder: Path) -> list[Finding]:
    """Look at everything; a check that itself fails is a finding, not a crash.

    Args:
        folder: where MedVeil would keep its files; its disk and its database locking are looked at.
    """
    checks: Sequence[tuple[str, Callable[[], Finding]]] = (
        ("Python", _python),
        ("processor", _cores),
        ("memory", _memory),
        ("disk", lambda: _disk(folder)),
        ("torch", _torch),
        ("SQLite", lambda: _sqlite(folder)),
        ("clock", _clock),
        ("loopback port", _port),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except Exception as error:
            findings.append(Finding(name, type(error).__name__, f"This could not be examined: {error}"))
    return findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", found, "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer.")


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processor", f"{count} core{'s' if count > 1 else ''}")


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    remedy = "" if total >= MEMORY_GB else f"Use a machine with {MEMORY_GB:g} GB or more, or smaller images."
    return Finding("memory", f"{total:.1f} GB", remedy)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    remedy = "" if free >= DISK_GB else f"Free {DISK_GB:g} GB on this disk, or use another folder."
    return Finding("disk", f"{free:.1f} GB free", remedy)


def _torch() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("torch", "missing", "Run 'make install'; a hospital needs it, an aggregator does not.")
    if torch.cuda.is_available():
        return Finding("torch", f"{torch.__version__}, CUDA: {torch.cuda.get_device_name(0)}")
    return Finding("torch", f"{torch.__version__}, CUDA: no (training runs on the processor)")


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


def _clock() -> Finding:
    now, steady = time.time(), time.monotonic()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    drift = abs((time.time() - now) - (time.monotonic() - steady))
    if now < BUILT or drift > 1:
        return Finding("clock", shown, "Set the clock by NTP; requests that are 5 minutes off are refused.")
    return Finding("clock", shown)


def _port() -> Finding:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.create_connection(server.getsockname(), timeout=5):
            return Finding("loopback port", f"127.0.0.1:{server.getsockname()[1]} answers")
