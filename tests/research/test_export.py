"""A finished model leaves MedVeil with its names, its shapes and a card that says where it comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medveil.errors import UnknownName
from medveil.study import Study
from medveil.tensors import ModelSpec, from_safetensors, model_hash
from medveil_imaging.models import MODELS, ModelShape, build_model, load_vector
from medveil_research.export import EXPORTS, export
from medveil_research.finished import Finished
from medveil_research.studies import StudyOptions, new_study

PLAN = "ab" * 32


def made(**changes: Any) -> tuple[Study, Finished]:
    usual: dict[str, Any] = {"privacy": "none", "model": "small_cnn", "hospitals": 3, "seed": 3} | changes
    study, initial = new_study(StudyOptions(name="films", task="classification", profile="xray", **usual))
    start = from_safetensors(initial, study.model.tensors)
    weights = start + np.random.default_rng(0).normal(0, 0.1, start.shape).astype(np.float32)
    return study, Finished(study, PLAN, weights, epsilon=None if study.privacy.kind == "none" else 3.5)


def test_plain_safetensors_give_a_plain_network_the_same_outputs(tmp_path: Path) -> None:
    study, finished = made()
    tensors, _ = export("weights", finished, tmp_path / "new")
    ours = build_model(study)
    load_vector(ours, finished.weights)
    theirs = MODELS["small_cnn"](ModelShape((64, 64), 1), {})
    loaded = load_file(tensors)
    assert {name: tuple(t.shape) for name, t in loaded.items()} == {
        t.name: t.shape for t in study.model.tensors.root
    }
    theirs.load_state_dict(loaded, strict=True)
    images = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs.eval()(images), ours.eval()(images))


def test_the_file_is_read_back_by_medveil_as_the_same_version(tmp_path: Path) -> None:
    study, finished = made()
    tensors, card = export("weights", finished, tmp_path)
    spec = study.model.tensors
    vector = from_safetensors(tensors.read_bytes(), spec)
    assert np.array_equal(vector, finished.weights)
    told = json.loads(card.read_text())
    assert told["version"] == model_hash(vector, spec).hex()
    assert ModelSpec.model_validate(told["tensors"]) == spec  # the card alone says how to read the file


def test_the_card_says_what_where_from_and_at_what_price(tmp_path: Path) -> None:
    study, finished = made(privacy="local", epsilon=8.0, patients_hint=5000)
    card = json.loads(export("weights", finished, tmp_path)[1].read_text())
    assert (card["study"], card["study_hash"], card["plan"]) == ("films", study.hash.hex(), PLAN)
    assert (card["task"], card["classes"]) == ("classification", ["negative", "positive"])
    assert card["transforms"] == study.transforms.model_dump(mode="json")
    assert (card["transforms"]["profile"], card["transforms"]["size"]) == ("xray", [64, 64])
    assert card["model"] == {"name": "small_cnn", "options": {}}
    assert isinstance(study.privacy.kind, str)
    assert card["privacy"] == {
        "kind": "local",
        "epsilon_spent": 3.5,
        "epsilon_of_the_study": 8.0,
        "delta": study.privacy.delta,  # type: ignore[union-attr]
    }


def test_equal_versions_have_equal_files_and_others_other_names(tmp_path: Path) -> None:
    _, finished = made()
    first, again = (export("weights", finished, tmp_path / name) for name in ("a", "b"))
    assert [p.name for p in first] == [p.name for p in again]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    other = replace(finished, weights=finished.weights + np.float32(1))
    assert other.stem != finished.stem


def test_an_unknown_format_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    _, finished = made()
    with pytest.raises(UnknownName, match="caffe"):
        export("caffe", finished, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert list(EXPORTS) == ["bundle", "onnx", "weights"]


def test_weights_of_another_model_or_an_epsilon_without_noise_are_refused() -> None:
    _, finished = made()
    for wrong in (
        {"weights": finished.weights[1:]},
        {"weights": finished.weights * np.nan},
        {"epsilon": 1.0},
    ):
        with pytest.raises(ValueError, match=r"weights|epsilon"):
            replace(finished, **wrong)
