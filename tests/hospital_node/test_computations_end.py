"""A plan can ask for ten million steps; the node ends them when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, overload

import numpy as np
import pytest
import torch

from hospital_node.computation import Computation
from hospital_node.ledger import Charge, Ledger
from hospital_node.operator import opened
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.training import TrainingRound, evaluate, train
from hospital_node.training.run import train_unchecked
from hospital_node.unsent import Unsent
from medveil.identity import Identity, Secret
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.stopping import Stopped, check_stopped, stoppable
from medveil.study import Study, Transforms
from medveil.tensors import Float32
from medveil_imaging.fingerprints import OtherProfile, with_profile
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData
from privacy.dp.ledger import State, charges
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from ranks import plan_of, site, worked_on
from ranks import study_of as shared_study
from tries import leading
from world import make_plan, make_study

SIZE, CPU = (16, 16), torch.device("cpu")
HERE = Identity.generate("hospital-1")
ENDLESS = {"rounds": 1, "local_steps": 10_000_000, "batch_images": 2, "learning_rate": 1e-9}
LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 1e6,
    "evaluation_multiplier": 1e6,
    "epsilon": 9.0,
}


def study_of(**changes: Any) -> tuple[Study, Float32]:
    options: dict[str, Any] = {"width": 4}
    spec, vector = initial_vector(
        "small_cnn", ModelShape(SIZE, outputs_for("classification", ["a", "b"])), options, seed=1
    )
    model = {"name": "small_cnn", "options": options, "tensors": spec, "initial_model": "0" * 64}
    content: dict[str, Any] = {
        "training": ENDLESS,
        "transforms": {"profile": "xray", "size": SIZE},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return make_study(model=model, **(content | changes)), vector


class Watched(Sequence[PatientImages]):
    """Patients that tell when one of them is looked at for the n-th time."""

    def __init__(self, reached: Callable[[], None], looks: int) -> None:
        g = torch.Generator().manual_seed(1)
        self._all = [
            PatientImages(f"p{i}", torch.randn(1, 1, *SIZE, generator=g), torch.tensor([i % 2]))
            for i in range(4)
        ]
        self._reached, self._looks, self.looked = reached, looks, 0

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> PatientImages: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PatientImages]: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = self._all[index]
        self.looked += 1
        if self.looked == self._looks:
            self._reached()
        return found


def given(
    study: Study,
    vector: Float32,
    patients: Watched,
    *,
    noise: NoiseSource | None = None,
    charge: Charge | None = None,
) -> TrainingRound:
    return TrainingRound(
        study, vector, patients, number=1, declared_patients=10, noise=noise, charge=charge, device=CPU
    )


def plain(study: Study, vector: Float32, patients: Watched, _: Path) -> None:
    train(given(study, vector, patients))


def private(study: Study, vector: Float32, patients: Watched, folder: Path) -> None:
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        ledger.register(study, plan_id="p", dataset="films", cap=1e9)
        charge = ledger.charge(study, plan_id="p", round_number=1, attempt=1)
        train(given(study, vector, patients, noise=NoiseSource.fresh(), charge=charge))


def evaluated(study: Study, vector: Float32, patients: Watched, _: Path) -> None:
    while True:
        evaluate(study, vector, patients, device=CPU)


@pytest.mark.parametrize("augment", leading([False, True], 1))
@pytest.mark.parametrize(
    ("work", "privacy"), [(plain, {"kind": "none"}), (private, LOCAL), (evaluated, {"kind": "none"})]
)
def test_ten_million_steps_end_at_the_next_one_when_they_are_to_end(
    work: Callable[..., None], privacy: dict[str, Any], augment: bool, tmp_path: Path
) -> None:
    study, vector = study_of(privacy=privacy, training=ENDLESS | {"augment": augment})
    stop = Event()
    patients = Watched(stop.set, 30)
    with stoppable(stop), pytest.raises(Stopped):
        work(study, vector, patients, tmp_path)
    assert patients.looked < 60
    check_stopped()  # outside of it nothing is stopped


@contextmanager
def computation_of(folder: Path, plan: Plan, patients: Watched) -> Iterator[Computation]:
    few = tuple(patients._all)
    (folder / "films").mkdir()
    (folder / "films" / "manifest.csv").write_text("image,patient_id,split,label\n")
    settings = NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=folder / "films",
        dataset="films",
        policy=Policy(allow_no_privacy=True),
    )
    node = Node(folder, settings)
    site = SiteData("films", patients, few, few, problems=())  # type: ignore[arg-type]
    with opened(node) as journal, closing(Records.open(node, HERE, journal)) as records:
        unsent = Unsent(folder / "unsent.sealed", Secret(bytes(32)))
        computation = Computation(plan, lambda _: site, records, unsent=unsent)
        yield computation
        computation.close()


@pytest.mark.parametrize("ended_by", ["the plan's end", "another round"])
def test_a_desk_ends_the_computation_that_nobody_waits_for(tmp_path: Path, ended_by: str) -> None:
    study, vector = study_of()
    plan = make_plan([HERE, *(Identity.generate(f"hospital-{i}") for i in range(2, 5))], study)
    started = Event()

    async def play(computation: Computation) -> None:
        running = computation.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, bytes(32), vector)
        assert await asyncio.to_thread(started.wait, 200)
        if ended_by == "another round":
            scored = await computation.prepare(
                AttemptKey(plan.id, 2, 1), RoundKind.EVALUATE, bytes(32), vector
            )
            assert scored.sums is not None
        else:
            await asyncio.to_thread(computation.close)
        with pytest.raises(Stopped):
            await running

    with computation_of(tmp_path, plan, Watched(started.set, 10)) as computation:
        asyncio.run(play(computation))


def test_a_run_that_is_told_to_end_costs_no_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each round has noise of its own no other charge could pay for it."""
    study, vector = shared_study(training=ENDLESS, privacy=LOCAL)
    plan, started, begin = plan_of(study), Event(), Charge.begin
    monkeypatch.setattr(Charge, "begin", lambda charge: (begin(charge), started.set()))
    monkeypatch.setattr("hospital_node.computation.train", train_unchecked)  # the check has charges, too

    async def play(computation: Computation) -> None:
        running = computation.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, bytes(32), vector)
        assert await asyncio.to_thread(started.wait, 200)
        await asyncio.to_thread(computation.close)
        with pytest.raises(Stopped):
            await running

    with worked_on(tmp_path, plan) as records:
        unsent = Unsent(tmp_path / "unsent.sealed", Secret(bytes(32)))
        asyncio.run(play(Computation(plan, site, records, unsent=unsent)))
        (left,) = [e for e in charges(records.ledger.rows(), plan=plan.id) if e.split is Split.TRAIN]
        assert left.state is State.RUNNING
        again = records.ledger.charge(study, plan_id=plan.lineage, round_number=1, attempt=2)
        assert again.entry.charge == left.charge


