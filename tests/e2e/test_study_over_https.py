"""A whole study by real processes over HTTPS, with the aggregator and a hospital killed on the way."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aggregator.adminkey import open_store
from aggregator.settings import Settings
from ends import played_out
from hospital_node.ledger import Ledger
from hospital_node.lineage import load_version
from hospital_node.settings import Node
from medveil.messages import LedgerEnd
from medveil.readings import is_figure
from medveil.reports import PlanStatus
from medveil.rounds import RoundKind
from medveil.study import Deadlines, Study, read_study
from medveil.tasks.classification import NOISED_BINS
from medveil.tensors import from_safetensors, model_hash
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research import Consortium
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.processes import Event
from medveil_research.report.page import write_report
from medveil_research.results import from_status, read_result, write_result
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.ledger import State
from privacy.dp.policy import Split

pytestmark = pytest.mark.slow  # in one process all of it is played fast, a promise at a time

PATIENTS = 12
LOST, LOST_IN = "hospital-4", 2
POWER_CUT_IN = 1
HOSPITALS_AND_ROUNDS = {"three": (3, 1), "four, and one is lost": (4, 2)}
LIMIT_S = 600.0


@dataclass
class Played:
    """What is left of the study once every process has ended."""

    folder: Path
    study: Study
    plan: str
    status: PlanStatus
    models: dict[str, bytes]
    heard: list[tuple[str, Event]]
    killed: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return self.study.training.rounds

    @property
    def hospitals(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "nodes").iterdir())

    @property
    def survivors(self) -> list[str]:
        """Of the rounds from the second on."""
        return [name for name in self.hospitals if name != LOST]

    def node(self, name: str) -> Node:
        return Node.load(self.folder / "nodes" / name)


def ledger_end(played: Played, name: str) -> LedgerEnd | None:
    """What the aggregator's audit log holds of a hospital's ledger."""
    store = open_store(Settings(played.folder / "aggregator"))
    try:
        return store.ledger_ends.newest(name)
    finally:
        store.close()


def watch(
    consortium: LocalConsortium, plan: str, power_cut: threading.Event, killed: list[str]
) -> PlanStatus:
    """Follow the study to its end; when the word comes, cut the aggregator's power and start it again."""

    def cut_once() -> None:
        if power_cut.is_set() and "aggregator" not in killed:
            consortium.kill("aggregator")
            killed.append("aggregator")
            consortium.restart("aggregator")

    return played_out(consortium, plan, meanwhile=cut_once, limit_s=LIMIT_S)


@pytest.fixture(scope="module", params=list(HOSPITALS_AND_ROUNDS))
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("consortium")
    hospitals, rounds = HOSPITALS_AND_ROUNDS[request.param]
    write_phantom_sites(folder / "sites", profile="xray", hospitals=hospitals, patients=PATIENTS)
    study, initial = new_study(
        StudyOptions(
            name="end-to-end",
            task="classification",
            profile="xray",
            hospitals=hospitals,
            rounds=rounds,
            patients_hint=PATIENTS,
            anyway=True,  # a study of twelve patients learns little
            deadlines=Deadlines(**(DEADLINES | {"silence_s": 20.0})),
        )
    )
    heard: list[tuple[str, Event]] = []
    killed: list[str] = []
    power_cut = threading.Event()
    consortium: LocalConsortium

    def listen(who: str, event: Event) -> None:
        heard.append((who, event))
        started = event.get("event") == "work.started"
        if started and (who, event.get("round")) == (LOST, LOST_IN) and who not in killed:
            killed.append(who)
            consortium.kill(who)
        if started and event.get("round") == POWER_CUT_IN:
            power_cut.set()

    with LocalConsortium(folder, find_sites(folder / "sites"), listen) as consortium:
        plan = consortium.open(study, initial)
        status = watch(consortium, plan.id, power_cut, killed)
        models = {v.model: consortium.client.model(plan.id, v.model) for v in status.versions}
        with Consortium(consortium.researcher) as researcher:
            researcher.study(study.name).fetch(folder=folder / "fetched")
    return Played(folder, study, plan.id, status, models, heard, killed)


