"""Groups of patients all the way: from the manifests of several sites to the figures of each group."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hospital_node.cli_cohort import _show_groups
from hospital_node.training import NotSafe, release, self_check
from hospital_node.training.evaluation import contributions
from hospital_node.training.unbooked import unbooked_charge
from medveil import metrics
from medveil import parts as parts_module
from medveil.identity import Secret
from medveil.metrics import bounded, noise_in_sum, noise_scales, released, summarise
from medveil.parts import ALL, in_round, part_of, parts
from medveil.rounds import RoundKind
from medveil.small_cells import without_small
from medveil.study import Study
from medveil.tasks import Sums, zeros
from medveil.tensors import Float32
from medveil_imaging import cache as cache_module
from medveil_imaging.cache import ImageCache
from medveil_imaging.models import ModelShape, build_model, initial_vector, load_vector
from medveil_imaging.patients import Patient
from medveil_imaging.sources.readers import in_this_process
from medveil_imaging.sources.shelf import ShelvedPatient
from medveil_imaging.sources.site import SiteData, read_site
from planting import plant
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from privacy.encoding import decode_metrics, encode_metrics

CPU = torch.device("cpu")
GROUPS = {
    "sex": {"column": "sex", "values": ("F", "M")},
    "age": {"column": "age", "edges": (0, 40, 65, 120)},
}
LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 0.3,
    "epsilon": 90.0,
}
HEADERS = (
    ("image", "patient_id", "split", "label", "sex", "age"),
    ("Image", "Patient ID", "Split", "Label", " SEX ", "Age"),
    ("image", "patient_id", "split", "label", "comment", "age"),
)
"""The third hospital does not know anybody's sex."""


@dataclass(frozen=True)
class Person:
    """What one line of a manifest says of a patient."""

    label: int
    sex: str
    age: str


def people(hospital: int, random: np.random.Generator) -> Iterator[Person]:
    for number in range(14):
        sex = ("F", "m", "M", "f ", "", "other")[int(random.integers(6))]
        age = ("12", "39.5", "40", "064Y", "88", "n/a")[int(random.integers(6))]
        yield Person((number + hospital) % 2, sex, age)


@dataclass(frozen=True)
class Hospitals:
    """Sites as they are read, and who is there."""

    study: Study
    vector: Float32
    folders: list[Path]
    sites: list[SiteData]
    people: dict[str, Person]


