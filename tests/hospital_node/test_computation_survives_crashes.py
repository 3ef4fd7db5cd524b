"""A computation: a crash at any point costs no charge, and nothing leaves the hospital uncharged."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from folders import write_folder
from hospital_node import computation as module
from hospital_node.cohort import CohortChanged
from hospital_node.computation import Computation
from hospital_node.contribution import CommonCourse, Contribution
from hospital_node.held_back import HeldBack
from hospital_node.ledger import Charge, ChargeUsed, Ledger
from hospital_node.operator import opened
from hospital_node.own_courses import LostCourse, OwnCourses
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.training import NoCharge, NoiseCut, TrainingRound
from hospital_node.unsent import LABEL, Unsent
from hospitals import PEOPLE, make_hospital
from medveil.identity import Identity, Secret
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.study import Study
from medveil.tensors import Float32, Update
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData, read_site
from planting import plant
from privacy.dp.ledger import State, charges
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, cost
from tries import leading
from world import make_plan

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 3.0,
    "evaluation_multiplier": 3.0,
    "epsilon": 9.0,
}
SIZE = (16, 16)
KEY = Secret(bytes(32))
MODEL = b"model".ljust(32)
NODE = Identity.generate("hospital-1")
FOLDER = Path(tempfile.mkdtemp(prefix="medveil-films-"))
atexit.register(shutil.rmtree, FOLDER)
COUNTS = (("t", "train", 6), ("v", "val", 4), ("e", "test", 4))
write_folder(FOLDER, [(f"{p}{i}.png", f"{p}{i}", s, i % 2) for p, s, n in COUNTS for i in range(n)])


def plan_of(*, centred: bool = False, **changes: Any) -> tuple[Plan, Float32]:
    shape, options = ModelShape(SIZE, outputs_for("classification", ["a", "b"])), {"scales": 1, "grid": 2}
    options |= {"centred": True} if centred else {}
    spec, vector = initial_vector("wavelet_head", shape, options, seed=1)
    content: dict[str, Any] = {
        "name": "computed",
        "task": "classification",
        "classes": ("a", "b"),
        "model": {
            "name": "wavelet_head",
            "options": options,
            "tensors": spec,
            "initial_model": "0" * 64,
        },
        "transforms": {"profile": "xray", "size": SIZE},
        "training": {"rounds": 2, "local_steps": 1, "learning_rate": 1.0},
        "privacy": LOCAL,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    study = Study.model_validate(content | changes)
    return make_plan([Identity.generate(f"hospital-{i}") for i in range(3)], study), vector


def patients(prefix: str, count: int) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(len(prefix))
    return tuple(
        PatientImages(f"{prefix}{i}", torch.randn(1, 1, *SIZE, generator=g), torch.tensor([i % 2]))
        for i in range(count)
    )


def site(**splits: tuple[PatientImages, ...]) -> SiteData:
    usual = {"train": patients("t", 6), "val": patients("v", 4), "test": patients("e", 4)} | splits
    return SiteData("films", **usual, problems=())


def read(_: Plan) -> SiteData:
    return site()


@contextmanager
def worked_on(folder: Path) -> Iterator[Records]:
    """The node's records as the process that works has them; the images folder lies beside."""
    settings = NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=FOLDER,
        dataset="films",
        policy=Policy(epsilon_cap=20.0, allow_no_privacy=True),
    )
    node = Node(folder, settings)
    with opened(node) as journal, closing(Records.open(node, NODE, journal)) as records:
        yield records


def computation_of(records: Records, plan: Plan, folder: Path, *, take: bool = True) -> Computation:
    if take:
        records.take(plan, records.frozen(records.reading(plan.study)), 10)
    held = HeldBack(folder, plan, KEY) if plan.study.compression else None
    return Computation(plan, read, records, unsent=Unsent(folder / "unsent.sealed", KEY), held=held)


