"""Tasks and profiles: what the aggregator needs of them starts without torch, and each keeps its word."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medveil.errors import UnknownName
from medveil.metrics import bounded, empty, headline, layout, noise_scales, released, summarise
from medveil.profiles import PROFILES
from medveil.registry import Registry, names_in
from medveil.strategies import STRATEGIES
from medveil.study import Study
from medveil.tasks import TASKS
from privacy.metric_limits import can_add_up
from subjects import subject_of
from world import make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}


def study_of(task: str, **changes: Any) -> Study:
    return make_study(**(subject_of(task) | changes))


def test_whoever_reads_studies_and_sums_starts_without_torch() -> None:
    """The import rules cannot tell an import in a function from one at the top of a task."""
    code = (
        "import sys; from medveil.metrics import layout; from medveil.tasks import TASKS;"
        "from medveil.profiles import PROFILES; from privacy.metric_limits import can_add_up;"
        "names = [*TASKS, *PROFILES]; [vars(TASKS[n]) for n in TASKS];"
        "assert len(names) >= 4 and not {'torch', 'monai', 'opacus'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("registry", [TASKS, PROFILES, STRATEGIES], ids=lambda r: r._package)
def test_an_entry_is_called_as_its_file_is(registry: Registry[Any]) -> None:
    """So that a command can offer the names without loading anything."""
    assert tuple(registry) == names_in(registry._package)


@pytest.mark.parametrize("task", list(TASKS))
def test_a_task_lays_out_exact_and_noised_sums(task: str) -> None:
    exact, noised = study_of(task), study_of(task, privacy=LOCAL)
    assert layout(exact)["patients"] == 1
    assert released(exact) == layout(exact) == layout(noised)
    assert "patients" not in released(noised)
    assert noise_scales(noised).keys() == released(noised).keys()
    assert bounded(noised, empty(noised)).keys() == released(noised).keys()
    assert headline(exact) == TASKS[task].headline


@pytest.mark.parametrize("task", list(TASKS))
def test_no_patients_add_up_and_have_no_figures_but_counts(task: str) -> None:
    for study in (study_of(task), study_of(task, privacy=LOCAL)):
        sums = {name: np.zeros(length) for name, length in released(study).items()}
        assert can_add_up(study, sums, hospitals=3)
        assert set(summarise(study, sums).values()) == {0.0}
        assert TASKS[task].headline not in summarise(study, sums)


@pytest.mark.parametrize("task", list(TASKS))
def test_a_count_below_zero_is_nobodys(task: str) -> None:
    for study in (study_of(task), study_of(task, privacy=LOCAL)):
        sums = {name: np.zeros(length) for name, length in released(study).items()}
        for name in sums:
            wrong = sums | {name: np.full_like(sums[name], -1e6)}
            assert not can_add_up(study, wrong, hospitals=3)


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profiles_own_edges_make_a_study(name: str) -> None:
    profile = PROFILES[name]
    transforms = {"profile": name, "size": profile.size, "spacing_mm": profile.spacing_mm}
    assert make_study(transforms=transforms).transforms.profile == name
    pixels = np.random.default_rng(0).normal(size=profile.size).astype(np.float32)
    kept = pixels.copy()
    assert profile.grey(pixels).shape == pixels.shape
    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize(
    ("changes", "known"),
    [({"task": "guessing"}, "classification"), ({"transforms": {"profile": "x", "size": (16, 16)}}, "xray")],
)
def test_a_name_that_nobody_has_is_refused_where_the_study_is_read(changes: Any, known: str) -> None:
    with pytest.raises(ValidationError, match=f"must be one of.*{known}"):
        make_study(**changes)


@pytest.mark.parametrize("name", list(PROFILES))
def test_outlines_are_of_every_kind_of_image(name: str) -> None:
    profile = PROFILES[name]
    transforms = {"profile": name, "size": profile.size, "spacing_mm": profile.spacing_mm}
    assert make_study(task="segmentation", transforms=transforms).task == "segmentation"


def test_settings_and_models_come_from_entries_that_ship() -> None:
    assert {TASKS[name].recipes_of for name in TASKS} <= set(TASKS)
    assert {TASKS[name].profile for name in TASKS} <= set(PROFILES)
    assert {PROFILES[name].recipes_of for name in PROFILES} <= set(PROFILES)
    with pytest.raises(UnknownName, match="guessing"):
        TASKS["guessing"]


def test_a_headline_that_noised_sums_do_not_give_is_no_figure_and_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(TASKS["classification"]), "headline", "accuracy")
    study = study_of("classification", privacy=LOCAL)  # of three classes, which release no hits
    sums = {name: np.full(length, 50.0) for name, length in released(study).items()}
    figures = summarise(study, sums, noise=1.0)
    assert "auroc_low" in figures
    assert not {"accuracy", "noise"} & set(figures)
