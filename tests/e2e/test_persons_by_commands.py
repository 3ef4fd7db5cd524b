"""A study of ``study new --persons`` from the keepers' first command to its end, as the pages have it typed.

Admin, researcher, two keepers and three hospitals each have a folder and a shell of their own, real processes
and HTTPS between them. What is typed stands in docs/admin.md and docs/operator.md; names and files are ours.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.ports import free_port
from rooms import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
KEEPERS, HOSPITALS = ("ethics-office", "university"), ("north", "south", "west")
DRAWN_BACK = "registry"
"""A keeper of the first persons file, which is not the one that the consortium came to use."""
PATIENTS, SHARED = 120, 12
"""Of a hospital, and of two neighbours: 336 persons in all."""
PERSONS = len(HOSPITALS) * PATIENTS - (len(HOSPITALS) - 1) * SHARED
PAGES = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("admin.md", "operator.md"))
PAGES = PAGES.replace("\\\n", " ")  # a command that goes on in the next line
LIMIT_S = 900.0


def documented(start: str) -> list[str]:
    """The words of the first command in the pages that begins so."""
    found = re.search(rf"(?:^|`)medveil {re.escape(start)}(?![\w-])[^`\n]*", PAGES, re.MULTILINE)
    assert found is not None, f"no page says 'medveil {start}'"
    text = found[0].strip("`").partition("  #")[0].replace("…", "")
    return shlex.split(text)[1:]


class Everybody:
    """Who takes part; each types in a folder of the own name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.authority = self.place("admin") / "aggregator-data" / "tls" / "ca.pem"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def place(self, who: str) -> Path:
        place = self.folder / who
        place.mkdir(exist_ok=True)
        return place

    def types(
        self, who: str, start: str, *more: str | Path, instead: dict[str, str] | None = None, fails: str = ""
    ) -> str:
        """What a documented command says, or the error it ends with (``fails``: its code).

        ``instead``: what is typed in place of the page's words.
        """
        words = [(instead or {}).get(word, word) for word in documented(start)]
        done = subprocess.run(
            self._command([*words, *map(str, more)]), cwd=self.place(who), env=self._environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (not fails), f"{who}: {start}\n{said[-3000:]}"
        assert not fails or re.search(rf"code +{fails}$", said, re.MULTILINE), said[-3000:]
        assert "Traceback" not in said
        return " ".join(said.split()) if fails else said

    def starts(self, who: str, start: str, *more: str) -> None:
        """A documented command that goes on."""
        with (self.place(who) / "log.txt").open("ab") as out:
            self.running[who] = subprocess.Popen(
                self._command([*documented(start), *more]), cwd=self.place(who), env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def ends(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("localhost", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def _command(self, words: list[str]) -> list[str]:
        return [sys.executable, "-m", "medveil", *words]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}

    # ---- who does what, as docs/admin.md numbers it ----

    def opens(self) -> None:
        """The admin's aggregator, and the hospitals in it."""
        self.types(
            "admin", "aggregator init", instead={"fl.example.org": "localhost", "8443": str(self.port)}
        )
        self.starts("admin", "aggregator serve")
        until = time.monotonic() + 120
        while not self._answers():
            log = (self.place("admin") / "log.txt").read_text(encoding="utf-8")
            assert time.monotonic() < until, log[-3000:]
            assert self.running["admin"].poll() is None, log[-3000:]
            time.sleep(0.2)
        for place, name in enumerate(HOSPITALS):
            self.types("admin", "aggregator invite", instead={"st-marys": name})
            file = self.place("admin") / f"{name}.invitation"
            images = self.folder / "sites" / f"hospital-{place + 1}"
            given = {"st-marys.invitation": str(file), "/data/chest-films": str(images)}
            self.types(name, "node join", "--yes", instead=given)

    def makes(self, keeper: str) -> None:
        """Row 2, its first half."""
        mine = {"ethics-office": keeper, "https://fl.example.org:8443": f"https://localhost:{self.port}"}
        self.types(keeper, "aggregator keeper init", instead={**mine, "ca.pem": str(self.authority)})

    def enrols(self, keeper: str) -> None:
        """Row 1, and the other half of 2."""
        mine = {"ethics-office": keeper}
        token = self.types("admin", "aggregator enroll-token ethics-office --keeper", instead=mine)
        self.types(keeper, "aggregator keeper enroll", instead={"TOKEN": token.split()[0]})

    def describes(self, keepers: tuple[str, ...], *more: str | Path) -> str:
        """Row 3."""
        shown = [str(self.place(one) / "keeper-data" / "public.json") for one in keepers]
        given = dict(zip(("a/public.json", "b/public.json"), shown, strict=True))
        return self.types("admin", "aggregator keeper describe", *more, instead=given)

    def admits(self, keeper: str, hospital: str) -> None:
        """Rows 5 and 6."""
        key = re.search("[0-9a-f]{64}", self.types(hospital, "node persons"))
        assert key is not None
        given = {"st-marys": hospital, "KEY": key[0]}
        self.types(keeper, "aggregator keeper admit", instead=given)


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everybody]:
    folder = tmp_path_factory.mktemp("consortium")
    write_phantom_sites(folder / "sites", profile="xray", hospitals=len(HOSPITALS), patients=PATIENTS)
    made = Everybody(folder)
    for place, name in enumerate(HOSPITALS):
        with (folder / "sites" / f"hospital-{place + 1}" / "manifest.csv").open(newline="") as file:
            patients = sorted({line["patient_id"] for line in csv.DictReader(file)})
        assert len(patients) == PATIENTS
        write_people(made.place(name), patients, first=place * (PATIENTS - SHARED), apart=" -"[place % 2])
    try:
        yield made
    finally:
        made.ends()


def write_people(place: Path, patients: list[str], *, first: int, apart: str) -> None:
    """A hospital's own list. Neighbours share numbers, and write them differently."""
    numbers = (f"943{apart}47{first + number:05}" for number in range(len(patients)))
    rows = [f"{name},{number}" for name, number in zip(patients, numbers, strict=True)]
    (place / "people.csv").write_text("\n".join(["patient_id,NHS number", *rows]) + "\n", encoding="utf-8")


def counted(said: str, words: str) -> int:
    """The number before these words; 0 without them."""
    found = re.search(rf"(\d+) {re.escape(words)}", " ".join(said.split()))
    return int(found[1]) if found else 0


def words_of(said: str) -> list[str]:
    """The twelve words of a plan that was made."""
    part = said.partition("  words")[2].partition("  hash")[0]
    return part.split()


def test_from_the_first_command_to_the_last_round_every_person_counts_once(everybody: Everybody) -> None:
    them = everybody
    them.opens()
    for keeper in (*KEEPERS, DRAWN_BACK):
        them.makes(keeper)
    for keeper in KEEPERS:
        them.enrols(keeper)
    them.describes((KEEPERS[0], DRAWN_BACK), "--out", "old.json")
    them.describes(KEEPERS)
    current, stale = (
        {"persons.json": str(them.place("admin") / name)} for name in ("persons.json", "old.json")
    )

    # A keeper does not take a file that names other keys, nor run without one.
    said = them.types("university", "aggregator keeper adopt", instead=stale, fails="keeper-other-keys")
    assert "public.json again" in said
    said = them.types("university", "aggregator keeper run", fails="no-persons")
    assert "medveil aggregator keeper adopt persons.json" in said
    for keeper in KEEPERS:
        them.types(keeper, "aggregator keeper adopt", instead=current)

    # A hospital that was not told of persons, that nobody has admitted, or whose keepers are away.
    said = them.types("north", "node persons claim", fails="no-persons-file")
    assert "medveil node persons use FILE --column NAME" in said
    them.types("north", "node persons use", instead=current)
    said = them.types("north", "node persons claim", fails="keeper-away")
    assert "'ethics-office' does not answer" in said
    assert "medveil aggregator keeper run" in said
    for keeper in KEEPERS:
        them.starts(keeper, "aggregator keeper run")
    said = them.types("north", "node persons claim", fails="keeper-refuses")
    assert "has not admitted this hospital" in said
    assert "medveil aggregator keeper admit NAME --key KEY --patients NUMBER" in said
    for hospital in HOSPITALS:
        for keeper in KEEPERS:
            them.admits(keeper, hospital)
    them.types("north", "node persons claim")

    # One that began with a file that is no longer the consortium's.
    them.types("south", "node persons use", instead=stale)
    said = them.types("south", "node persons claim", fails="keeper-refuses")
    assert "another persons file" in said
    them.types("south", "node persons use", instead=current)
    said = them.types("south", "node persons claim")
    assert counted(said, "are in another hospital that asked first") == SHARED

    plan = opened(them)
    refused_until_asked(them, "west", plan, current)
    for hospital in HOSPITALS:
        them.types(hospital, "node approve", "--yes", *plan)
    for hospital in HOSPITALS:
        them.starts(hospital, "node run")
    watched = them.types("admin", "aggregator study watch", instead={"demo-classification": "chest-films"})
    assert "chest-films finished" in watched
    used = [
        counted(them.types(one, "node persons"), "patient(s) here are this hospital's") for one in HOSPITALS
    ]
    assert sum(used) == PERSONS
    assert used[0] == PATIENTS
    for keeper in KEEPERS:
        log = them.types(keeper, "aggregator keeper log")
        assert "The log is whole" in log
        assert all(name in log for name in HOSPITALS)


def opened(them: Everybody) -> list[str]:
    """The researcher's study, opened by the admin; its words."""
    persons = str(them.place("admin") / "persons.json")
    wanted = "--template xray-classification --name chest-films --hospitals 3 --rounds 3 --output study"
    said = them.types(
        "researcher",
        "study new --persons",
        *wanted.split(),
        "--patients",
        "84",
        instead={"persons.json": persons},
    )
    assert "each in one hospital only, known by NHS number to the keepers ethics-office, university" in said
    folder = them.place("researcher") / "study"
    given = {
        "study/study.toml": folder / "study.toml",
        "study/initial.safetensors": folder / "initial.safetensors",
    }
    return words_of(
        them.types("admin", "aggregator study create", instead={k: str(v) for k, v in given.items()})
    )


def refused_until_asked(them: Everybody, hospital: str, plan: list[str], current: dict[str, str]) -> None:
    """Without a persons file, and with one and nobody asked, there is no approval; it says what to type."""
    shown = them.types(hospital, "node approve")
    assert "this node does not know persons yet" in " ".join(shown.split())
    said = them.types(hospital, "node approve", "--yes", *plan, fails="plan-refused")
    assert "medveil node persons use persons.json --column NAME" in said
    them.types(hospital, "node persons use", instead=current)
    for each in HOSPITALS:
        them.types(each, "node approve")  # shown, so that it can be approved
    said = them.types(hospital, "node approve", "--yes", *plan, fails="persons-not-asked")
    assert f"whose {PATIENTS} of the patients here are" in said
    assert "medveil node persons claim" in said
    them.types(hospital, "node persons claim")
