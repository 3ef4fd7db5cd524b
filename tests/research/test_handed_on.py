"""A model that is handed on is whole, tells where it comes from and who says so, and shows changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handed_models import PLAN, command, fetched
from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.tensors import BadModelFile, from_safetensors
from medveil_research.bundle_metadata import SCHEMA, metadata_of
from medveil_research.export import EXPORTS
from medveil_research.fetching import TargetExists
from medveil_research.finished import Finished
from medveil_research.hand_on import finished_model, hand_on, read_handed
from medveil_research.manifests import MANIFEST, BadExport
from medveil_research.preprocessing import code_of_profile, steps_of

Exports = tuple[Path, Identity]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(tmp_path_factory.mktemp("fetched") / "films")


@pytest.fixture
def handed(model: Path, tmp_path: Path) -> Exports:
    anna = Identity.generate("anna")
    hand_on("weights", finished_model(model), tmp_path / "out", anna)
    return tmp_path / "out", anna


def test_the_manifest_tells_plan_rounds_price_profile_and_figures(model: Path, handed: Exports) -> None:
    folder, anna = handed
    told = read_handed(folder, key=anna.public_key).manifest
    finished = finished_model(model)
    assert (told.plan, told.rounds, told.version) == (PLAN, 7, finished.version)
    assert (told.privacy.epsilon, told.privacy.epsilon_of_the_study) == (3.25, 8.0)
    assert told.evaluation == {"auroc": 0.91, "auroc_low": 0.88, "auroc_high": 0.93}
    assert told.transforms == finished.study.transforms
    assert told.transforms.profile_hash is not None
    assert "percentiles" in " ".join(told.preprocessing)


def test_a_handed_on_model_is_read_back_as_the_version_it_was(model: Path, handed: Exports) -> None:
    done = read_handed(handed[0])
    vector = from_safetensors(done.data(".safetensors"), done.study.model.tensors)
    assert np.array_equal(vector, finished_model(model).weights)
    assert done.study.hash == finished_model(model).study.hash


def changed(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_figure(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    assert "0.91" in text
    (folder / MANIFEST).write_text(text.replace("0.91", "0.99"))


def other_name(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("anna", "bert"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "not the file": changed,
    "signature": other_figure,
    "is missing": lambda folder: (folder / "study.toml").unlink(),
    "not in its manifest": lambda folder: (folder / "extra.py").write_text("import os\n"),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_what_was_changed_after_the_signature_is_refused_by_name(words: str, handed: Exports) -> None:
    folder, _ = handed
    DAMAGES[words](folder)
    with pytest.raises(BadExport, match=words):
        read_handed(folder)


def test_the_name_is_part_of_what_is_signed(handed: Exports) -> None:
    other_name(handed[0])
    with pytest.raises(BadExport, match="signature"):
        read_handed(handed[0])


def test_somebody_elses_signature_is_refused_where_a_key_is_asked_for(handed: Exports, model: Path) -> None:
    with pytest.raises(BadExport, match="somebody else"):
        read_handed(handed[0], key=Identity.generate("anna").public_key)
    unsigned = handed[0].with_name("unsigned")
    hand_on("weights", finished_model(model), unsigned, None)
    assert read_handed(unsigned).signed.signature is None
    with pytest.raises(BadExport, match="nobody"):
        read_handed(unsigned, key=handed[1].public_key)


def test_a_target_that_is_there_is_refused_and_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(TargetExists, match="mine"):
        hand_on("weights", finished_model(model), tmp_path / "mine", None)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_a_format_that_fails_half_way_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(finished: Finished, folder: Path) -> list[Path]:
        (folder / "half.bin").write_bytes(b"half")
        raise BadModelFile(problem="the disk is full")

    monkeypatch.setitem(EXPORTS._entries, "weights", fails)
    with pytest.raises(BadModelFile):
        hand_on("weights", finished_model(model), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_version_or_study_are_refused(model: Path, tmp_path: Path) -> None:
    other = fetched(tmp_path / "other", options={"grid": 4})
    (other / "study.toml").write_bytes((model / "study.toml").read_bytes())
    with pytest.raises(BadModelFile, match="shape"):
        finished_model(other)
    mixed = fetched(tmp_path / "mixed")
    card = json.loads((mixed / "version.json").read_text()) | {"model": "00" * 32}
    (mixed / "version.json").write_text(json.dumps(card))
    with pytest.raises(BadModelFile, match="card"):
        finished_model(mixed)
    (mixed / "model.safetensors").unlink()
    with pytest.raises(BadFile, match=r"model\.safetensors"):
        finished_model(mixed)


def test_without_a_card_the_price_is_that_of_the_whole_study(tmp_path: Path) -> None:
    folder = fetched(tmp_path / "bare")
    (folder / "version.json").unlink()
    finished = finished_model(folder)
    assert (finished.epsilon, finished.plan, finished.rounds) == (8.0, "", None)


def test_the_metadata_of_a_bundle_has_all_that_monais_schema_asks_for(model: Path) -> None:
    """Required fields of a bundle and of a tensor as MONAI's specification lists them."""
    told = metadata_of(finished_model(model))
    assert {"schema", "version", "monai_version", "pytorch_version", "numpy_version"} <= set(told)
    assert {"required_packages_version", "task", "description", "authors", "copyright"} <= set(told)
    assert told["schema"] == SCHEMA
    assert told["eval_metrics"] == {"auroc": 0.91, "auroc_low": 0.88, "auroc_high": 0.93}
    form: Any = told["network_data_format"]
    for tensor in (form["inputs"]["image"], form["outputs"]["pred"]):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)
    assert (form["inputs"]["image"]["num_channels"], form["inputs"]["image"]["spatial_shape"]) == (
        1,
        [64, 64],
    )
    assert form["outputs"]["pred"]["channel_def"] == {"0": "positive"}


