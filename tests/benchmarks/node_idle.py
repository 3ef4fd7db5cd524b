"""What a node costs that waits: memory and processor of ``medveil node run``, over HTTPS, on a small study.

Five times: no plan is on offer; this hospital has approved one and read its images, and waits for the
others, before and after it has gone to rest; the study is over, before and after. Figures are of the process
and all its children. ``--seconds``: how long each is watched at rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aggregator.admin import create_plan, new_token, set_up_aggregator
from hospital_node.operator import approve_plan
from medveil.study import Study
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.enrolment import enrol
from medveil_research.local_consortium import RESEARCHER, LocalConsortium
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study
from processes_watched import MIB, cpu_seconds, family, proportional, resident

HOSPITALS, LIMIT_S = 3, 180.0


class Steps(LocalConsortium):
    """A consortium whose nodes are started before there is a plan."""

    def begin(self, study: Study) -> None:
        """Aggregator, researcher, nodes; the first of them runs."""
        (self.folder / "logs").mkdir(parents=True)
        set_up_aggregator(self._settings)
        self._start("aggregator", ["aggregator", "serve", "--folder", str(self._settings.folder)])
        self._wait_for_aggregator()
        token = new_token(self._settings, RESEARCHER, "researcher")
        where = {"aggregator": self._settings.url, "authority": self._authority, "token": token}
        self._client = enrol(self.researcher, name=RESEARCHER, **where).client()
        for site in self.sites:
            self._nodes[site.name] = self._enrolled(site, study)
        self.run(self.sites[0].name)

    def run(self, name: str) -> None:
        """Start a node."""
        self._start(name, ["node", "run", "--folder", str(self._nodes[name].folder)])

    def pid(self, name: str) -> int:
        """Of a node that runs."""
        return self._processes[name]._process.pid

    def offer(self, study: Study, initial: bytes) -> Any:
        """Make the plan."""
        files = self.folder / "study"
        write_study(files, study, initial)
        names = [site.name for site in self.sites]
        return create_plan(
            self._settings, files / "study.toml", files / "initial.safetensors", names, [RESEARCHER]
        )

    def approve(self, name: str, plan: Any) -> None:
        """As the operator of a hospital does."""
        approve_plan(self._nodes[name], plan)


def measured(pid: int, seconds: float) -> dict[str, float]:
    """Resident and proportional sets (MiB), and share of a core, over a while."""
    _let_settle(pid)
    before, largest, until = cpu_seconds([pid]), 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        largest = max(largest, sum(map(resident, family(pid))) / MIB)
        time.sleep(0.3)
    used = cpu_seconds([pid]) - before
    shared = sum(map(proportional, family(pid))) / MIB
    found = {
        "resident MiB": round(largest, 1),
        "proportional MiB": round(shared, 1),
        "core %": round(100 * used / seconds, 2),
    }
    each = ", ".join(f"{resident(one) / MIB:.0f}" for one in family(pid))
    print(found, "each process:", each, flush=True)
    return found


def _let_settle(pid: int) -> None:
    """Until it has done next to nothing for five seconds: it has started, or ended its work."""
    deadline, used = time.monotonic() + LIMIT_S, cpu_seconds([pid])
    while time.monotonic() < deadline:
        time.sleep(5)
        before, used = used, cpu_seconds([pid])
        if used - before < 0.25:
            return


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def play(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """The three states of the first hospital's node."""
    write_phantom_sites(folder / "sites", profile="xray", hospitals=HOSPITALS, patients=12)
    options = {
        "task": "classification",
        "profile": "xray",
        "hospitals": HOSPITALS,
        "rounds": 2,
        "anyway": True,
    }
    study, initial = new_study(StudyOptions(name="idle", patients_hint=12, **options))
    read, finished, rests = threading.Event(), threading.Event(), threading.Semaphore(0)

    def heard(who: str, event: dict[str, Any]) -> None:
        if who == first:
            {"images.read": read, "plan.finished": finished}.get(
                str(event.get("event")), threading.Event()
            ).set()
            if event.get("event") == "node.resting":
                rests.release()

    sites = find_sites(folder / "sites")
    first, found = sites[0].name, {}
    with Steps(folder, sites, heard) as consortium:
        consortium.begin(study)
        found["no plan"] = measured(consortium.pid(first), seconds)
        plan = consortium.offer(study, initial)
        consortium.approve(first, plan)
        wait_until(read.is_set)
        found["approved, images just read"] = measured(consortium.pid(first), 5.0)
        assert rests.acquire(timeout=LIMIT_S)
        found["approved, images read, waits for the others"] = measured(consortium.pid(first), seconds)
        for site in sites[1:]:
            consortium.approve(site.name, plan)
            consortium.run(site.name)
        wait_until(finished.is_set)
        found["the study is just over"] = measured(consortium.pid(first), 5.0)
        assert rests.acquire(timeout=LIMIT_S)
        found["the study is over"] = measured(consortium.pid(first), seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        found = play(Path(folder), given.seconds)
    for state, figures in found.items():
        print(f"{state:45} " + "  ".join(f"{name} {value}" for name, value in figures.items()))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
