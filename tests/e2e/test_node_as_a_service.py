"""A study whose first hospital sees nothing but the aggregator; the second one's disk is full for a while."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hospital_node.frozen import SentAnchor
from hospital_node.journal import Journal
from hospital_node.ledger import Ledger
from hospital_node.settings import Node
from hospital_node.transmissions import look
from hospital_node.transmissions.requests import MASKED
from medveil.identity import Identity
from medveil.reports import PlanStatus
from medveil.study import Deadlines
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.client import NoAnswer
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.processes import Event
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from processes_watched import family
from walled import behind_a_wall, door, needs_wall

HOSPITALS, ROUNDS, LIMIT_S = 3, 2, 600.0
WALLED, FULL = "hospital-1", "hospital-2"
NO_MOUNT = "no tmpfs may be mounted here: mount -t tmpfs as root"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs_wall]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MB there; skipped by name where none may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), NO_MOUNT
        pytest.skip(NO_MOUNT)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all the room there is."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


class Walled(LocalConsortium):
    """A consortium, one node of which runs behind the wall."""

    wrapper: Path

    def _start(self, name: str, command: list[str]) -> None:
        before = sys.executable
        if name == WALLED:
            sys.executable = str(self.wrapper)
        try:
            super()._start(name, command)
        finally:
            sys.executable = before

    def build_wall(self) -> Path:
        """The way out; its socket."""
        way = self.folder / "way"
        words = behind_a_wall(way, self._settings.port, [sys.executable])
        self.wrapper = self.folder / "walled-python"
        self.wrapper.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        self.wrapper.chmod(0o700)
        return way

    @property
    def port(self) -> int:
        return self._settings.port

    def networks(self) -> list[set[str]]:
        """The interfaces that each process of the walled node sees, and whether it is another network."""
        found = []
        for pid in family(self._processes[WALLED]._process.pid):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
                found.append({line.partition(":")[0].strip() for line in lines})
        return found


@dataclass
class Played:
    folder: Path
    status: PlanStatus
    networks: list[set[str]]
    heard: list[tuple[str, str]] = field(default_factory=list)

    def node(self, name: str) -> Node:
        return Node.load(self.folder / "nodes" / name)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("consortium")
    write_phantom_sites(folder / "sites", profile="xray", hospitals=HOSPITALS, patients=12)
    study, initial = new_study(
        StudyOptions(
            name="as-a-service",
            task="classification",
            profile="xray",
            hospitals=HOSPITALS,
            rounds=ROUNDS,
            patients_hint=12,
            anyway=True,
            deadlines=Deadlines(**(DEADLINES | {"silence_s": 30.0})),
        )
    )
    heard: list[tuple[str, str]] = []
    disk, filled, freed = folder / "nodes" / FULL, threading.Event(), threading.Event()

    def listen(who: str, event: Event) -> None:
        name = str(event.get("event"))
        heard.append((who, name))
        if who == FULL and name == "work.started" and not filled.is_set():
            filled.set()
            fill(disk)
        if who == FULL and name == "disk.full" and not freed.is_set():
            freed.set()
            (disk / "filler").unlink()

    with small_disk(disk), Walled(folder, find_sites(folder / "sites"), listen) as consortium:
        with door(consortium.build_wall(), consortium.port):
            plan = consortium.open(study, initial).id
            deadline, status, networks = time.monotonic() + LIMIT_S, None, consortium.networks()
            while status is None or not status.finished:
                assert time.monotonic() < deadline, heard[-20:]
                time.sleep(0.2)
                consortium.check()
                with contextlib.suppress(NoAnswer):
                    status = consortium.client.status(plan)
                networks = consortium.networks() or networks
            consortium.stop()
        yield Played(folder, status, networks, heard)


def test_a_node_that_sees_nothing_but_the_aggregator_takes_part_in_every_round(played: Played) -> None:
    assert played.networks
    assert all(interfaces == {"lo"} for interfaces in played.networks)
    sums = [one.survivors for one in played.status.attempts if one.outcome == "done"]
    assert len(sums) == ROUNDS + 1
    assert all(WALLED in survivors for survivors in sums)


def test_a_node_whose_disk_was_full_goes_on_when_there_is_room_with_ledger_and_record_whole(
    played: Played,
) -> None:
    names = [name for who, name in played.heard if who == FULL]
    assert "disk.full" in names
    assert "disk.room" in names[names.index("disk.full") :]
    node = played.node(FULL)
    with Ledger.open(node.ledger) as ledger:
        ledger.verify()
        assert ledger.rows()
    with closing(Journal(node.journal)) as journal:
        kept = SentAnchor(journal).newest()
    key = Identity.load(FULL, node.key).public_key
    files = look.files_of(node.folder)
    assert look.verify(files, key=key, kept=kept).end.number > 1
    masked = {entry.told["round"] for entry in look.read(files)[1] if entry.kind == MASKED}
    assert masked == set(range(1, ROUNDS + 2))