def study_of(**changes: Any) -> tuple[Study, Float32]:
    options = {"scales": 1, "grid": 4}
    spec, vector = initial_vector("wavelet_head", ModelShape((16, 16), 1), options, seed=1)
    content: dict[str, Any] = {
        "name": "groups",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "wavelet_head", "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": (16, 16)},
        "training": {"rounds": 4, "local_steps": 1, "learning_rate": 1.0},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
        "evaluation": {"groups": GROUPS, "smallest_group": 5},
    }
    random = np.random.default_rng(0)
    return Study.model_validate(content | changes), random.normal(0, 0.3, len(vector)).astype(np.float32)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    (study, vector), random = study_of(), np.random.default_rng(7)
    folders, sites, everybody = [], [], {}
    for hospital, header in enumerate(HEADERS):
        folder = tmp_path_factory.mktemp(f"hospital-{hospital}")
        lines = []
        for number, one in enumerate(people(hospital, random)):
            pixels = random.integers(0, 255, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            lines.append((f"{number}.png", f"h{hospital}-{number}", "test", one.label, one.sex, one.age))
            known = hospital < 2
            everybody[f"h{hospital}-{number}"] = one if known else Person(one.label, "", one.age)
        with (folder / "manifest.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *lines])
        folders.append(folder)
        sites.append(read_site(folder, study, readers=in_this_process))
    return Hospitals(study, vector, folders, sites, everybody)


def expected(one: Person) -> set[str]:
    found = {"F": "@sex=F", "M": "@sex=M"}.get(one.sex.strip().upper())
    age = {"12": "0 to 40", "39.5": "0 to 40", "40": "40 to 65", "064Y": "40 to 65", "88": "65 to 120"}
    return {ALL, *([found] if found else []), *([f"@age={age[one.age]}"] if one.age in age else [])}


def summed(study: Study, rows: list[Sums]) -> Sums:
    """What the aggregator opens: the words of all hospitals, added and decoded."""
    total = np.sum([encode_metrics(study, row) for row in rows], axis=0, dtype=np.uint64)
    return decode_metrics(total, study, hospitals=len(rows))


def test_counts_of_groups_over_three_sites_are_those_of_the_people_themselves(hospitals: Hospitals) -> None:
    study, patients = hospitals.study, [one for site in hospitals.sites for one in site.test]
    rows = [
        release(study, hospitals.vector, site.test, noise=None, charge=None, device=CPU)
        for site in hospitals.sites
    ]
    total = summed(study, rows)
    scores: dict[str, list[tuple[float, int]]] = {part: [] for part in parts(study)}
    module = build_model(study)
    load_vector(module, hospitals.vector)
    for one in patients:
        with torch.no_grad():
            score = float(module(one.take([0])[0])[0, 0])
        for part in expected(hospitals.people[one.patient]):
            scores[part].append((score, hospitals.people[one.patient].label))
    figures = summarise(study, total)
    for part, found in scores.items():
        assert figures[f"patients{part}"] == figures[f"images{part}"] == len(found)
        assert part_of(total, part)["positives/abnormal"].sum() == sum(label for _, label in found)
        pairs = [(p > n) + 0.5 * (p == n) for p, one in found if one for n, other in found if not other]
        assert figures[f"auroc{part}"] == pytest.approx(np.mean(pairs), abs=0.02)  # 256 bins tie some
    unknown = {
        n: sum(not any(f"@{n}=" in p for p in expected(o)) for o in hospitals.people.values()) for n in GROUPS
    }
    assert unknown["sex"] >= 14
    assert figures["unknown@sex"] == unknown["sex"]
    assert figures["unknown@age"] == unknown["age"]
    assert without_small(study, total).keys() <= total.keys()


def test_a_hospital_that_lacks_a_column_takes_part_and_its_operator_is_told(hospitals: Hospitals) -> None:
    assert len(hospitals.sites[2].test) == 14
    told = [[p for p in site.problems if "groups" in p.code] for site in hospitals.sites]
    assert [(p.code, p.severity) for p in told[2]] == [("missing-groups", "warning")]
    assert "no column sex" in told[2][0].reason
    assert "F, M" in told[2][0].remedy
    assert [p.code for p in told[0]] == ["unknown-groups"]  # whose sex is "other"
    assert "of 14 line(s)" in told[0][0].reason


def test_the_operators_check_shows_how_many_test_patients_are_in_each_group_and_in_none(
    hospitals: Hospitals, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_groups(hospitals.sites[2], hospitals.study)
    lines = [re.findall(r"\w+", line) for line in capsys.readouterr().out.splitlines()]
    assert ["sex", "F", "0"] in lines
    assert ["sex", "in", "none", "of", "them", "14"] in lines


def test_patients_of_a_site_larger_than_memory_are_in_the_same_groups(
    hospitals: Hospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "IN_MEMORY_BYTES", 0)
    cache = ImageCache(tmp_path, Secret(bytes(32)), most_bytes=2**30)
    site = read_site(hospitals.folders[0], hospitals.study, readers=in_this_process, cache=cache)
    assert all(isinstance(one, ShelvedPatient) for one in site.test)
    assert [one.groups for one in site.test] == [one.groups for one in hospitals.sites[0].test]
    assert any(one.groups for one in site.test)


@pytest.fixture(scope="module")
def noised() -> tuple[Study, Float32]:
    return study_of(privacy=LOCAL)


def test_a_noised_release_of_groups_is_the_bounded_sum_and_noise_of_the_size_that_is_paid_for(
    hospitals: Hospitals, noised: tuple[Study, Float32]
) -> None:
    (study, _), vector = noised, hospitals.vector

    def leaves(patients: tuple[Patient, ...]) -> Sums:
        charge = unbooked_charge(study, round_number=5, split=Split.TEST)
        return release(study, vector, patients, noise=NoiseSource(bytes(32)), charge=charge, device=CPU)

    noise, rows = leaves(()), [leaves(site.test) for site in hospitals.sites]
    scales = noise_scales(study)
    exact = zeros(released(study))
    for one in contributions(study, vector, hospitals.sites[0].test, device=CPU):
        for name, share in bounded(study, one).items():
            exact[name] += share
    for name, share in exact.items():
        np.testing.assert_allclose(rows[0][name] - noise[name], share, atol=1e-9)
    values = np.concatenate([noise[name] / scales[name] for name in released(study)])
    assert np.std(values) == pytest.approx(0.3, rel=0.2)
    figures = summarise(study, summed(study, rows), noise=noise_in_sum(study, hospitals=3))
    for part in parts(study):
        count = sum(part in expected(one) for one in hospitals.people.values())
        error = 0.3 * scales["positives/abnormal"] * np.sqrt(3 * 40)
        assert figures[f"patients{part}"] == pytest.approx(count, abs=4 * error)


def test_a_training_round_of_the_same_study_releases_no_groups(
    hospitals: Hospitals, noised: tuple[Study, Float32]
) -> None:
    for study in (hospitals.study, noised[0]):
        train = in_round(study, RoundKind.TRAIN)
        charge = None if study is hospitals.study else unbooked_charge(train, round_number=1, split=Split.VAL)
        source = None if charge is None else NoiseSource.fresh()
        sums = release(
            train, hospitals.vector, hospitals.sites[0].test, noise=source, charge=charge, device=CPU
        )
        assert not any("@" in name for name in sums)


def test_the_self_check_passes_a_study_with_groups(noised: tuple[Study, Float32]) -> None:
    self_check(noised[0], build_model(noised[0]))


FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "groups cost nothing": (parts_module, "widening", "1 + len(study.evaluation.groups)", "1"),
    "a patient is in every group of a column": (
        parts_module,
        "placed",
        "found |= {each + _part(name, groups[name]): values for each, values in sums.items()}",
        "for g in study.evaluation.groups[name].names: found |= {n + _part(name, g): sums[n] for n in sums}",
    ),
    "a patient counts double in a group": (
        metrics,
        "bounded",
        "task.bounded(study, of)",
        "(task.bounded(study, of) if not part else {n: 2 * v for n, v in task.bounded(study, of).items()})",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_counting_of_groups_is_refused_before_training(
    fault: str, noised: tuple[Study, Float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, old, new = FAULTS[fault]
    plant(monkeypatch, owner, name, old, new)
    with pytest.raises(NotSafe, match="evaluation"):
        self_check(noised[0], build_model(noised[0]))