@pytest.mark.timeout(240)
def test_the_study_finishes_every_round_and_has_final_figures(played: Played) -> None:
    assert sorted(played.killed) == ["aggregator", *({LOST} & set(played.hospitals))]
    done = [a for a in played.status.attempts if a.done]
    assert [(a.round, a.kind) for a in done] == [
        *((n, "train") for n in range(1, played.rounds + 1)),
        (played.rounds + 1, "evaluate"),
    ]
    figures = done[-1].figures
    named = {name for name in figures if is_figure(name)}
    assert {"patients"} <= named <= {"auroc", "accuracy", "patients"}
    hospitals, deviation = len(done[-1].survivors), played.study.privacy.evaluation_multiplier
    expected = hospitals * patients_in_the_test_split(played)
    noise = deviation * (hospitals * 2 * NOISED_BINS) ** 0.5
    assert figures["patients"] == pytest.approx(expected, abs=6 * noise)
    assert done[-1].metric == figures.get("auroc")


def test_the_final_counts_carry_noise(played: Played) -> None:
    """Whole films of whole patients would make twelfths; noise makes anything, below zero too."""
    final = next(a for a in played.status.attempts if a.kind is RoundKind.EVALUATE and a.done)
    counts = np.concatenate([np.array(values) * 12 for values in final.sums.values()])
    assert len(counts) == 2 * NOISED_BINS
    assert np.abs(counts - np.rint(counts)).max() > 0.01
    assert counts.min() < 0


def patients_in_the_test_split(played: Played) -> int:
    with open(played.folder / "sites" / "hospital-1" / "manifest.csv", newline="") as file:
        return len({row["patient_id"] for row in csv.DictReader(file) if row["split"] == "test"})


def test_a_round_survives_the_death_of_a_hospital(played: Played) -> None:
    survivors = {a.round: list(a.survivors) for a in played.status.attempts if a.done}
    assert survivors[1] == played.hospitals
    for number in range(LOST_IN, played.rounds + 2):
        assert survivors[number] == played.survivors


def test_a_round_survives_the_death_of_the_aggregator(played: Played) -> None:
    attempts = [a for a in played.status.attempts if a.round == POWER_CUT_IN]
    assert [(a.attempt, a.outcome) for a in attempts] == [(1, "done")]


def test_the_models_form_a_chain_and_each_has_the_hash_it_is_named_by(played: Played) -> None:
    versions, spec = played.status.versions, played.study.model.tensors
    assert [v.number for v in versions] == list(range(played.rounds + 1))
    assert versions[0].model == played.study.model.initial_model
    assert [v.parent for v in versions[1:]] == [v.model for v in versions[:-1]]
    vectors = [from_safetensors(played.models[v.model], spec) for v in versions]
    assert [model_hash(x, spec).hex() for x in vectors] == [v.model for v in versions]
    assert all(not np.array_equal(a, b) for a, b in pairwise(vectors))


def test_a_researcher_takes_the_newest_model_home_with_its_study(played: Played) -> None:
    folder, newest = played.folder / "fetched", played.status.versions[-1]
    assert read_study(folder / "study.toml") == played.study
    assert (folder / "model.safetensors").read_bytes() == played.models[newest.model]
    card = json.loads((folder / "version.json").read_text())
    assert (card["plan"], card["number"]) == (played.plan, played.rounds)
    assert card["privacy"]["epsilon_spent"] == newest.epsilon


def test_every_hospital_has_made_the_last_model_itself(played: Played) -> None:
    """The one that was killed in round 2 had made what that round started from."""
    for name in played.hospitals:
        (path,) = played.node(name).models.iterdir()
        own = load_version(path, played.study)
        assert own is not None
        version = LOST_IN - 1 if name == LOST else played.rounds
        assert (own.version, own.round) == (version, version)
        assert own.model.hex() == played.status.versions[version].model
    assert not [e for _, e in played.heard if str(e.get("event")).startswith("lineage.")]