def work(
    folder: Path, plan: Plan, vector: Float32, kind: RoundKind, number: int
) -> tuple[Contribution, dict[Split, list[State]]]:
    """One round in a process of its own; what would leave, and the states of the round's charges by then."""
    with worked_on(folder) as records:
        computation = computation_of(records, plan, folder)
        records.register(plan)

        async def prepared() -> Contribution:
            return await computation.prepare(AttemptKey(plan.id, number, 1), kind, MODEL, vector)

        try:
            found = asyncio.run(prepared())
        finally:
            computation.close()
        states: dict[Split, list[State]] = {}
        for entry in charges(records.ledger.rows(), plan=plan.id):
            if entry.round == number:
                states.setdefault(entry.split, []).append(entry.state)
        return found, states


def equal(a: Contribution, b: Contribution) -> bool:
    same = np.array_equal(a.update.values, b.update.values)
    return same and (a.sums or {}).keys() == (b.sums or {}).keys() and all(
        np.array_equal(values, (b.sums or {})[name]) for name, values in (a.sums or {}).items()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "centred"),
    [
        (RoundKind.TRAIN, 1, False),
        pytest.param(RoundKind.TRAIN, 1, True, marks=pytest.mark.slow),
        pytest.param(RoundKind.EVALUATE, 3, False, marks=pytest.mark.slow),
    ],
    ids=["training", "private mean", "evaluation"],
)
def test_wherever_the_node_is_killed_the_round_is_paid_once_and_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: RoundKind, number: int, centred: bool
) -> None:
    """The folder as a kill -9 would leave it, copied before and after every step on stable storage."""
    plan, vector = plan_of(centred=centred)
    copies: list[Path] = []

    def watched(thing: Any, name: str) -> None:
        real = getattr(thing, name)

        def step(*arguments: Any) -> Any:
            for when in ("before", "after"):
                if when == "after":
                    result = real(*arguments)
                copies.append(tmp_path / f"{len(copies)} {when} {name}")
                shutil.copytree(tmp_path / "node", copies[-1])
            return result

        monkeypatch.setattr(thing, name, step)

    (tmp_path / "node").mkdir()
    with monkeypatch.context():
        watched(Ledger, "_append")
        watched(Unsent, "store")
        watched(Charge, "end")
        first, states = work(tmp_path / "node", plan, vector, kind, number)
    monkeypatch.undo()
    splits = {Split.TRAIN, Split.VAL} if kind is RoundKind.TRAIN else {Split.TEST}
    assert states == {split: [State.RELEASED] for split in splits}
    assert len(copies) > 12
    resent = 0
    for folder in [*copies, tmp_path / "node"]:
        again, states = work(folder, plan, vector, kind, number)
        assert states == {split: [State.RELEASED] for split in splits}, folder.name
        kept = folder.name == "node" or copies.index(folder) > [c.name for c in copies].index(
            next(c.name for c in copies if c.name.endswith("before store"))
        )
        assert equal(again, first) == kept, folder.name
        resent += kept
        with Ledger.open(folder / "ledger.jsonl") as ledger:
            assert 0 < ledger.spent() <= cost(plan.study).epsilon_local
    assert resent >= 3


def test_a_compressed_round_begins_at_what_is_held_back_and_is_sent_again_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, vector = plan_of(compression={"kind": "sparse", "share": 0.5})
    starts: list[Float32] = []

    def watched(given: TrainingRound) -> Update:
        starts.append(given.start)
        return Update(np.full_like(vector, 2.0))

    monkeypatch.setattr(module, "train", watched)
    first, _ = work(tmp_path, plan, vector, RoundKind.TRAIN, 1)
    again, _ = work(tmp_path, plan, vector, RoundKind.TRAIN, 1)  # a new process
    assert equal(first, again)
    assert len(starts) == 1
    assert set(first.update.values) == {2.0}
    assert len(first.update.values) == plan.study.uploaded == len(vector) // 2
    held = HeldBack(tmp_path, plan, KEY)
    held.passed(1, MODEL, summed=True)
    second, _ = work(tmp_path, plan, vector, RoundKind.TRAIN, 2)
    assert np.array_equal(starts[0], vector)
    assert sorted(set((starts[1] - vector).round(4))) == [0.0, 2.0]
    assert np.count_nonzero(second.update.values == 4.0) == len(vector) // 2


