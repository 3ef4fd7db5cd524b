"""A patient in two hospitals: counts in one of them, pays from one account, and nobody learns who it is."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from typer.testing import CliRunner

from dicom_files import film_file, picture
from folders import lines_of, write_folder, write_manifest
from hospital_node.cli import app
from hospital_node.cohort import Cohort
from hospital_node.governance import PlanRefused, check_terms
from hospital_node.operator import opened, patients_of, viewed
from hospital_node.persons.claiming import Counts, NoPersonsFile, claim_persons, counts, use
from hospital_node.persons.known import PersonsNotAsked, PersonTwice, check_alone
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings
from hospital_node.training.clipped_sum import add_clipped_sum
from hospital_node.training.gradients import Drawn
from hospital_node.training.optimizer import PatientOptimizer
from hospitals import LOCAL, PEOPLE, Hospital, charge, plan_of
from keepers import Consortium, consortium
from medveil.errors import BadFile
from medveil.noise_policies import LocalNoise
from medveil.plan import Plan
from medveil.tasks import TASKS
from medveil_imaging.sources.site import read_site
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from privacy.oprf.errors import BadEvaluation
from privacy.oprf.hospital import KeeperRefuses
from privacy.oprf.messages import Answer, Evaluated

SPLITS = (("train", 4), ("test", 2))
CLIP = 0.01
"""So small that every gradient is clipped: each patient gives exactly as much."""
ALL = [f"{split}-{number}" for split, count in SPLITS for number in range(count)]


def hospital_in(folder: Path, number: int, people: Mapping[str, str]) -> Hospital:
    """Hospital ``number`` with a film for each pseudonym, and its list of who they are."""
    lines = [one for one in lines_of(SPLITS) if one[1] in people]
    images = write_folder(folder / f"images-{number}", lines)
    identity = PEOPLE[number - 1]
    settings = NodeSettings(name=identity.name, aggregator="https://here", data=images, dataset="films")
    node = Node(folder / f"node-{number}", settings)
    node.save()
    identity.save(node.key)
    return Hospital(node, identity)


def list_of(hospital: Hospital, people: Mapping[str, str]) -> Path:
    """The operator's list, written anew."""
    path = hospital.node.folder.parent / f"{hospital.identity.name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("patient_id", "NHS number"), *people.items()])
    return path


class Them:
    """Two hospitals and two keepers."""

    def __init__(self, folder: Path, *people: Mapping[str, str], limit: int = 100) -> None:
        self.keepers: Consortium = consortium(limit, hospitals=PEOPLE)
        self.hospitals = []
        folder.mkdir(exist_ok=True)
        self.file = folder / "persons.json"
        self.file.write_text(self.keepers.persons.model_dump_json())
        for number, who in enumerate(people, start=1):
            one = hospital_in(folder, number, who)
            node, _ = use(one.node, self.file, ["NHS number"], list_of(one, who))
            self.hospitals.append(Hospital(node, one.identity))

    def claim(self, number: int, post: Any = None) -> Counts:
        one = self.hospitals[number - 1]
        return asyncio.run(claim_persons(one.node, one.identity, post or self.keepers))

    def plan(self, name: str = "films", **changes: Any) -> Plan:
        return plan_of(name, cohort={"persons": self.keepers.persons.hash.hex()}, **changes)

    def trained_on(self, number: int, plan: Plan) -> list[str]:
        """The pseudonyms whose images a round of this hospital would see."""
        one = self.hospitals[number - 1]
        with one.works() as records:
            records.register(plan)
            read = records.read(plan, lambda p: read_site(one.images, p.study))
            site = records.check(plan, read)
        return [p.patient for p in (*site.train, *site.val, *site.test)]


def numbers(*, first: int) -> dict[str, str]:
    """A number for each pseudonym, one after the other."""
    return {name: f"94347{first + i:05}" for i, name in enumerate(ALL)}


