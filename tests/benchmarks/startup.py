"""What it costs to start a command: CPU seconds of the whole process, user and system, median of five.

Each runs in an empty folder, up to its help or its first error; ``python -c pass`` is Python alone.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile

REPEATS = 5
MEDVEIL = "from medveil.cli import main; main()"
COMMANDS = (
    "--help",
    "node --help",
    "node init --name a --aggregator https://here --authority ca.pem --data .",
    "node enroll token",
    "node certificate",
    "node check",
    "node approve",
    "node run",
    "node cohort",
    "node lineage",
    "node heads",
    "node ledger",
    "node ledger verify",
    "node ledger go-on",
    "aggregator --help",
    "aggregator study status",
    "study --help",
)


def cpu_seconds(command: list[str], folder: str) -> float:
    """Median over the repeats, after one that fills the caches."""
    taken = []
    for _ in range(REPEATS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(taken[1:])


def main() -> None:
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{cpu_seconds([sys.executable, '-c', 'pass'], folder):6.3f} s  python -c pass")
        for words in COMMANDS:
            command = [sys.executable, "-c", MEDVEIL, *words.split()]
            print(f"{cpu_seconds(command, folder):6.3f} s  medveil {words}")


if __name__ == "__main__":
    main()
