"""A consortium of the version before is stopped in the middle of a round; this version goes on with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.ports import free_port
from revisions import export
from rooms import ROOT

HOSPITALS = ("north", "south", "west")
LIMIT_S = 300.0
UNTAGGED = "806af58b47fb670b60364251dc5b356da4f5bf7c"
"""What is upgraded from until a version was tagged: the first revision whose nodes, stopped while they
train, keep the round's charge. Those of one before it may be out of the round in which they were stopped."""


def before() -> str:
    """The version to begin with: MEDVEIL_BEFORE, a tag or a commit, else the newest tag, else UNTAGGED."""
    words = ["git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"]
    tag = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return os.environ.get("MEDVEIL_BEFORE") or tag.stdout.strip() or UNTAGGED


def is_here(version: str) -> bool:
    """Not in a shallow clone, nor in what was unpacked from an archive."""
    words = ["git", "cat-file", "-e", f"{version}^{{commit}}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


needs_version = pytest.mark.skipif(
    not is_here(before()), reason=f"{before()} is not in this clone: git fetch --unshallow --tags"
)


@dataclass
class Machine:
    """One machine of everybody's, on which ``code`` is installed."""

    here: Path
    code: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def _words(self, words: str) -> list[str]:
        return [sys.executable, "-m", "medveil", *words.split()]

    @property
    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join((f"{self.code}/platform", str(self.code)))
        return {**os.environ, "PYTHONPATH": paths, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}

    def types(self, words: str) -> str:
        """What a command says; all of it is the message if it fails."""
        done = subprocess.run(
            self._words(words), cwd=self.here, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}"
        return done.stdout

    def starts(self, name: str, words: str) -> None:
        """A service; its log goes on from the version before."""
        with (self.here / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self._words(words), cwd=self.here, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def starts_all(self) -> None:
        self.starts("aggregator", "aggregator serve")
        for name in HOSPITALS:
            self.starts(name, f"node run --folder {name}")

    def ends_all(self) -> None:
        """As an operator does: asked to end, not killed."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(60)
        self.running.clear()

    def waits_for(self, event: str, number: int) -> None:
        """Until the aggregator has logged that of this round."""
        deadline, line = time.monotonic() + LIMIT_S, re.compile(rf'"{event}".*"round": {number}\b')
        while not line.search((self.here / "aggregator.log").read_text()):
            assert time.monotonic() < deadline, self.logs()
            assert all(p.poll() is None for p in self.running.values()), self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-1500:] for file in self.here.glob("*.log"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    code = tmp_path / "before"
    export(before(), code)
    made = Machine(tmp_path, code)
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


@needs_version
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_round_in_flight_ends_under_this_version(machine: Machine) -> None:
    write_phantom_sites(machine.here / "sites", profile="xray", hospitals=3, patients=40)
    port = free_port()
    machine.types(f"aggregator init --name localhost --port {port} --consortium Upgraded")
    machine.starts("aggregator", "aggregator serve")
    for name in HOSPITALS:
        machine.types(f"aggregator invite {name}")
    for place, name in enumerate(HOSPITALS, start=1):
        machine.types(f"node join {name}.invitation --data sites/hospital-{place} --folder {name} --yes")
    machine.types(
        "study new --template xray-classification --name upgraded --hospitals 3 --patients 28 --rounds 4 "
        "--anyway --output study"
    )
    said = machine.types("aggregator study create study/study.toml --initial study/initial.safetensors")
    words = " ".join(re.findall(r"[a-z]+", said[said.index("  words") + 7 : said.index("  hash")]))
    for name in HOSPITALS:
        machine.types(f"node approve --folder {name}")
        machine.types(f"node approve {words} --folder {name} --yes")
        machine.starts(name, f"node run --folder {name}")
    machine.waits_for("round.opened", 2)
    machine.ends_all()
    log = (machine.here / "aggregator.log").read_text()
    assert log.count('"round.opened"') > log.count('"round.done"'), "a round was in flight"

    machine.code = ROOT
    machine.types("aggregator migrate")
    machine.starts_all()
    assert "upgraded finished" in machine.types("aggregator study watch upgraded")
    for name in HOSPITALS:
        assert "4 of 4" in machine.types(f"node ledger --folder {name}")
        machine.types(f"node sent verify --folder {name}")
    machine.types("aggregator audit verify")