def test_whoever_is_in_two_hospitals_is_in_every_sum_once(tmp_path: Path) -> None:
    a, b = numbers(first=0), numbers(first=4)  # two of six persons are in both
    b = {name: f"{n[:3]} {n[3:6]} {n[6:]}" for name, n in b.items()}  # another spelling
    them = Them(tmp_path, a, b)
    assert them.claim(1) == Counts(own=6, elsewhere=0, unasked=0, unknown=0, several=0)
    assert them.claim(2) == Counts(own=4, elsewhere=2, unasked=0, unknown=0, several=0)
    plan = them.plan()
    found: Counter[str] = Counter()
    for number, people in ((1, a), (2, b)):
        them.hospitals[number - 1].approve(plan)
        found.update(people[p].replace(" ", "") for p in them.trained_on(number, plan))
    assert set(found) == {n.replace(" ", "") for n in (*a.values(), *b.values())}
    assert set(found.values()) == {1}  # nobody gives more than one clipped gradient to a sum


def clipped_sum(net: nn.Module, patients: list[Drawn]) -> torch.Tensor:
    """What one step of all hospitals adds up to before noise, by the engine of training."""
    policy = LocalNoise.model_validate(LOCAL | {"clip_norm": CLIP})
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    own = PatientOptimizer(sgd, policy=policy, expected_patients=1.0, noise=NoiseSource.fresh())
    for weight in net.parameters():
        weight.summed_grad = torch.zeros_like(weight)  # type: ignore[attr-defined]
    add_clipped_sum(own, net, TASKS["classification"].loss, patients, device=torch.device("cpu"))
    return torch.cat([w.summed_grad.flatten() for w in net.parameters()])  # type: ignore[attr-defined]


def test_a_person_in_two_hospitals_moves_the_sum_of_a_step_by_the_clip_and_without_the_rule_by_twice_it(
    tmp_path: Path,
) -> None:
    a, b = numbers(first=0), numbers(first=10)
    b["train-0"] = a["train-0"]  # one person, with the same film in both
    them = Them(tmp_path, a, b)
    them.claim(1)
    them.claim(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 2))

    def moved(used: dict[int, list[str]]) -> float:
        with_, without = [], []
        for number, one in enumerate(them.hospitals, start=1):
            for patient in read_site(one.images, them.plan().study).train:
                if patient.patient in used[number]:
                    drawn = Drawn(*patient.take(range(len(patient))))
                    with_.append(drawn)
                    without += [] if patient.patient == "train-0" else [drawn]
        return float((clipped_sum(net, with_) - clipped_sum(net, without)).norm())

    plan = them.plan()
    for one in them.hospitals:
        one.approve(plan)
    assert moved({number: them.trained_on(number, plan) for number in (1, 2)}) == pytest.approx(
        CLIP, rel=2e-3
    )
    assert moved({1: ALL, 2: ALL}) == pytest.approx(2 * CLIP, rel=2e-3)


@pytest.mark.slow
def test_the_first_who_asks_has_the_person_in_every_study_and_after_a_restart(tmp_path: Path) -> None:
    same = numbers(first=0)
    them = Them(tmp_path, same, same)
    with pytest.raises(PersonsNotAsked):
        them.hospitals[0].approve(them.plan())
    assert them.claim(2).own == 6
    assert them.claim(1).elsewhere == 6
    assert them.claim(2).own == 6
    with pytest.raises(PlanRefused, match="holds no patient whom it could train on"):
        them.hospitals[0].approve(them.plan("another"))
    write_manifest(them.hospitals[1].images, [*lines_of(SPLITS), ("train-0-0.png", "new", "train", 0)])
    list_of(them.hospitals[1], same | {"new": "1"})
    with pytest.raises(PersonsNotAsked):
        them.hospitals[1].approve(them.plan())


@pytest.mark.slow
def test_who_is_not_known_by_one_identifier_of_its_own_is_left_out(tmp_path: Path) -> None:
    people = numbers(first=0)
    people |= {"train-0": people["train-1"], "train-2": "n/a"}
    them = Them(tmp_path, people)
    assert them.claim(1) == Counts(own=3, elsewhere=0, unasked=0, unknown=1, several=2)
    plan = them.plan()
    them.hospitals[0].approve(plan)
    assert sorted(them.trained_on(1, plan)) == ["test-0", "test-1", "train-3"]
    with viewed(them.hospitals[0].node) as records:
        assert patients_of(records, plan).elsewhere == 3


