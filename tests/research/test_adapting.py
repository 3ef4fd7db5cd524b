"""A shared model is trained on at one hospital: better for its own patients, and kept in the house."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hospital_node.training import FeatureCache
from medveil.study import CENTRE, Study
from medveil.tensors import Float32, from_safetensors, unflatten
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_imaging.sources.site import SiteData
from medveil_research.adapting import adapted, local_training
from medveil_research.cli import register
from medveil_research.comparison.engine import judged
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

EDGE = 32


def made(**changes: Any) -> tuple[Study, bytes]:
    options: dict[str, Any] = {
        "name": "films",
        "task": "classification",
        "profile": "xray",
        "model": "wavelet_head",
        "options": {"scales": 1, "grid": 4},
        "size": (EDGE, EDGE),
        "hospitals": 3,
        "privacy": "none",
        "seed": 1,
    }
    return new_study(StudyOptions(**options | changes))


def own_site(flipped: bool) -> SiteData:
    """A bright square means healthy here, if it is flipped: no shared model suits both kinds of hospital."""
    draw = torch.Generator().manual_seed(3)
    people = []
    for number in range(40):
        image = 0.3 * torch.randn(1, 1, EDGE, EDGE, generator=draw)
        image[:, :, 8:20, 8:20] += 1.5 * (number % 2)
        label = (number + flipped) % 2
        people.append(PatientImages(f"p{number}", image, torch.tensor([label])))
    return SiteData("own", tuple(people[:30]), (), tuple(people[30:]), problems=())


@pytest.mark.parametrize("privacy", ["none", "local"])
def test_a_few_own_steps_make_a_model_that_suits_this_hospital(privacy: str) -> None:
    study, initial = made(privacy=privacy, strategy="reptile")
    vector = from_safetensors(initial, study.model.tensors)
    for flipped in (False, True):
        site = own_site(flipped)
        mine = adapted(study, vector, site, steps=20)
        cache = [FeatureCache()]
        assert judged(study, mine, [site.test], cache)["auroc"] > 0.95
        assert not np.array_equal(mine, vector)


def test_a_study_without_noise_adapts_by_its_own_training_and_a_noised_one_by_the_shipped_one() -> None:
    plain, _ = made()
    assert local_training(plain, steps=7).learning_rate == plain.training.learning_rate
    noised, _ = made(privacy="local")
    assert noised.training.learning_rate != plain.training.learning_rate
    found = local_training(noised, steps=7)
    assert (found.learning_rate, found.local_steps) == (plain.training.learning_rate, 7)


def test_a_round_that_only_releases_a_mean_is_stepped_over() -> None:
    study, initial = made(privacy="local", patients_hint=10_000, options={"scales": 1, "grid": 4})
    assert study.centred
    vector: Float32 = from_safetensors(initial, study.model.tensors)
    moved = unflatten(adapted(study, vector, own_site(False), steps=2) - vector, study.model.tensors)
    assert not moved.pop(CENTRE).any()
    assert all(part.any() for part in moved.values())


@pytest.mark.slow
def test_the_command_adapts_judges_and_keeps_the_model_for_its_owner_alone(tmp_path: Path) -> None:
    (site, *_) = write_phantom_sites(tmp_path / "sites", profile="xray", hospitals=3, patients=12, seed=1)
    study, initial = made()
    write_study(tmp_path / "study", study, initial)
    app = typer.Typer()
    register(app)
    words = ["research", "evaluate", "--study", str(tmp_path / "study" / "study.toml"), "--data", str(site)]
    words += ["--model", str(tmp_path / "study" / "initial.safetensors"), "--keep", str(tmp_path / "mine")]
    assert CliRunner().invoke(app, words).exception is not None  # nothing was adapted
    shown = CliRunner().invoke(app, [*words, "--adapt", "5"], catch_exceptions=False)
    assert shown.exit_code == 0
    kept = from_safetensors((tmp_path / "mine").read_bytes(), study.model.tensors)
    assert not np.array_equal(kept, from_safetensors(initial, study.model.tensors))
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
    assert CliRunner().invoke(app, [*words, "--adapt", "5"]).exception is not None  # never written over
