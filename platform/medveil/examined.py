"""A look at a machine before anything depends on it: what was found, one line each, and what to do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medveil.errors import Error
from medveil.shown import Screen, fault, good, plain

MEMORY_GB = 4.0
DISK_GB = 5.0
BUILT = 1_767_225_600
"""1 January 2026, Unix seconds: a clock before that is wrong for certain."""
WIDTH = 14
BY_NTP = "Set the clock by NTP; requests that are 5 minutes off are refused."


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


Check = Callable[[], Finding]


def examined(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Look at one thing after the other; a check that itself fails is a finding, not a crash."""
    for name, check in checks:
        try:
            yield check()
        except Error as error:
            yield refused(name, error)
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                remedy = "Check that it is there and belongs to this user, and the room on its disk."
                yield Finding(name, error.strerror, remedy)
            else:
                remedy = f"This could not be examined: {plain(error, 120)}"
                yield Finding(name, type(error).__name__, remedy)


def refused(name: str, error: Error) -> Finding:
    """What an error has found."""
    return Finding(name, f"{error.what} {error.meaning}".rstrip(), f"{error.remedy} [{error.code}]")


def show(screen: Screen, findings: Iterable[Finding]) -> bool:
    """A line for each as it comes, the fix under what is not in order; whether all is."""
    passed = True
    for one in findings:
        mark = good("PASSED ") if one.passed else fault("problem")
        screen.say(mark, f"{one.name:<{WIDTH}}", plain(one.found, 600))
        if one.remedy:
            screen.say("        fix           ", plain(one.remedy, 600))
        passed = passed and one.passed
    return passed


def python() -> Finding:
    """The version that runs."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", found, "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer.")


def memory() -> Finding:
    """How much this machine has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    remedy = "" if total >= MEMORY_GB else f"Use a machine with {MEMORY_GB:g} GB or more, or smaller images."
    return Finding("memory", f"{total:.1f} GB", remedy)


def disk(folder: Path) -> Finding:
    """How much room there is where a folder lies, and whether a file can be written there."""
    free = shutil.disk_usage(folder).free / 1e9
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())
    remedy = "" if free >= DISK_GB else f"Free {DISK_GB:g} GB on this disk, or use another folder."
    return Finding("disk", f"{free:.1f} GB free", remedy)


def clock() -> Finding:
    """Whether this machine's clock can be right at all."""
    now, steady = time.time(), time.monotonic()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    drift = abs((time.time() - now) - (time.monotonic() - steady))
    return Finding("clock", shown, BY_NTP if now < BUILT or drift > 1 else "")
