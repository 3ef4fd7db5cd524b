"""The next study starts from a published model: the same network, a stated parent, and what it has cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medveil.parent import CARD, STUDY, WEIGHTS
from medveil.study import Study, read_study
from medveil.tensors import Float32, from_safetensors, model_hash, to_safetensors
from medveil_imaging.frozen import FOLDER
from medveil_imaging.weight_files import BadStartWeights, read_weights
from medveil_research.cli import register
from medveil_research.model_start import FRESH_OF_TRAINED, start_lines
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import to_toml

PLAN = "ab" * 32
NEAR = 1.01 * FRESH_OF_TRAINED  # and a rounding
FIRST: dict[str, Any] = {
    "name": "films",
    "task": "classification",
    "profile": "xray",
    "model": "wavelet_head",
    "options": {"scales": 1, "grid": 4},
    "classes": ["normal", "opacity"],
    "size": (32, 32),
    "hospitals": 3,
    "privacy": "local",
    "rounds": 3,
}
NEXT: dict[str, Any] = {"name": "more-films", "task": "classification", "profile": "xray", "hospitals": 3}


def made(**changes: Any) -> tuple[Study, Float32]:
    study, initial = new_study(StudyOptions(**changes))
    return study, from_safetensors(initial, study.model.tensors)


def fetched(folder: Path, **changes: Any) -> tuple[Study, Float32]:
    """A folder as ``medveil research fetch`` writes it; its study and its weights."""
    study, start = made(**FIRST | {"seed": 1} | changes)
    vector = start + np.linspace(-1, 1, len(start), dtype=np.float32)
    private = study.privacy.kind != "none"
    card = {
        "study": study.name,
        "study_hash": study.hash.hex(),
        "plan": PLAN,
        "number": 3,
        "model": model_hash(vector, study.model.tensors).hex(),
        "privacy": {"kind": study.privacy.kind, "epsilon_spent": 7.5 if private else None},
        "figures": {},
    }
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(to_safetensors(vector, study.model.tensors))
    (folder / STUDY).write_text(to_toml(study), encoding="utf-8")
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    return study, vector


def test_a_study_goes_on_from_a_version_and_says_which_and_what_it_has_cost(tmp_path: Path) -> None:
    before, vector = fetched(tmp_path / "v3")
    study, start = made(**NEXT, start_weights=read_weights(tmp_path / "v3"))
    assert (study.model.name, study.model.options) == (before.model.name, before.model.options)
    assert (study.model.tensors, study.classes) == (before.model.tensors, before.classes)
    assert study.transforms.size == before.transforms.size
    assert 0 < np.abs(start - vector).max() <= NEAR  # told apart from the version, and no more
    parent = study.model.parent
    assert parent is not None
    assert (parent.plan, parent.number, parent.epsilon) == (PLAN, 3, 7.5)
    assert parent.model == model_hash(vector, before.model.tensors).hex()
    assert parent.delta == before.privacy.delta  # type: ignore[union-attr]
    assert "already cost its patients epsilon 7.5" in start_lines(study, read_weights(tmp_path / "v3"))[0]


def test_the_parent_is_written_into_the_study_file_and_is_part_of_its_hash(tmp_path: Path) -> None:
    fetched(tmp_path / "v3")
    app = typer.Typer()
    register(app)
    words = "study new --name next --task classification --profile xray --hospitals 3 --privacy none --from"
    shown = CliRunner().invoke(app, [*words.split(), str(tmp_path / "v3"), "-o", str(tmp_path / "next")])
    assert shown.exit_code == 0, shown.output
    assert "version 3 of study 'films'" in " ".join(shown.output.split())
    study = read_study(tmp_path / "next" / STUDY)
    assert study.model.parent is not None
    orphan = study.model_copy(update={"model": study.model.model_copy(update={"parent": None})})
    assert study.hash != orphan.hash


def test_a_study_that_starts_afresh_has_the_hash_that_it_had_before_there_were_parents() -> None:
    study, _ = made(**FIRST, seed=1)
    assert "parent" not in study.model_dump(mode="json")["model"]


def test_the_file_of_weights_alone_is_still_known_for_what_it_is(tmp_path: Path) -> None:
    fetched(tmp_path / "v3")
    found = read_weights(tmp_path / "v3" / WEIGHTS)
    assert found.published is not None


def test_a_model_without_noise_is_handed_on_with_that_word(tmp_path: Path) -> None:
    fetched(tmp_path / "v3", privacy="none")
    study, _ = made(**NEXT, start_weights=read_weights(tmp_path / "v3"))
    assert study.model.parent is not None
    assert study.model.parent.epsilon is None
    assert "nothing bounds" in study.model.parent.words


@pytest.mark.parametrize("changed", ["weights", "study", "card", "noise"])
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, changed: str) -> None:
    study, vector = fetched(tmp_path / "v3")
    card = json.loads((tmp_path / "v3" / CARD).read_text())
    if changed == "weights":
        (tmp_path / "v3" / WEIGHTS).write_bytes(to_safetensors(vector + 1, study.model.tensors))
    elif changed == "study":
        other = to_toml(study).replace('"films"', '"other"')
        (tmp_path / "v3" / STUDY).write_text(other, encoding="utf-8")
    elif changed == "card":
        (tmp_path / "v3" / CARD).write_text(json.dumps(card | {"model": "0" * 63}))
    else:
        (tmp_path / "v3" / CARD).write_text(json.dumps(card | {"privacy": {"epsilon_spent": None}}))
    with pytest.raises(BadStartWeights, match="v3"):
        read_weights(tmp_path / "v3")


def test_another_head_takes_what_fits_and_only_if_that_is_said(tmp_path: Path) -> None:
    small = {"model": "small_cnn", "options": {}, "privacy": "none"}
    before, vector = fetched(tmp_path / "v3", **small)
    weights, more = read_weights(tmp_path / "v3"), {"classes": ["normal", "opacity", "other"]}
    with pytest.raises(BadStartWeights, match="another shape"):
        made(**NEXT | more, privacy="none", start_weights=weights)
    study, start = made(**NEXT | more, privacy="none", start_weights=weights, partial_start=True)
    first = before.model.tensors.root[0].size
    assert study.model.parent is not None
    assert np.abs(start[:first] - vector[:first]).max() <= NEAR


def test_a_seed_is_refused_for_no_hospital_sends_two_sums_from_one_model(tmp_path: Path) -> None:
    fetched(tmp_path / "v3")
    with pytest.raises(BadStartWeights, match="Leave --seed out"):
        made(**NEXT, seed=1, start_weights=read_weights(tmp_path / "v3"))


def test_what_an_earlier_study_froze_stays_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "encoders"))
    (tmp_path / "whole.safetensors").write_bytes(
        to_safetensors(*reversed(_whole_network()))  # the study before the first had all weights trained
    )
    tuned = {
        "model": "small_cnn",
        "options": {"train_only": "11.*"},
        "privacy": "none",
    }
    before, vector = fetched(
        tmp_path / "v3", **tuned, start_weights=read_weights(tmp_path / "whole.safetensors")
    )
    study, start = made(**NEXT, privacy="none", start_weights=read_weights(tmp_path / "v3"))
    assert study.model.options == before.model.options
    assert np.abs(start - vector).max() <= NEAR


def _whole_network() -> tuple[Any, Float32]:
    study, start = made(**FIRST | {"model": "small_cnn", "options": {}, "privacy": "none"}, seed=2)
    return study.model.tensors, start
