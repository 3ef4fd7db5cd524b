"""A whole private study of hospitals that share patients, with keepers, aggregator and nodes as processes."""

from __future__ import annotations

import asyncio
import csv
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.admin import new_token
from aggregator.keeper.book import KeeperBook
from aggregator.keeper.set_up import enrol_keeper, set_up_keeper, write_persons
from hospital_node.enrolment import line_to_aggregator
from hospital_node.operator import viewed
from hospital_node.persons.claiming import claim_persons, use
from hospital_node.settings import Node
from medveil.identity import Identity
from medveil.persons import Persons
from medveil.study import Deadlines, Study
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.sites import Site, find_sites
from medveil_research.studies import StudyOptions, new_study
from services import words_over

UNIT = "medveil-keeper.service"
KEEPERS, HOSPITALS, PATIENTS, SHARED = ("east", "west"), 3, 24, 8
LIMIT_S = 600.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 100)]


class WithKeepers(LocalConsortium):
    """Each hospital asks the keepers whose its patients are before it approves anything.

    The first patients of each are the last ones of the hospital before.
    """

    persons: Persons
    people: dict[str, dict[str, str]]

    def prepare(self) -> None:
        """Make the keepers: the study names their file, so they are there before the aggregator is."""
        make_certificates(self.folder / "any", ("localhost",))
        shown = []
        for name in KEEPERS:
            told = {"name": name, "aggregator": self._settings.url}
            made = set_up_keeper(self.folder / name, self.folder / "any" / "ca.pem", told)
            shown.append(made.public)
        self.file, self.people = self.folder / "persons.json", {}
        self.persons = write_persons(self.file, "north", "number", shown)

    def _enrolled(self, site: Site, study: Study) -> Node:
        node = super()._enrolled(site, study)
        if not self.people:
            self._start_keepers()
        with (site.folder / "manifest.csv").open(newline="") as file:
            patients = sorted({line["patient_id"] for line in csv.DictReader(file)})
        first = len(self.people) * (PATIENTS - SHARED)
        people = {name: f"94347{first + i:05}" for i, name in enumerate(patients)}
        self.people[site.name] = people
        table = self.folder / f"{site.name}.csv"
        table.write_text("patient_id,number\n" + "".join(f"{p},{n}\n" for p, n in people.items()))
        identity = Identity.load(site.name, node.key)
        for name in KEEPERS:
            with closing(KeeperBook(self.folder / name / "keeper.db")) as book:
                book.admit(site.name, identity.public_key, len(people))
        node, _ = use(node, self.file, ["number"], table)

        async def claim() -> None:
            async with line_to_aggregator(node) as line:
                await claim_persons(node, identity, line)

        asyncio.run(claim())
        return node

    def _start_keepers(self) -> None:
        for name in KEEPERS:
            folder = self.folder / name
            (folder / "aggregator-ca.pem").write_bytes(self._authority.read_bytes())
            enrol_keeper(folder, new_token(self._settings, name, "keeper"))
            (folder / "persons.json").write_bytes(self.file.read_bytes())
            self._start(name, words_over(UNIT, folder))


def test_a_study_ends_in_which_every_person_was_used_by_one_hospital(tmp_path: Path) -> None:
    write_phantom_sites(tmp_path / "sites", profile="xray", hospitals=HOSPITALS, patients=PATIENTS)
    with WithKeepers(tmp_path, find_sites(tmp_path / "sites"), lambda who, event: None) as consortium:
        consortium.prepare()
        study, initial = new_study(
            StudyOptions(
                name="shared-patients",
                task="classification",
                profile="xray",
                hospitals=HOSPITALS,
                rounds=2,
                privacy="local",
                epsilon=60.0,
                patients_hint=PATIENTS,
                deadlines=Deadlines(**DEADLINES),
                seed=3,
                anyway=True,
                persons=consortium.persons.hash.hex(),
            )
        )
        plan = consortium.open(study, initial)
        deadline = time.monotonic() + LIMIT_S
        while not consortium.client.status(plan.id).finished:
            consortium.check()
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert len([one for one in consortium.client.status(plan.id).attempts if one.done]) == 3
        nodes, people = dict(consortium._nodes), consortium.people
    counted: Counter[str] = Counter()
    for name, node in nodes.items():
        with viewed(node) as records:
            cohort = records.ledger.cohort(plan.lineage)
            assert cohort is not None
            assert records.ledger.spent() > 0
            counted.update(n for p, n in people[name].items() if records._names.patient(p) in cohort.patients)
    assert max(counted.values()) == 1
    assert len(counted) <= HOSPITALS * PATIENTS - (HOSPITALS - 1) * SHARED
