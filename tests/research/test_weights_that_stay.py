"""A study whose normalisations or head stay in the hospitals: written, trained, and never taken for whole."""

from __future__ import annotations

import json
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from pydantic import ValidationError
from torch import nn
from typer.testing import CliRunner

from hospital_node.journal import Journal
from hospital_node.lineage import OwnVersion, keep_version, version_path
from hospital_node.personal import LABEL
from hospital_node.personal import PersonalWeights as PersonalPart
from hospitals import PEOPLE, make_hospital
from medveil.compression import Compression
from medveil.errors import BadFile, BadOption
from medveil.strategies import BadStrategy
from medveil.study import Study, read_study
from medveil.tensors import Float32, Update, from_safetensors, model_hash
from medveil_imaging.models import ModelShape, build
from medveil_imaging.patients import PatientImages
from medveil_imaging.personal import personal_tensors
from medveil_imaging.sources.site import SiteData
from medveil_research.cli import register
from medveil_research.comparison.arms import in_one_place
from medveil_research.comparison.engine import run_federated
from medveil_research.export import export
from medveil_research.fetching import TargetExists
from medveil_research.finished import Finished
from medveil_research.outlook import outlook
from medveil_research.own_model import NoOwnModel, own_model
from medveil_research.prediction.networks import in_torch
from medveil_research.programs import PersonalWeights, network_of
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import to_toml, write_study
from world import make_plan

USUAL = StudyOptions(
    name="own-heads",
    task="classification",
    profile="xray",
    model="small_cnn",
    options={"width": 4},
    classes=("a", "b"),
    size=(16, 16),
    privacy="none",
    hospitals=3,
    rounds=3,
    seed=1,
)


def made(*kept: str, **changes: Any) -> tuple[Study, Float32]:
    study, initial = new_study(replace(USUAL, personal=kept, **changes))
    return study, from_safetensors(initial, study.model.tensors)


def site(name: str, seed: int, *, flipped: bool = False) -> SiteData:
    """Bright images are of the second class, or of the first."""
    draw = torch.Generator().manual_seed(seed)
    people = tuple(
        PatientImages(
            f"{name}{i}",
            torch.randn(1, 1, 16, 16, generator=draw) + 2 * (i % 2),
            torch.tensor([(i + flipped) % 2]),
        )
        for i in range(8)
    )
    return SiteData(name, train=people, val=(), test=people, problems=())


def test_words_mean_layers_and_patterns_mean_names() -> None:
    network = build("small_cnn", ModelShape((16, 16), 1), {"width": 4}, seed=0)
    norms = ("1.weight", "1.bias", "4.weight", "4.bias", "7.weight", "7.bias")
    assert personal_tensors(network, ["norm"]) == norms
    assert personal_tensors(network, ["head"]) == ("11.weight", "11.bias")
    assert personal_tensors(network, ["head", "norm"]) == (*norms, "11.weight", "11.bias")
    assert personal_tensors(network, ["11.*", "?.bias"]) == tuple(
        f"{name}"
        for name in ("0.bias", "1.bias", "3.bias", "4.bias", "6.bias", "7.bias", "11.weight", "11.bias")
    )
    with pytest.raises(BadOption, match="'fc' means no trained tensor"):
        personal_tensors(network, ["head", "fc"])
    with pytest.raises(BadOption, match="'norm' means no trained tensor"):
        personal_tensors(nn.Linear(2, 2), ["norm"])


def test_volumes_keep_their_instance_norms() -> None:
    network = build("unet3d", ModelShape((16, 16, 16), 2), {}, seed=0)
    kept = personal_tensors(network, ["norm"])
    layers = dict(network.named_modules())
    assert kept
    assert all("Norm" in type(layers[name.rpartition(".")[0]]).__name__ for name in kept)


def test_a_study_is_as_it_was_where_nothing_stays(tmp_path: Path) -> None:
    study, _ = made()
    assert "personal" not in to_toml(study)
    assert "personal" not in study.model_dump(mode="json")["model"]
    kept, initial = new_study(replace(USUAL, personal=("head",)))
    write_study(tmp_path, kept, initial)
    assert read_study(tmp_path / "study.toml").hash == kept.hash != study.hash
    assert kept.uploaded == study.uploaded - 8 * 4 * 4 - 1
    said = "\n".join(outlook(kept, patients=None, hospitals=3))
    assert "129 of them (11.weight, 11.bias) stay in each hospital" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"personal": ["11.bias", "11.weight"]}, "in the model's order"),
        ({"personal": ["11.bias", "11.bias"]}, "each once"),
        ({"personal": ["12.bias"]}, "lists tensors of the model"),
        ({"personal": "*"}, "must leave 4 weights"),
    ],
)
def test_only_tensors_of_the_model_stay_and_not_all(changes: dict[str, Any], says: str) -> None:
    study, _ = made()
    content = study.model_dump(mode="json")
    names = [tensor["name"] for tensor in content["model"]["tensors"]]
    content["model"]["personal"] = names if changes["personal"] == "*" else changes["personal"]
    with pytest.raises(ValidationError, match=says):
        Study.model_validate(content)


