"""A network of a hospital's own on a shared model: it starts at what that says, and stays in the house."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from medveil.errors import BadOption
from medveil.metrics import summarise
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.models import ModelShape, build, build_model, load_vector, spec_of
from medveil_imaging.patients import PatientVolumes
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_imaging.sources.site import SiteData
from medveil_research.adapting import on_top_of, trained_on_top
from medveil_research.cli import register
from medveil_research.evaluate import add, patient_sums
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

SIZE = (16, 16, 16)


def new(**changes: Any) -> tuple[Study, bytes]:
    options: dict[str, Any] = {
        "name": "volumes",
        "task": "segmentation",
        "profile": "mri",
        "model": "position_head",
        "size": SIZE,
        "hospitals": 3,
        "privacy": "none",
        "seed": 1,
    }
    return new_study(StudyOptions(**options | changes))


def made() -> tuple[Study, Float32]:
    """A study, and weights that are not where it starts."""
    study, _ = new()
    drawn = np.random.default_rng(0).normal(size=study.model.tensors.size)
    return study, drawn.astype(np.float32)


def a_site() -> SiteData:
    """Bright balls, which no position tells and no weight of the shared model knows."""
    draw, people = torch.Generator().manual_seed(3), []
    axes = [torch.arange(edge) for edge in SIZE]
    for number in range(12):
        x, y, z = (torch.randint(5, 11, (1,), generator=draw) for _ in range(3))
        apart = (axes[0] - x)[:, None, None] ** 2 + (axes[1] - y)[None, :, None] ** 2
        ball = apart + (axes[2] - z)[None, None, :] ** 2 < 10
        image = 0.3 * torch.randn(1, 1, *SIZE, generator=draw) + 2 * ball
        people.append(PatientVolumes(f"p{number}", (image[0],), (ball.long(),)))
    return SiteData("own", tuple(people[:8]), (), tuple(people[8:]), problems=())


def test_before_it_is_trained_it_says_what_the_shared_model_says() -> None:
    study, vector = made()
    house = on_top_of(study, vector)
    shared, whole = build_model(study), build_model(house.study)
    load_vector(shared, vector)
    load_vector(whole, house.weights)
    images = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(whole(images), shared(images))
        assert torch.equal(whole(whole.features(images)), whole(images))
    assert house.study.model.tensors.size == len(house.weights)
    assert house.study.name == study.name


def test_any_outlining_model_can_be_below_and_its_options_go_along() -> None:
    shape = ModelShape(SIZE, 2, channels=2)
    options = {"under": "unet3d", "under_channels": "4-8", "channels": "4-8"}
    whole = build("on_top", shape, options)
    names = [tensor.name for tensor in spec_of(whole).root]
    assert {name.split(".")[0] for name in names} == {"under", "above"}
    assert whole(torch.zeros(1, 2, *SIZE)).shape == (1, 2, *SIZE)


def test_a_few_steps_of_its_own_mend_what_the_shared_model_cannot_see() -> None:
    study, vector = made()
    house, site = on_top_of(study, vector * 0), a_site()
    before = summarise(study, add(study, patient_sums(house.study, house.weights, site.test)))["dice"]
    mine = trained_on_top(house, site, steps=40)
    after = summarise(study, add(study, patient_sums(house.study, mine, site.test)))["dice"]
    assert before < 0.3
    assert after > 0.8


def test_what_it_is_not_for_is_said() -> None:
    study, vector = made()
    twice = on_top_of(study, vector)
    with pytest.raises(BadOption, match="already"):
        on_top_of(twice.study, twice.weights)
    films, start = new_study(
        StudyOptions(name="f", task="classification", profile="xray", hospitals=3, privacy="none", seed=1)
    )
    with pytest.raises(BadOption, match="outline"):
        on_top_of(films, from_safetensors(start, films.model.tensors))


@pytest.mark.slow
def test_the_command_keeps_a_folder_that_is_evaluated_and_predicts_as_any_other(tmp_path: Path) -> None:
    (site, *_) = write_phantom_sites(
        tmp_path / "sites", profile="mri", task="segmentation", hospitals=3, patients=12, seed=1
    )
    study, initial = new()
    write_study(tmp_path / "study", study, initial)
    app, kept = typer.Typer(), tmp_path / "mine"
    register(app)
    words = ["research", "evaluate", "--data", str(site)]
    shared = ["--study", str(tmp_path / "study" / "study.toml")]
    shared += ["--model", str(tmp_path / "study" / "initial.safetensors")]
    assert CliRunner().invoke(app, [*words, *shared, "--on-top"]).exception is not None  # no steps
    asked = [*words, *shared, "--adapt", "10", "--on-top", "--keep", str(kept)]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert shown.exit_code == 0
    assert stat.S_IMODE((kept / "model.safetensors").stat().st_mode) == 0o600
    again = CliRunner().invoke(app, [*words, "--model", str(kept)], catch_exceptions=False)
    assert again.exit_code == 0
    assert again.output == shown.output
