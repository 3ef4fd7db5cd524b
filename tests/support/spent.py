"""CPU seconds of tests and of the processes they start: shown after a run, kept in its JUnit file.

    python tests/support/spent.py junit.xml [more.xml ...]

sums such files by room and by file. A clock tells how busy the machine was; these tell what the tests do.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from xml.etree import ElementTree

import pytest

NAME = "cpu_s"
SHOWN = 12
MANY = 500
"""Fewer tests than this are not summed up on the screen."""


def spent_s() -> float:
    """Of this process and of the children it has waited for, so far."""
    return sum(os.times()[:4])


class Spent:
    """Measures in the process that runs the tests; adds up in the one that reports them."""

    def __init__(self) -> None:
        self._mark = spent_s()
        self._of_item = 0.0
        self._files: Counter[str] = Counter()
        self._tests = 0
        self._processes = 0.0

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

    def pytest_collection_finish(self) -> None:
        self._mark = spent_s()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[NAME] = spent_s()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        self._processes += getattr(node, "workeroutput", {}).get(NAME, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._tests += 1
            self._files[report.location[0]] += dict(report.user_properties).get(NAME, 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests < MANY:
            return
        whole = self._processes + sum(os.times()[: 2 if self._processes else 4])
        terminalreporter.section("CPU seconds")
        terminalreporter.write_line(f"{whole:.0f} in all, {self._files.total():.0f} in tests, most in:")
        for file, seconds in self._files.most_common(SHOWN):
            terminalreporter.write_line(f"{seconds:7.1f} {file}")


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