def test_what_is_not_proven_together_is_refused_by_name() -> None:
    with pytest.raises(BadFile, match="not for a study with compression"):
        made("head", compression=Compression(kind="sparse", share=0.5))
    with pytest.raises(BadStrategy, match="scaffold steers whole updates"):
        made("head", strategy="scaffold")
    joint, _ = new_study(
        replace(
            USUAL,
            model=None,
            options={},
            size=(64, 64),
            privacy="joint",
            hospitals=10,
            rounds=None,
            patients_hint=10_000,
        )
    )
    content = joint.model_dump(mode="json")
    (name, *_) = [tensor["name"] for tensor in content["model"]["tensors"]]
    content["model"]["tensors"].append({"name": "more", "shape": [9]})
    content["model"]["personal"] = [name]
    with pytest.raises(ValidationError, match="not for joint noise"):
        Study.model_validate(content)
    content["privacy"] = made("head")[0].model_dump(mode="json")["privacy"]
    content["model"]["options"] = {"centred": True}
    with pytest.raises(ValidationError, match="not for a centred model"):
        Study.model_validate(content)


def test_a_federation_shares_the_body_and_each_site_is_judged_with_its_own_head() -> None:
    study, start = made("head")
    changes = {"rounds": 5, "local_epochs": None, "local_steps": 3, "learning_rate": 0.03}
    study = study.model_copy(update={"training": study.training.model_copy(update=changes)})
    sites = [site("a", 1), site("b", 2), site("c", 3, flipped=True)]
    found = run_federated(study, start, sites, watched="test")
    assert study.shared is not None
    stays = study.shared.stays(0, len(start))
    assert found.model[stays].tobytes() == start[stays].tobytes()
    for own in found.own.values():
        assert np.array_equal(own[~stays], found.model[~stays])
        assert (own[stays] != start[stays]).any()
    assert len({own.tobytes() for own in found.own.values()}) == 3
    assert found.curve[-1]["auroc"] == found.released["auroc"]
    # What the third site calls ill the others call well: no one head serves them all.
    assert found.released["auroc"] > 0.95
    plain = run_federated(
        study.model_copy(update={"model": study.model.model_copy(update={"personal": ()})}), start, sites
    )
    assert plain.released["auroc"] < 0.9
    assert plain.own == {}
    assert in_one_place(study, sites).shared is None


def test_nobody_takes_what_was_published_for_a_whole_model(tmp_path: Path) -> None:
    study, start = made("norm")
    with pytest.raises(PersonalWeights) as caught:
        network_of(study, start)
    assert caught.value.code == "personal-weights"
    assert "6 tensor(s)" in caught.value.what
    finished = Finished(study, plan="", weights=start, epsilon=None)
    for form in ("onnx", "bundle"):
        with pytest.raises(PersonalWeights):
            export(form, finished, tmp_path / form)
    (_, card) = export("weights", finished, tmp_path / "weights")
    assert json.loads(card.read_text())["not_published"] == list(study.model.personal)
    _, initial = new_study(replace(USUAL, personal=("norm",)))
    write_study(tmp_path / "study", study, initial)
    app = typer.Typer()
    register(app)
    words = ["research", "evaluate", "--model", str(tmp_path / "study" / "initial.safetensors")]
    words += ["--study", str(tmp_path / "study" / "study.toml"), "--data", str(tmp_path)]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, PersonalWeights)


def test_a_hospital_takes_its_own_model_out_of_its_node_and_predicts_with_it(tmp_path: Path) -> None:
    study, start = made("head")
    plan = make_plan(PEOPLE, study)
    node = make_hospital(tmp_path).node
    with closing(Journal(node.journal)) as journal:
        journal.approve(plan, b"signed")

    def refused() -> str:
        with pytest.raises(NoOwnModel) as caught:
            own_model(node, study.name)
        return caught.value.what

    assert "no sum of this plan" in refused()
    shared = np.ones_like(start)
    version = OwnVersion(2, 2, shared, {}, model_hash(shared, study.model.tensors), summed=2)
    keep_version(version_path(node.models, plan), version)
    assert "not on its disk" in refused()
    kept = PersonalPart(node.models, plan, PEOPLE[0].secret_for(LABEL))
    kept.part(2, np.full_like(start, 3.0), Update(np.full_like(start, 0.5)), summed=0)
    app = typer.Typer()
    register(app)
    words = ["research", "own-model", plan.id[:8], "--node", str(node.folder), "-o", str(tmp_path / "mine")]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert shown.exit_code == 0
    read, network, _ = in_torch(tmp_path / "mine", threads=1)
    assert read.model.personal == ()
    values = {name: set(weight.flatten().tolist()) for name, weight in network.named_parameters()}
    assert values.pop("11.weight") == values.pop("11.bias") == {3.5}
    assert all(found == {1.0} for found in values.values())
    assert stat.S_IMODE((tmp_path / "mine" / "model.safetensors").stat().st_mode) == 0o600
    assert isinstance(CliRunner().invoke(app, words).exception, TargetExists)
    with pytest.raises(NoOwnModel, match="no approved plan of that name"):
        own_model(node, "another")