def test_the_grey_scale_goes_along_as_code_that_needs_nothing_of_medveil() -> None:
    from medveil.profiles import PROFILES

    random = np.random.default_rng(0).gamma(2, 300, (50, 40)).astype(np.float32)
    for name, function in (
        ("xray", "between_percentiles"),
        ("brain", "of_white_matter"),
        ("picture", "around_zero"),
    ):
        code = "\n".join(code_of_profile(name))
        assert "medveil" not in code
        space: dict[str, Any] = {}
        exec(code, space)
        assert np.array_equal(space[function](random.copy()), PROFILES[name].grey(random.copy()))


def test_every_profile_says_in_words_what_it_does(model: Path) -> None:
    steps = steps_of(finished_model(model).study)
    assert [word in " ".join(steps) for word in ("64 x 64", "antialias", "standard deviation")] == [True] * 3


def test_the_commands_export_sign_and_verify(model: Path, tmp_path: Path) -> None:
    anna = Identity.generate("anna")
    anna.save(tmp_path / "anna.key")
    target = str(tmp_path / "out")
    signer = ("--key", str(tmp_path / "anna.key"), "--name", "anna")
    code, said = command("export", str(model), "--format", "weights", "-o", target, *signer)
    assert code == 0, said
    assert "epsilon 3.25" in said
    code, said = command("verify", target, "--key", anna.public_key.hex())
    assert (code, "anna" in said) == (0, True)
    assert command("export", str(model), "--format", "weights", "-o", target, *signer)[1].endswith(
        "[target-exists]"
    )
    nobody = ("--folder", str(tmp_path / "nobody"))
    assert (
        "not-enrolled" in command("export", str(model), "--format", "weights", "-o", target + "2", *nobody)[1]
    )
    assert "unknown-name" in command("export", str(model), "--format", "tf", "-o", target, "--unsigned")[1]
    assert "bad-export" in command("verify", target, "--key", "00" * 32)[1]
