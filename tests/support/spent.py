"""CPU seconds of tests and of the processes they start: shown after a run, kept in its JUnit file, limited.

    python tests/support/spent.py junit.xml [more.xml ...]

sums such files by room and by file. A clock tells how busy the machine was; these tell what the tests do. As
machines differ, and a busy one counts more seconds for the same work, each process also measures a piece of
work that is always the same: limits are in seconds of the machine on which they were set.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree

import pytest

NAME = "cpu_s"
YARDSTICK = "yardstick_s"
SHOWN = 12
MANY = 500
"""Fewer tests than this are not summed up on the screen, nor held against the limits."""
YARDSTICK_S = 0.35
"""What :func:`yardstick_s` gives where the limits were set, with a process of tests on each core."""
FILE_S = 5.0
"""The most that a file of tests may take in `make test`, as README says. What needs more is marked slow."""
SLACK = 4.0
"""Other machines differ; what passes its limit by so much fails, what merely passes it is named."""


def spent_s() -> float:
    """Of this process and of the children it has waited for, so far."""
    return sum(os.times()[:4])


def yardstick_s() -> float:
    """CPU seconds that a fixed piece of work takes here and now."""
    begun, found = time.process_time(), b""
    for number in range(60_000):
        words = {str(number + i): [i, found[:1]] for i in range(6)}
        found = hashlib.sha256(repr(sorted(words)).encode()).digest()
    return time.process_time() - begun


def beyond(files: Mapping[str, float], *, yardstick: float) -> dict[str, float]:
    """By how much files pass what they may take, as a factor: those that do, the worst first.

    Args: files: CPU seconds by path. yardstick: what :func:`yardstick_s` gave in the same run.
    """
    measured = {name: s * YARDSTICK_S / yardstick / FILE_S for name, s in files.items()}
    return dict(sorted(((n, f) for n, f in measured.items() if f > 1), key=lambda one: -one[1]))


class Spent:
    """Measures in the process that runs the tests; adds up in the one that reports them."""

    def __init__(self) -> None:
        self._mark = spent_s()
        self._of_item = 0.0
        self._files: Counter[str] = Counter()
        self._tests = 0
        self._processes = 0.0
        self._yardsticks: list[float] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        report: pytest.TestReport = yield
        now = spent_s()
        self._of_item += now - self._mark
        self._mark = now
        if call.when == "teardown":
            report.user_properties.append((NAME, round(self._of_item, 3)))
            self._of_item = 0.0
        return report

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if len(session.items) >= MANY:
            self._yardsticks.append(yardstick_s())
        self._mark = spent_s()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._yardsticks:
            self._yardsticks.append(yardstick_s())
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[NAME] = spent_s()
            session.config.workeroutput[YARDSTICK] = self._yardsticks
        elif any(factor > SLACK for factor in self._beyond(session.config).values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        told = getattr(node, "workeroutput", {})
        self._processes += told.get(NAME, 0.0)
        self._yardsticks += told.get(YARDSTICK, [])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._tests += 1
            self._files[report.location[0]] += dict(report.user_properties).get(NAME, 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests < MANY:
            return
        say = terminalreporter.write_line
        whole = self._processes + sum(os.times()[: 2 if self._processes else 4])
        terminalreporter.section("CPU seconds")
        say(f"{whole:.0f} in all, {self._files.total():.0f} in tests; limits times {self._slower():.2f}")
        for file, seconds in self._files.most_common(SHOWN):
            say(f"{seconds:7.1f} {file}")
        for file, factor in self._beyond(terminalreporter.config).items():
            wrong = "FAILED" if factor > SLACK else "WARNING"
            say(f"{wrong} {file} takes {factor:.1f} times what it may (tests/support/spent.py)")

    def _slower(self) -> float:
        """Seconds here for one of the machine on which the limits were set."""
        return sum(self._yardsticks) / len(self._yardsticks) / YARDSTICK_S if self._yardsticks else 1.0

    def _beyond(self, config: pytest.Config) -> dict[str, float]:
        if self._tests < MANY or config.option.markexpr != "not slow":
            return {}
        return beyond(self._files, yardstick=self._slower() * YARDSTICK_S)


def main(paths: list[str]) -> None:
    """Print what the tests of JUnit files cost, by room and by file."""
    rooms: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for case in (case for path in paths for case in ElementTree.parse(path).iter("testcase")):
        found = case.find(f"properties/property[@name='{NAME}']")
        seconds = float(case.get("time", "0") if found is None else found.get("value", "0"))
        _, room, file, *_ = (*case.get("classname", "").split("."), "?", "?", "?")
        rooms[room] += seconds
        files[f"{room}/{file}"] += seconds
    for counted in (rooms, files):
        print(f"{counted.total():8.1f} in all")  # noqa: T201
        for name, seconds in counted.most_common():
            print(f"{seconds:8.1f} {name}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