def test_each_ledger_is_whole_and_has_paid_for_its_hospitals_rounds(played: Played) -> None:
    assert played.study.privacy.kind == "local"
    for name in played.hospitals:
        node = played.node(name)
        with Ledger.open(node.ledger) as ledger:
            ledger.verify()
            last: dict[int, State] = {}
            for row in ledger.rows():
                assert row.entry.plan == played.plan
                assert row.entry.dataset.startswith("cohort:")
                assert row.entry.round == 0 or (row.entry.split is Split.TEST) == (
                    row.entry.round > played.rounds
                )
                last[row.entry.round] = row.entry.state
            spent, rows = ledger.spent(), len(ledger.rows())
        if name != LOST:
            end = ledger_end(played, name)
            assert end is not None
            assert end.number == rows
        rounds = {r for r in last if r > 0}
        if name == LOST:
            assert rounds <= {1, 2}
            assert last[1] is State.RELEASED
            assert State.RELEASED not in {last[r] for r in rounds - {1}}
        else:
            assert rounds == set(range(1, played.rounds + 2))
            assert {last[r] for r in rounds} == {State.RELEASED}
            assert spent <= played.study.privacy.epsilon
        assert spent > 0
    last_version = played.status.versions[-1]
    assert last_version.epsilon is not None
    assert last_version.epsilon <= played.study.privacy.epsilon


def test_a_report_is_made_from_what_the_researcher_is_told(played: Played, tmp_path: Path) -> None:
    result = from_status(played.study, played.status, patients=PATIENTS)
    assert [r.round for r in result.rounds] == list(range(1, played.rounds + 2))
    assert [len(r.survivors) for r in result.rounds] == [len(played.hospitals), *[3] * played.rounds]
    assert result.federated.model == played.status.versions[-1].model
    assert result.federated.figures == played.status.attempts[-1].figures
    assert result.plan == played.plan
    assert (result.federated.exact, result.local_only, result.data) == (None, (), "real")
    write_result(result, tmp_path / "result.json")
    again = read_result(tmp_path / "result.json")
    assert again == result
    page = write_report(again, tmp_path / "report.html").read_text(encoding="utf-8")
    for told in (result.study, result.plan, result.federated.model, played.hospitals[-1]):
        assert told in page


def test_no_patient_and_no_file_name_is_in_any_log_or_at_the_aggregator(played: Played) -> None:
    canaries: set[bytes] = set()
    for manifest in (played.folder / "sites").glob("*/manifest.csv"):
        with open(manifest, newline="") as file:
            for row in csv.DictReader(file):
                canaries |= {row["patient_id"].encode(), Path(row["image"]).name.encode()}
    assert len(canaries) >= len(played.hospitals) * PATIENTS
    places = [played.folder / "logs", played.folder / "aggregator", played.folder / "nodes"]
    files = [p for place in places for p in place.rglob("*") if p.is_file()]
    assert {"aggregator.db", "ledger.jsonl", "journal.db", "hospital-1.log"} <= {p.name for p in files}
    for path in files:
        content = path.read_bytes()
        assert not [c for c in canaries if c in content], path.name


def test_no_private_key_is_where_it_does_not_belong(played: Played) -> None:
    keys = {p: p.read_bytes() for p in played.folder.rglob("*.key") if p.name != "server.key"}
    assert len(keys) == len(played.hospitals) + 2  # the hospitals, the admin, the researcher
    for path in (p for p in played.folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for owner, key in keys.items():
            assert path == owner or (key not in content and key.hex().encode() not in content)


def test_no_masked_upload_is_kept_once_its_round_is_over(played: Played) -> None:
    assert [p for p in (played.folder / "aggregator" / "uploads").rglob("*") if p.is_file()] == []


def test_nothing_is_left_running(played: Played) -> None:
    """No process names the consortium's folder on its command line."""
    running = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            running.append(entry.read_bytes())
        except OSError:
            continue  # it ended while we looked
    assert not [line for line in running if str(played.folder).encode() in line]


def test_no_process_met_an_error_of_its_own(played: Played) -> None:
    events = [event for _, event in played.heard]
    assert not [e for e in events if e.get("level") == "error"]
    for path in (played.folder / "logs").glob("*.log"):
        assert "Traceback" not in path.read_text(), path.name