def test_another_model_for_a_round_that_was_sent_is_new_noise_and_costs_again(tmp_path: Path) -> None:
    plan, vector = plan_of()
    work(tmp_path, plan, vector, RoundKind.TRAIN, 1)
    kept = (tmp_path / "unsent.sealed").read_bytes()
    (tmp_path / "unsent.sealed").write_bytes(kept[: len(kept) // 2])  # as good as none
    _, states = work(tmp_path, plan, vector, RoundKind.TRAIN, 1)
    assert states[Split.TRAIN] == [State.RELEASED] * 2


def test_what_is_kept_is_sealed_for_this_node(tmp_path: Path) -> None:
    own, other = Identity.generate("hospital-a"), Identity.generate("hospital-b")
    values = np.arange(64, dtype=np.float32) / 7
    path, made = tmp_path / "unsent.sealed", (Update(values), {"cases": np.array([3.0])})
    Unsent(path, own.secret_for(LABEL)).store("plan 1", made)
    found = Unsent(path, own.secret_for(LABEL)).find("plan 1")
    assert found is not None
    assert np.array_equal(found[0].values, values)
    assert found[1] is not None
    assert found[1]["cases"].tolist() == [3.0]
    assert Unsent(path, other.secret_for(LABEL)).find("plan 1") is None
    assert Unsent(path, own.secret_for("another-use")).find("plan 1") is None
    assert values[8:16].tobytes() not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0


def test_a_run_that_failed_counts_as_released(tmp_path: Path) -> None:
    """What somebody can tell from a failure is a release; tried again it would be a choice among noises."""
    joint = LOCAL | {"kind": "joint", "honest_hospitals": 3}
    plan, vector = plan_of(
        privacy=joint, secure_aggregation={"update_clip": 1e-4, "max_weight": 100}, name="cut"
    )
    for tries in (1, 2):
        with pytest.raises(NoiseCut):
            work(tmp_path, plan, vector, RoundKind.TRAIN, 1)
        with Ledger.open(tmp_path / "ledger.jsonl") as ledger:
            paid = [e for e in charges(ledger.rows()) if e.split is Split.TRAIN]
            assert [e.state for e in paid] == [State.RELEASED] * tries
    assert not (tmp_path / "unsent.sealed").exists()


def test_without_privacy_nothing_is_kept_or_charged(tmp_path: Path) -> None:
    plan, vector = plan_of(privacy={"kind": "none"})
    with worked_on(tmp_path) as records:
        made = computation_of(records, plan, tmp_path, take=False)

        async def prepared() -> Contribution:
            return await made.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, b"model", vector)

        assert asyncio.run(prepared()).sums is not None
        made.close()
        assert records.ledger.rows() == ()
    assert (tmp_path / "journal.db-journal").stat().st_size == 0  # SQLite's own, between two commits
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.db", "journal.db-journal", "ledger.jsonl"]


def test_a_finished_plan_that_a_restarted_node_passes_takes_nothing_from_the_plan_in_hand(
    tmp_path: Path,
) -> None:
    """Else its next round would be computed and charged a second time, and the schedule be used up."""
    unsent = Unsent(tmp_path / "unsent.sealed", KEY)
    old, vector = plan_of(name="old")
    current, _ = plan_of()
    unsent.store(f"{current.id} 1 00", (Update(vector), None))
    with worked_on(tmp_path) as records:
        for plan, left in ((old, True), (current, False)):
            computation = Computation(plan, read, records, unsent=unsent)
            computation.finished()
            computation.close()
            assert (unsent.find(f"{current.id} 1 00") is not None) == left
    assert not (tmp_path / "unsent.sealed").exists()


def test_a_running_plan_goes_on_with_the_cohort_that_was_taken_and_keeps_its_number(tmp_path: Path) -> None:
    """The operator's word counts from the next round on; until then the folder's change stops the rounds."""
    plan, vector = plan_of()
    lines = [(f"{p}{i}.png", f"{p}{i}", s, i % 2) for p, s, n in COUNTS for i in range(n)]
    folder = write_folder(tmp_path / "images", lines)
    hospital = make_hospital(tmp_path, lines, epsilon_cap=20.0)
    plan = plan.model_copy(update={"roster": make_plan(PEOPLE, plan.study).roster})
    hospital.approve(plan, patients=20)
    with hospital.works() as records:

        def computation_of_the_day() -> Computation:
            unsent = Unsent(tmp_path / "unsent.sealed", KEY)
            return Computation(plan, lambda p: read_site(folder, p.study), records, unsent=unsent)

        trained: list[int] = []

        def train(given: TrainingRound) -> Update:
            trained.append(len(given.patients))
            assert given.declared_patients == 20
            assert given.charge is not None
            given.charge.begin()
            return Update(np.zeros_like(given.start))

        async def prepared(computation: Computation, number: int) -> Contribution:
            return await computation.prepare(
                AttemptKey(plan.id, number, 1), RoundKind.TRAIN, b"model", vector
            )

        first, second = computation_of_the_day(), computation_of_the_day()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hospital_node.computation.train", train)
            assert asyncio.run(prepared(first, 1)).weight == 20
            hospital.write(lines[1:])
            with pytest.raises(CohortChanged):
                asyncio.run(prepared(first, 2))
            hospital.take(plan)
            assert asyncio.run(prepared(second, 2)).weight == 20
        first.close()
        second.close()
    assert trained == [6, 5]


def _hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be true of two rounds of a node, the first of them asked for again after a restart."""
    seen: list[tuple[str, Any, dict[str, Any]]] = []

    train, release = module.train, module.release

    def watched_train(given: TrainingRound) -> Any:
        seen.append(("train", given.patients, vars(given)))
        return train(given)

    def watched_release(study: Study, vector: Float32, patients: Any, **options: Any) -> Any:
        seen.append(("release", patients, options))
        return release(study, vector, patients, **options)

    monkeypatch.setattr(module, "train", watched_train)
    monkeypatch.setattr(module, "release", watched_release)
    made: list[NoiseSource] = []

    class Watched(NoiseSource):
        @classmethod
        def fresh(cls) -> NoiseSource:
            made.append(NoiseSource.fresh())
            return made[-1]

    monkeypatch.setattr(module, "NoiseSource", Watched)
    plan, vector = plan_of(evaluation={"every_round": True})
    first, states = work(folder, plan, vector, RoundKind.TRAIN, 1)
    again, after = work(folder, plan, vector, RoundKind.TRAIN, 1)
    assert equal(first, again), "a result that was made is sent again as it was"
    assert states == after == {Split.TRAIN: [State.RELEASED], Split.VAL: [State.RELEASED]}
    assert first.weight == 10, "the declared number is the weight"
    _, ended = work(folder, plan, vector, RoundKind.EVALUATE, 3)
    assert ended == {Split.TEST: [State.RELEASED]}
    assert [name for name, *_ in seen] == ["train", "release", "release"]
    for (_, people, options), split, letter in zip(seen, Split, "tve", strict=True):
        assert {p.patient[0] for p in people} == {letter}, "each split's patients pay for the own split"
        assert options["charge"].split is split
        assert options["noise"] in made, "noise is from a fresh source"
    assert len({id(options["noise"]) for *_, options in seen}) == 3, "each release has a source of its own"
    assert seen[0][2]["declared_patients"] == 10, "and the divisor"


def test_a_node_pays_declares_and_draws_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hold(tmp_path, monkeypatch)


COMPUTED: dict[str, tuple[str, str, str]] = {
    "an unsent result is not looked up": (
        "_contribution",
        "self._unsent.find(name) if self._private",
        "None if 1",
    ),
    "a result is not stored": ("_computed", "self._unsent.store(name, (update, sums))", "pass"),
    "the weight is the real number": ("_contribution", "weight_of(weight)", "weight_of(len(site.train))"),
    "the divisor is the real number": (
        "_update",
        "declared_patients=weight",
        "declared_patients=len(self._site()[0].train)",
    ),
    "a charge is left open": ("_computed", "charge.end()", "pass"),
    "the same key at every node": ("_computed", "NoiseSource.fresh()", "NoiseSource(bytes(32))"),
    "the same key for every update": ("_update", "NoiseSource.fresh()", "NoiseSource(bytes(32))"),
    "a key from the round": ("_computed", "NoiseSource.fresh()", "NoiseSource(number.to_bytes(32))"),
    "train patients are tested on": ("_computed", "site.test if", "site.train if"),
    "test patients validate": ("_computed", "else site.val", "else site.test"),
    "validation is not charged": ("_computed", "for split in splits:", "for split in splits[:1]:"),
    "a charge of another split": ("_computed", "charges.get(splits[-1])", "charges.get(splits[0])"),
}


@pytest.mark.parametrize("name", leading(COMPUTED, 5))
def test_a_fault_planted_in_the_node_is_seen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, old, new = COMPUTED[name]
    plant(monkeypatch, Computation, function, old, new)
    with pytest.raises((AssertionError, NoCharge, ChargeUsed)):
        _hold(tmp_path, monkeypatch)


def steered(folder: Path, plan: Any, vector: Float32, number: int, common: CommonCourse) -> Contribution:
    """One round in a process of its own."""
    with worked_on(folder) as records:
        records.take(plan, records.frozen(records.reading(plan.study)), 10)
        records.register(plan)
        courses = OwnCourses(folder / "plan.courses", KEY)
        computation = Computation(
            plan, read, records, unsent=Unsent(folder / "unsent.sealed", KEY), courses=courses
        )

        async def prepared() -> Contribution:
            return await computation.prepare(
                AttemptKey(plan.id, number, 1), RoundKind.TRAIN, b"model %d" % number, vector, common
            )

        try:
            return asyncio.run(prepared())
        finally:
            computation.close()


@pytest.mark.parametrize("private", [False, True])
def test_a_restarted_node_goes_on_from_the_course_that_the_sums_name(tmp_path: Path, private: bool) -> None:
    plan, vector = plan_of(
        strategy={"name": "scaffold"},
        secure_aggregation={"update_clip": 100.0, "max_weight": 100, "weights": "equal"},
        training={"rounds": 3, "local_steps": 1, "learning_rate": 0.1},
        privacy=LOCAL if private else {"kind": "none"},
    )
    size = vector.size
    none = CommonCourse(np.zeros(size, np.float32), 0)
    first = steered(tmp_path, plan, vector, 1, none).update.values
    courses = OwnCourses(tmp_path / "plan.courses", KEY)
    assert np.array_equal(courses.find(1, size=size), first)  # 0 + (update - 0)
    # Round 1 came to no sum with this hospital: its course is still none at all.
    second = steered(tmp_path, plan, vector, 2, none).update.values
    assert second.any()
    assert np.array_equal(courses.find(2, size=size), second)
    # Round 2 did: it steers the third.
    common = CommonCourse(np.full(size, 0.5, np.float32), 2)
    third = steered(tmp_path, plan, vector, 3, common).update.values
    assert np.allclose(courses.find(3, size=size), second + (third - 0.5), atol=1e-6)
    again = steered(tmp_path, plan, vector, 3, common).update.values
    assert np.allclose(courses.find(3, size=size), second + (again - 0.5), atol=1e-6)
    if private:  # the noised numbers of before, and nothing is paid twice
        assert np.array_equal(again, third)
    with pytest.raises(LostCourse, match="round 1"):
        steered(tmp_path, plan, vector, 3, CommonCourse(common.values, 1))
