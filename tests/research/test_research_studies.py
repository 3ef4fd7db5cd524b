"""A study as the researcher writes it is the study that hospitals read, and costs what it says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil import starts
from medveil.errors import BadFile, Error
from medveil.shown import is_plain
from medveil.study import CENTRE, Slices, Study, read_study
from medveil.tensors import ModelSpec, TensorSpec, from_safetensors, model_hash
from medveil_research import studies
from medveil_research.outlook import noise_to_signal, outlook
from medveil_research.studies import NoDefaultModel, StudyOptions, new_study
from medveil_research.study_file import FolderTaken, to_toml, write_study
from privacy.dp.policy import check_policy

CNN: dict[str, Any] = {
    "name": "films",
    "task": "classification",
    "profile": "xray",
    "model": "small_cnn",
    "size": (32, 32),
    "hospitals": 4,
}
UNET: dict[str, Any] = {
    "name": "brains",
    "task": "segmentation",
    "profile": "mri",
    "model": "unet3d",
    "size": (16, 24, 16),
    "classes": ("background", "left", "right"),
    "hospitals": 3,
}

SLICES = CNN | {"profile": "mri_slices", "slices": Slices(every=2, low=0.3, high=0.7), "channels": ("t1",)}

PATCHES = UNET | {"patches": 2}


@pytest.mark.parametrize(
    "settings", [CNN, UNET, SLICES, PATCHES], ids=["films", "brains", "slices", "patches"]
)
@pytest.mark.parametrize("privacy", ["none", "local"])
def test_a_written_study_reads_back_with_the_same_hash(
    settings: dict[str, Any], privacy: Any, tmp_path: Path
) -> None:
    study, initial = new_study(StudyOptions(**settings, privacy=privacy))
    write_study(tmp_path / "new", study, initial)
    again = read_study(tmp_path / "new" / "study.toml")
    assert again.hash == study.hash
    vector = from_safetensors((tmp_path / "new" / "initial.safetensors").read_bytes(), again.model.tensors)
    assert model_hash(vector, again.model.tensors).hex() == again.model.initial_model


def shown(most: int, least: int = 0) -> st.SearchStrategy[str]:
    return st.text(st.characters().filter(is_plain), min_size=least, max_size=most).filter(is_plain)


@given(
    description=st.text(st.sampled_from("a\n\t é[/]\"'\\")) | shown(60),
    first=shown(20, 1).filter(str.strip),
    options=st.dictionaries(
        shown(8, 1) | st.just("tensors"), st.booleans() | st.integers(-(2**40), 2**40) | shown(8)
    ),
    rate=st.floats(1e-12, 1e12),
)
def test_whatever_people_write_into_a_study_survives_the_file(
    description: str, first: str, options: dict[str, Any], rate: float
) -> None:
    study = _plain()
    value = study.model_dump(mode="json")
    value["description"], value["classes"] = description, [first, first + "2"]
    value["model"]["options"] = options
    value["training"]["learning_rate"] = rate
    value["training"]["augmentations"] = {"affine": {"degrees": 3.5}, "noise": {}}
    changed = Study.model_validate(value)
    assert Study.model_validate(tomllib.loads(to_toml(changed))).hash == changed.hash


def test_every_section_of_the_file_is_explained_and_every_tensor_has_its_line() -> None:
    lines = to_toml(_plain()).splitlines()
    sections = [
        place for place, line in enumerate(lines) if line.startswith("[") and "." not in line.split("]")[0]
    ]
    assert len(sections) == 9
    assert all(lines[place - 1].startswith("# ") for place in sections)
    assert sum(line.startswith("  { name = ") for line in lines) == len(_plain().model.tensors.root)


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_whole_schedule_costs_at_most_the_epsilon_asked_for_and_not_much_less(epsilon: float) -> None:
    study, _ = new_study(StudyOptions(**CNN, privacy="local", epsilon=epsilon))
    cost = check_policy(study)
    assert cost is not None
    assert 0.98 * epsilon < cost.epsilon_joint <= epsilon


def test_equal_arguments_and_a_seed_give_an_equal_study_and_another_seed_another_start() -> None:
    first, start = new_study(StudyOptions(**CNN, seed=0))
    second, same = new_study(StudyOptions(**CNN, seed=0))
    third, other = new_study(StudyOptions(**CNN, seed=1))
    assert (first.hash, start) == (second.hash, same)
    assert first.model.initial_model != third.model.initial_model
    assert start != other


@pytest.mark.parametrize("model", ["small_cnn", "wavelet_head"])
def test_without_a_seed_every_study_has_a_start_of_its_own_also_where_weights_begin_at_zero(
    model: str,
) -> None:
    settings = {**CNN, "model": model, "privacy": "local", "patients_hint": 5000}
    hashes = {new_study(StudyOptions(**settings))[0].model.initial_model for _ in range(3)}
    assert len(hashes) == 3
    spec = new_study(StudyOptions(**settings))[0].model.tensors
    start = np.zeros(spec.size, np.float32)
    moved = starts.fresh(spec, start)
    assert 0 < np.abs(moved).max() <= starts.FRESH


def test_the_place_of_a_released_mean_begins_at_zero() -> None:
    spec = ModelSpec((TensorSpec(name="w", shape=(4,)), TensorSpec(name=CENTRE, shape=(3,))))
    moved = starts.fresh(spec, np.zeros(7, np.float32), lambda size: b"\x01" * size)
    assert (moved != 0).tolist() == [True] * 4 + [False] * 3


def test_a_study_is_never_overwritten(tmp_path: Path) -> None:
    study, initial = new_study(StudyOptions(**CNN))
    write_study(tmp_path, study, initial)
    before = (tmp_path / "study.toml").read_bytes()
    other, start = new_study(StudyOptions(**CNN, rounds=3))
    with pytest.raises(FolderTaken):
        write_study(tmp_path, other, start)
    assert (tmp_path / "study.toml").read_bytes() == before


def test_an_initial_model_that_the_study_does_not_name_is_refused(tmp_path: Path) -> None:
    study, _ = new_study(StudyOptions(**CNN))
    _, other = new_study(StudyOptions(**CNN, seed=1))
    with pytest.raises(ValueError, match="initial model"):
        write_study(tmp_path, study, other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "Not A Name"}, BadFile),
        ({"size": (4, 4)}, Error),
        ({"classes": ("a", "a")}, BadFile),
        ({"delta": 0.5}, BadFile),
        ({"epsilon": float("nan")}, BadFile),
        ({"model": "no_such_model"}, Error),
    ],
    ids=["name", "size", "classes", "delta", "epsilon", "model"],
)
def test_a_study_that_cannot_be_is_refused_in_words(change: dict[str, Any], error: type[Error]) -> None:
    with pytest.raises(error) as caught:
        new_study(StudyOptions(**(CNN | {"privacy": "local"} | change)))
    assert caught.value.remedy


def test_a_task_without_a_usual_model_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "DEFAULT_MODELS", {})
    with pytest.raises(NoDefaultModel, match="--model"):
        new_study(StudyOptions(**(CNN | {"model": None})))


def test_noise_shrinks_with_patients_and_with_the_square_root_of_hospitals() -> None:
    study, _ = new_study(StudyOptions(**CNN, privacy="local"))
    one = noise_to_signal(study, patients=100, hospitals=1)
    assert one is not None
    assert noise_to_signal(study, patients=200, hospitals=1) == pytest.approx(one / 2)
    assert noise_to_signal(study, patients=100, hospitals=4) == pytest.approx(one / 2)
    assert noise_to_signal(_plain(), patients=100, hospitals=4) is None


def test_a_network_too_large_for_its_patients_is_called_hopeless_before_any_run() -> None:
    study, _ = new_study(StudyOptions(**UNET, privacy="local"))
    assert "hopeless" in " ".join(outlook(study, patients=20, hospitals=3))
    assert "fine" in " ".join(outlook(study, patients=100_000, hospitals=3))


def test_a_study_without_privacy_says_so_to_its_author() -> None:
    assert "NONE" in " ".join(outlook(_plain(), patients=100, hospitals=4))


def test_more_hospitals_than_usual_fit_into_the_cohort() -> None:
    study, _ = new_study(StudyOptions(**(CNN | {"hospitals": 25})))
    assert study.cohort.max_hospitals == 25


def _plain() -> Study:
    return new_study(StudyOptions(**CNN, privacy="none"))[0]


@pytest.mark.parametrize(
    ("privacy", "epsilon", "options", "expected"),
    [
        ("joint", 1.0, {}, True),
        ("local", 3.0, {}, True),
        ("local", 4.0, {}, None),
        ("joint", 3.0, {}, None),
        ("none", 1.0, {}, None),
        ("joint", 1.0, {"equalised": False}, False),
        ("joint", 8.0, {"equalised": True}, True),
    ],
)
def test_features_of_films_are_equalised_under_strong_noise_unless_the_author_decides_otherwise(
    privacy: Any, epsilon: float, options: dict[str, bool], expected: bool | None
) -> None:
    settings: dict[str, Any] = CNN | {"model": "wavelet_head", "size": (64, 64), "patients_hint": 600}
    study, _ = new_study(StudyOptions(**settings, privacy=privacy, epsilon=epsilon, options=options))
    assert study.model.options.get("equalised") is expected