@pytest.mark.slow
def test_a_person_pays_from_one_account_whatever_the_pseudonym(tmp_path: Path) -> None:
    people = numbers(first=0)
    them = Them(tmp_path, people)
    them.claim(1)
    (one,), plan = them.hospitals, them.plan()
    one.approve(plan)
    with one.works() as records:
        records.register(plan)
        charge(records, plan, 1)
    renamed = {("moved-1" if name == "train-1" else name): n for name, n in people.items()}
    lines = [(f, "moved-1" if p == "train-1" else p, s, n) for f, p, s, n in lines_of(SPLITS)]
    lines = [("new.png", *one[1:]) if one[1] == "moved-1" else one for one in lines]
    one.write(lines)
    list_of(one, renamed)
    assert them.claim(1).own == 6
    with viewed(one.node) as records:
        before = records.cohort(records.plans.part(plan.lineage))  # type: ignore[arg-type]
        after = patients_of(records, them.plan("another")).cohort
    account = {held.person: held.account for held in before.patients.values()}
    assert {held.person: held.account for held in after.patients.values()} == account
    assert len(set(account.values())) == 6


@pytest.mark.slow
def test_an_answer_is_noted_when_all_keepers_have_given_it_and_not_before(tmp_path: Path) -> None:
    them = Them(tmp_path, numbers(first=0), limit=6)

    class Lost:
        """The line is cut before the last answer arrives; the keeper has given everybody."""

        def __init__(self, after: int) -> None:
            self.left = after

        async def letter(self, keeper: str, body: bytes) -> bytes:
            answer = await them.keepers.letter(keeper, body)
            self.left -= 1
            if self.left < 0:
                raise ConnectionError
            return answer

    for after in range(4):
        with pytest.raises(ConnectionError):
            them.claim(1, Lost(after))
        assert not them.hospitals[0].node.known_persons.exists()
    assert them.claim(1, Lost(4)).own == 6  # a repeated question has not counted towards the limit of six
    assert them.claim(1, Lost(0)).own == 6  # and what is known is not asked again


def test_a_lying_keeper_gives_nobody_and_is_named(tmp_path: Path) -> None:
    them = Them(tmp_path, numbers(first=0))

    class Lies:
        async def letter(self, keeper: str, body: bytes) -> bytes:
            answer = await them.keepers.letter(keeper, body)
            told = Evaluated.from_bytes(Answer.from_bytes(answer).body)
            lie = told.model_copy(update={"elements": told.elements[::-1]})
            return Answer(body=lie.to_bytes()).to_bytes()

    with pytest.raises(BadEvaluation):
        them.claim(1, Lies())
    poor = Them(tmp_path / "poor", numbers(first=0), limit=5)
    with pytest.raises(KeeperRefuses) as caught:
        poor.claim(1)
    assert caught.value.told == "keeper-limit"
    for one in (them, poor):
        assert not one.hospitals[0].node.known_persons.exists()
        with pytest.raises(PersonsNotAsked):
            one.hospitals[0].approve(one.plan())


@pytest.mark.slow
def test_no_identifier_and_no_tag_lies_in_the_nodes_folder(tmp_path: Path) -> None:
    people = numbers(first=0)
    them = Them(tmp_path, people)
    them.claim(1)
    them.hospitals[0].approve(them.plan())
    tags = [tag.hex() for tag in them.keepers.books[0].register]
    folder = them.hospitals[0].node.folder
    whole = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    for secret in (*people.values(), *tags):
        assert secret.encode() not in whole
    for tag in them.keepers.books[0].register:
        assert tag not in whole
    sealed = folder / "persons.sealed"
    data = sealed.read_bytes()
    sealed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    one = them.hospitals[0]
    assert counts(one.node, one.identity).unasked == 6  # a damaged file gives nobody
    assert them.claim(1).own == 6


def test_dicom_files_may_say_who_a_patient_is_if_one_authority_has_numbered_them(tmp_path: Path) -> None:
    them = Them(tmp_path, numbers(first=0))
    (one,) = them.hospitals
    lines = []
    for number, (patient, issuer) in enumerate(
        [("943 476 5919", "NHS"), ("9434765919", "NHS"), ("17", "NHS"), ("18", ""), ("ANONYMOUS", "NHS")]
    ):
        file = film_file(one.images / f"{number}.dcm", picture(), PatientID=patient, IssuerOfPatientID=issuer)
        lines.append((file.name, f"p{number}", "train", 0))
    write_manifest(one.images, [*lines, ("not-there.dcm", "p9", "train", 0)])
    node, _ = use(one.node, them.file, [], None)
    them.hospitals = [Hospital(node, one.identity)]
    assert them.claim(1) == Counts(own=1, elsewhere=0, unasked=0, unknown=3, several=2)


