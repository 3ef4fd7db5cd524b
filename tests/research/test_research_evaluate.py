"""Figures of the researcher are those a hospital would have computed, and know how sure they are."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hospital_node.training import evaluate as contribution
from medveil.metrics import summarise
from medveil.study import Study, Training
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison import engine
from medveil_research.comparison.against_alone import compare, train_alone
from medveil_research.evaluate import add, bootstrap_interval, evaluate_site, patient_sums
from medveil_research.results import Result
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.policy import UnderstatedEpsilon

EDGE = 16
CPU = torch.device("cpu")


def _study(privacy: Any = "none", rounds: int = 4, **settings: Any) -> tuple[Study, Float32]:
    study, initial = new_study(
        StudyOptions(
            name="blobs",
            task="classification",
            profile="xray",
            model="small_cnn",
            options={"width": 4},
            privacy=privacy,
            hospitals=3,
            rounds=rounds,
            size=(EDGE, EDGE),
            **settings,
        )
    )
    return study, from_safetensors(initial, study.model.tensors)


def _patients(count: int, seed: int, noise: float = 0.3) -> tuple[PatientImages, ...]:
    """Every second patient has a bright square in all images."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        images = noise * torch.randn(1 + number % 3, 1, EDGE, EDGE, generator=draw)
        if number % 2:
            images[:, :, 4:10, 4:10] += 1.5
        labels = torch.full((len(images),), number % 2, dtype=torch.int64)
        found.append(PatientImages(patient=f"p{number}", images=images, labels=labels))
    return tuple(found)


def _site(name: str, seed: int, train: int = 24) -> SiteData:
    return SiteData(
        name=name, train=_patients(train, seed), val=(), test=_patients(12, seed + 50), problems=()
    )


def _figures(study: Study, vector: Float32, patients: Sequence[PatientImages]) -> dict[str, float]:
    """As the hospital that has all of these patients computes them."""
    return summarise(study, contribution(study, vector, patients, device=CPU))


def test_patient_sums_add_up_to_what_the_hospital_computes() -> None:
    study, vector = _study()
    patients = _patients(9, 1)
    node = contribution(study, vector, patients, device=CPU)
    each = patient_sums(study, vector, patients)
    for name, values in node.items():
        assert np.allclose(sum(one[name] for one in each), values)


def test_the_interval_is_reproducible_and_holds_the_figure() -> None:
    study, vector = _study()
    each = patient_sums(study, vector, _patients(30, 2, noise=4.0))
    total = {name: np.sum([one[name] for one in each], axis=0) for name in each[0]}
    interval = bootstrap_interval(study, each)
    assert interval is not None
    assert interval == bootstrap_interval(study, each)
    assert interval[0] < summarise(study, total)["auroc"] < interval[1]


def test_more_patients_make_a_narrower_interval() -> None:
    study, vector = _study()
    few = bootstrap_interval(study, patient_sums(study, vector, _patients(16, 3, noise=4.0)))
    many = bootstrap_interval(study, patient_sums(study, vector, _patients(160, 3, noise=4.0)))
    assert few is not None
    assert many is not None
    assert many[1] - many[0] < 0.6 * (few[1] - few[0])


def test_no_interval_is_invented_for_one_patient_or_one_class() -> None:
    study, vector = _study()
    healthy = patient_sums(study, vector, _patients(9, 4)[::2])
    assert bootstrap_interval(study, healthy[:1]) is None
    assert bootstrap_interval(study, healthy) is None
    assert "auroc" not in summarise(study, add(study, healthy))