def test_a_desk_whose_profile_makes_other_tensors_reads_no_image_for_the_plan(tmp_path: Path) -> None:
    transforms = with_profile(Transforms(profile="xray", size=(16, 16)))
    other = tuple(value + 0.5 for value in transforms.fingerprint)
    study, vector = study_of(transforms=transforms.model_copy(update={"fingerprint": other}).model_dump())
    plan = make_plan([HERE, *(Identity.generate(f"hospital-{i}") for i in range(2, 5))], study)
    patients = Watched(Event().set, 10)

    async def play(computation: Computation) -> None:
        with pytest.raises(OtherProfile, match="'xray'"):
            await computation.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, bytes(32), vector)

    with computation_of(tmp_path, plan, patients) as computation:
        asyncio.run(play(computation))
    assert patients.looked == 0


@pytest.mark.parametrize(("epochs", "images", "batches"), [(3, 5, 9), (1, 2, 1), (2, 1, 2)])
def test_the_rate_falls_over_exactly_the_batches_that_there_are(
    epochs: int, images: int, batches: int
) -> None:
    from hospital_node.training.run import _batches, steps_in_round

    training = {"rounds": 1, "local_epochs": epochs, "batch_images": 2, "learning_rate": 1.0}
    study, _ = study_of(training=training)
    found = list(_batches(study, images, torch.Generator().manual_seed(1)))
    assert len(found) == steps_in_round(study, images) == batches
    assert sorted(np.concatenate(found).tolist()) == sorted(list(range(images)) * epochs)