def test_plan_and_hospital_must_mean_the_same_persons_file(tmp_path: Path) -> None:
    them = Them(tmp_path, numbers(first=0))
    (one,), plan = them.hospitals, them.plan()
    check_terms(plan, one.node.settings, one.identity)
    without = one.node.settings.model_copy(update={"persons": None})
    other = plan_of(cohort={"persons": "0" * 64})
    for chosen, settings, remedy in (
        (plan, without, "persons use persons.json .* persons claim"),
        (other, one.node.settings, "Compare both fingerprints"),
        (plan_of(), one.node.settings, "names the persons file"),
    ):
        with pytest.raises(PlanRefused) as refused:
            check_terms(chosen, settings, one.identity)
        assert re.search(remedy, refused.value.remedy)
    south = tmp_path / "south.json"
    south.write_text(them.keepers.persons.model_copy(update={"name": "south"}).model_dump_json())
    assert one.node.settings.persons is not None
    people = one.node.settings.persons.table
    use(one.node, south, ["NHS number"], people)  # nobody was claimed yet, so nobody can be claimed twice
    use(one.node, them.file, ["NHS number"], people)
    them.claim(1)
    with pytest.raises(BadFile, match="one is for life"):
        use(one.node, south, ["NHS number"], people)
    with pytest.raises(BadFile):
        use(one.node, them.file, ["no such column"], None)
    with pytest.raises(NoPersonsFile):
        counts(Node(one.node.folder, without), one.identity)
    one.node.persons.write_text(south.read_text())
    with pytest.raises(BadFile, match="not the file"):
        counts(one.node, one.identity)
    with pytest.raises(ValidationError, match="one budget a person"):
        them.plan(privacy={"kind": "none"})


def test_a_study_without_persons_has_the_hash_and_the_cohort_that_it_always_had(tmp_path: Path) -> None:
    assert "persons" not in plan_of().model_dump_json()
    them = Them(tmp_path, numbers(first=0))
    (one,) = them.hospitals
    with viewed(one.node) as records:
        cohort = records.frozen(records.reading(plan_of().study))
    assert all(len(entry) == 4 for entry in json.loads(cohort.to_bytes())["patients"].values())
    held = {name: replace(one, person=name) for name, one in cohort.patients.items()}
    named = Cohort(cohort.dataset, held)
    assert Cohort.from_bytes(named.to_bytes()) == named
    assert not named.changes(cohort.patients)
    check_alone(named)
    for bad in (cohort, Cohort("", {n: replace(h, person="x") for n, h in held.items()})):
        with pytest.raises(PersonTwice):
            check_alone(bad)


def test_a_fault_that_lets_everybody_in_is_caught_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = Them(tmp_path, numbers(first=0), numbers(first=4))
    them.claim(1)
    them.claim(2)
    monkeypatch.setattr(Records, "of_one_hospital", lambda self, plan, cohort: cohort)
    plan = them.plan()
    them.hospitals[1].approve(plan)
    with pytest.raises(PersonTwice):
        them.trained_on(2, plan)


@pytest.mark.slow
def test_the_operator_sees_counts_a_key_to_read_out_and_what_the_plan_asks(tmp_path: Path) -> None:
    them = Them(tmp_path, numbers(first=0))
    (one,) = them.hospitals

    def command(*words: str) -> str:
        found = CliRunner().invoke(app, ["persons", *words])
        assert found.exit_code == 0, found.output
        return " ".join(found.output.split())

    shown = command("--folder", str(one.node.folder))
    assert one.identity.public_key.hex() in shown
    assert "6 were not asked about yet" in shown
    them.claim(1)
    assert "6 patient(s) here are this hospital's" in command("--folder", str(one.node.folder))
    again = command("use", str(them.file), "--column", "patient_id", "--folder", str(one.node.folder))
    assert "Compare by telephone" in again
    with opened(one.node) as journal:
        assert not journal.approved()
    assert Split.TRAIN