def test_a_hospitals_folder_is_judged_and_its_unusable_files_are_counted(tmp_path: Path) -> None:
    site = write_phantom_sites(tmp_path, profile="xray", hospitals=1, patients=12)[0]
    with (site / "manifest.csv").open("a", encoding="utf-8") as file:
        file.write("images/absent.dcm,PH1-9999,test,hospital-1,0\n")
    study, vector = _study()
    found = evaluate_site(site, study, vector, "train")
    assert found.rejected == 1
    assert found.figures["patients"] == 8
    assert found.as_dict()["site"] == "hospital-1"


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
def test_a_hospital_alone_learns_what_its_patients_show(strategy: str) -> None:
    study, initial = _study(rounds=6)
    value = study.model_dump() | {"strategy": {"name": strategy}}
    study = Study.model_validate(value)
    vector = train_alone(study, initial, _site("hospital-1", 5))
    assert _figures(study, vector, _patients(40, 99))["auroc"] > 0.95


def test_training_alone_runs_every_round_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    study, initial = _study("local", rounds=3)
    seen: list[tuple[int, int, float]] = []
    real = engine.train

    def watch(given: Any) -> Any:
        seen.append((given.number, given.charge.event.steps, given.declared_patients))
        return real(given)

    monkeypatch.setattr(engine, "train", watch)
    train_alone(study, initial, _site("hospital-1", 6))
    assert seen == [(number, study.training.local_steps, 20) for number in (1, 2, 3)]


def test_training_alone_gets_no_larger_budget_than_the_study_states() -> None:
    study, initial = _study("local", rounds=3)
    cheaper = study.privacy.model_copy(update={"epsilon": study.model_dump()["privacy"]["epsilon"] / 2})
    with pytest.raises(UnderstatedEpsilon):
        train_alone(study.model_copy(update={"privacy": cheaper}), initial, _site("hospital-1", 7))


def test_two_private_runs_alone_never_share_their_noise() -> None:
    study, initial = _study("local", rounds=1)
    site = _site("hospital-1", 8)
    first, second = train_alone(study, initial, site), train_alone(study, initial, site)
    assert not np.array_equal(first, second)


def test_every_model_is_judged_on_the_same_patients_and_the_result_takes_it_as_it_is(
    classification_result: dict[str, Any],
) -> None:
    study, initial = _study(rounds=1)
    sites = [_site("hospital-1", 10), _site("hospital-2", 11), _site("hospital-3", 12, train=0)]
    found = compare(study, initial, sites, initial, resamples=20)
    assert [a.hospital for a in found.alone] == ["hospital-1", "hospital-2"]
    assert {a.pooled["patients"] for a in found.alone} == {found.exact.pooled["patients"]} == {36.0}
    assert {a.own["patients"] for a in found.alone} == {12.0}
    assert set(found.exact.sites) == {"hospital-1", "hospital-2", "hospital-3"}
    everybody = [p for site in sites for p in site.test]
    assert found.exact.pooled == pytest.approx(_figures(study, initial, everybody))
    assert found.alone_mean == pytest.approx(np.mean([a.pooled["auroc"] for a in found.alone]))
    classification_result["federated"]["exact"] = found.exact
    classification_result |= {"local_only": found.alone, "local_only_mean": found.alone_mean}
    result = Result.model_validate(classification_result)
    assert result.federated.exact == found.exact
    assert result.local_only == found.alone


def test_training_alone_can_be_sent_to_another_process() -> None:
    study, initial = _study(rounds=1)
    job = pickle.loads(pickle.dumps(partial(train_alone, study, initial)))  # noqa: S301 our own bytes
    site = pickle.loads(pickle.dumps(_site("hospital-1", 13)))  # noqa: S301 our own bytes
    assert job(site).shape == initial.shape


def test_a_hospital_without_training_patients_is_judged_but_trains_nothing() -> None:
    study, initial = _study(rounds=1)
    site = replace(_site("hospital-1", 14), train=())
    found = compare(study, initial, [site], initial, resamples=20)
    assert found.alone == ()
    assert found.alone_mean is None


def test_the_recipe_of_the_study_decides_how_a_hospital_alone_learns() -> None:
    study, initial = _study(rounds=1)
    still = Training(rounds=1, local_epochs=1, learning_rate=1e-30)
    vector = train_alone(study.model_copy(update={"training": still}), initial, _site("hospital-1", 15))
    assert np.allclose(vector, initial)
