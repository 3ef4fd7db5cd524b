"""Start weights from bundles and files: what fits is taken, the rest is named, and nothing is executed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from typer.testing import CliRunner

from medveil import starts
from medveil.study import CENTRE, Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.frozen import BASE, FOLDER
from medveil_imaging.models import MODELS, BadModel, ModelShape, build, build_model, load_vector
from medveil_imaging.weight_files import BadStartWeights, read_weights, start_from
from medveil_research.cli import register
from medveil_research.contract import UnfitNetwork, prove
from medveil_research.model_start import hand_on_frozen, start_lines
from medveil_research.studies import StudyOptions, new_study
from tries import leading

FILM = ModelShape((32, 32), 1)
OPTIONS: dict[str, Any] = {"channels": "4-8"}
STUDY: dict[str, Any] = {
    "name": "films",
    "task": "classification",
    "profile": "xray",
    "model": "monai:Classifier",
    "options": OPTIONS,
    "size": (32, 32),
    "hospitals": 3,
    "privacy": "none",
}
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "encoders"))


def trained(outputs: int = 1) -> Weights:
    """A network's weights, as somebody else's training left them."""
    network = build("monai:Classifier", ModelShape((32, 32), outputs), OPTIONS, seed=9)
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def saved(value: object) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def bundle(folder: Path, weights: bytes, name: str = "model.pt", **more: bytes) -> Path:
    """A MONAI Bundle whose configuration would run code, if anybody asked it to."""
    config = {"net": {"_target_": "os.system", "command": "touch executed"}, "x": "$__import__('os').abort()"}
    files = {
        "configs/metadata.json": json.dumps({"name": "lungs", "version": "0.1.2", **config}).encode(),
        "configs/inference.json": json.dumps(config).encode(),
        "docs/README.md": b"about lungs",
        f"models/{name}": weights,
        **{key.replace("__", "/"): value for key, value in more.items()},
    }
    for place, data in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zipped(folder: Path, within: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for place in sorted(folder.rglob("*")):
            archive.write(place, f"{within}{place.relative_to(folder)}")
    return path


def started(weights: Path, **changes: Any) -> tuple[Study, Float32]:
    study, initial = new_study(
        StudyOptions(**{**STUDY, "seed": 0, "start_weights": read_weights(weights), **changes})
    )
    return study, from_safetensors(initial, study.model.tensors)


def file_of(tmp_path: Path, data: bytes, name: str = "weights.pt") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


WAYS: dict[str, Callable[[Path, Weights], Path]] = {
    "folder": lambda place, w: bundle(place / "b", saved(w)),
    "zip": lambda place, w: zipped(bundle(place / "b", saved(w))),
    "zip with a folder": lambda place, w: zipped(bundle(place / "b", saved(w)), "lungs/"),
    "bundle of safetensors": lambda place, w: bundle(
        place / "b", safetensors.torch.save(w), "model.safetensors", models__model__ts=b"a program"
    ),
    "safetensors": lambda place, w: file_of(place, safetensors.torch.save(w), "w.safetensors"),
    "state dict": lambda place, w: file_of(place, saved(w)),
    "checkpoint": lambda place, w: file_of(place, saved({"state_dict": w, "epoch": 3})),
    "data parallel": lambda place, w: file_of(place, saved({f"module.{k}": v for k, v in w.items()})),
    "float64": lambda place, w: file_of(place, saved({k: v.double() for k, v in w.items()})),
    "with batch statistics": lambda place, w: file_of(
        place,
        saved({**w, "net.norm.running_mean": torch.ones(4), "net.norm.num_batches_tracked": torch.tensor(3)}),
    ),
}


@pytest.mark.parametrize("way", leading(WAYS, 5))
def test_a_study_starts_from_the_weights_of_a_bundle_or_file(way: str, tmp_path: Path) -> None:
    weights = trained()
    study, vector = started(WAYS[way](tmp_path, weights))
    network = build_model(study)
    load_vector(network, vector)
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())


def test_no_configuration_is_ever_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_weights(bundle(tmp_path / "b", saved(trained())))
    assert found.name == "b: lungs 0.1.2"
    assert not (tmp_path / "executed").exists()


class Runs:
    """Unpickled the usual way it would write a file."""

    def __reduce__(self) -> Any:
        return (open, ("executed", "w"))


def scripted() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("model/data.pkl", "model/constants.pkl", "model/code/__torch__.py"):
            archive.writestr(name, b"")
    return data.getvalue()


def unnamed(place: Path, weights: Weights) -> Path:
    bundle(place / "b", saved(weights)).joinpath("configs/metadata.json").unlink()
    return place / "b"


def bad_metadata(place: Path, weights: Weights) -> Path:
    bundle(place / "b", saved(weights)).joinpath("configs/metadata.json").write_text("[1, 2")
    return place / "b"


BAD: dict[str, tuple[Callable[[Path, Weights], Path], str]] = {
    "pickle with code": (lambda p, w: file_of(p, saved({**w, "x": Runs()})), "code executed"),
    "whole network": (lambda p, w: file_of(p, saved(torch.nn.Linear(1, 1))), "code executed"),
    "TorchScript": (lambda p, w: file_of(p, scripted(), "model.ts"), "TorchScript, which is a program"),
    "bundle of TorchScript": (lambda p, w: bundle(p / "b", scripted(), "model.ts"), "TorchScript"),
    "TorchScript called .pt": (lambda p, w: bundle(p / "b", scripted()), "TorchScript"),
    "bundle with scripts": (
        lambda p, w: bundle(p / "b", saved(w), **{"scripts__net.py": b"print()"}),
        "carries code .scripts/net.py",
    ),
    "two files": (
        lambda p, w: bundle(p / "b", saved(w), "a.pt", **{"models__b.pt": saved(w)}),
        "several files of weights",
    ),
    "no weights": (lambda p, w: bundle(p / "b", b"", "model.onnx"), "no weights"),
    "no metadata": (unnamed, "no MONAI Bundle"),
    "damaged metadata": (bad_metadata, "not JSON"),
    "cut short": (lambda p, w: file_of(p, saved(w)[:-200]), "damaged|executed"),
    "cut safetensors": (lambda p, w: file_of(p, safetensors.torch.save(w)[:-9]), "not a whole safetensors"),
    "empty": (lambda p, w: file_of(p, b""), "damaged"),
    "noise": (lambda p, w: file_of(p, b"\xff" * 99), "damaged|executed"),
    "a list": (lambda p, w: file_of(p, saved([1, 2])), "no tensors by name"),
    "an empty state": (lambda p, w: file_of(p, saved({})), "empty"),
    "a picture": (lambda p, w: file_of(p, b"\x89PNG\r\n\x1a\n" + b"\0" * 64), "damaged|executed"),
    "sparse": (lambda p, w: file_of(p, saved({**w, "s": torch.eye(3).to_sparse()})), "no plain array"),
    "not finite": (
        lambda p, w: file_of(p, saved({k: v * float("nan") for k, v in w.items()})),
        "not of finite",
    ),
    "whole numbers": (lambda p, w: file_of(p, saved({k: v.long() for k, v in w.items()})), "not of finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_weights_that_are_damaged_or_a_program_are_named_and_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = BAD[kind]
    with pytest.raises(BadStartWeights, match=said) as caught:
        started(make(tmp_path, trained()))
    assert caught.value.code == "bad-start-weights"
    assert not (tmp_path / "executed").exists()


def test_a_bundle_of_links_is_read_as_a_cache_of_downloads_keeps_it(tmp_path: Path) -> None:
    weights = trained()
    folder = bundle(tmp_path / "b", b"")
    (tmp_path / "blob").write_bytes(saved(weights))
    (folder / "models/model.pt").unlink()
    (folder / "models/model.pt").symlink_to(tmp_path / "blob")
    assert set(read_weights(folder).tensors) == set(weights)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(tmp_path / "b", saved(trained()))
    monkeypatch.setattr("medveil_imaging.weight_files.MAX_BYTES", 10_000)
    with pytest.raises(BadStartWeights, match="larger than 2 GB"):
        read_weights(zipped(folder))
    with pytest.raises(BadStartWeights, match="larger than 2 GB"):
        read_weights(folder)


def test_another_head_fits_only_where_that_is_said_and_is_told(tmp_path: Path) -> None:
    weights = {**trained(outputs=5), "extra.weight": torch.zeros(2)}
    path = file_of(tmp_path, saved(weights))
    with pytest.raises(
        BadStartWeights, match=r"has shape \(5, .*wanted: \(1, .*'extra.weight' is unknown"
    ) as caught:
        started(path)
    assert "--partial-start" in str(caught.value)
    study, vector = started(path, partial_start=True)
    network = build_model(study)
    load_vector(network, vector)
    taken = {name for name, value in network.named_parameters() if torch.equal(value, weights[name])}
    lines = "\n".join(start_lines(study, read_weights(path)))
    assert f"{len(taken)} tensors taken, not used: " in lines
    assert "extra.weight" in lines
    assert "begin afresh: " in lines
    heads = {name for name, value in network.named_parameters() if value.shape != weights[name].shape}
    assert heads
    assert taken == set(weights) - heads - {"extra.weight"}


def test_weights_of_another_network_are_refused_even_in_part(tmp_path: Path) -> None:
    path = file_of(tmp_path, saved({"encoder.weight": torch.ones(3)}))
    with pytest.raises(BadStartWeights, match="0 of the network's"):
        started(path, partial_start=True)


def test_a_weight_under_two_names_in_the_file_is_no_stranger(tmp_path: Path) -> None:
    weights = trained()
    first = next(iter(weights))
    network = build("monai:Classifier", FILM, OPTIONS)
    fit = start_from(
        network, read_weights(file_of(tmp_path, saved({**weights, "again": weights[first]}))), partly=False
    )
    assert fit.fresh == ()
    assert fit.left == ("again",)


def test_frozen_start_weights_reach_hospitals_as_a_file_that_the_study_names(tmp_path: Path) -> None:
    path = file_of(tmp_path, saved(trained()))
    study, vector = started(path, options={**OPTIONS, "adapters": 1})
    assert len(vector) < 0.8 * new_study(StudyOptions(**STUDY, seed=0))[0].trained_weights
    lines = hand_on_frozen(study, tmp_path)
    copied = tmp_path / f"{study.model.options[BASE]}.safetensors"
    assert copied.name in lines[0]
    names = set(safetensors.torch.load(copied.read_bytes()))
    assert names
    assert not names & {tensor.name for tensor in study.model.tensors.root}
    assert hand_on_frozen(new_study(StudyOptions(**STUDY))[0], tmp_path) == []


def test_what_is_frozen_must_come_from_somewhere() -> None:
    with pytest.raises(BadModel, match="SHA-256"):
        new_study(StudyOptions(**{**STUDY, "options": {**OPTIONS, "adapters": 1}}))


def test_start_weights_and_named_frozen_weights_exclude_each_other(tmp_path: Path) -> None:
    options = {**OPTIONS, "adapters": 1, BASE: "a" * 64}
    with pytest.raises(BadModel, match="start weights are given"):
        started(file_of(tmp_path, saved(trained())), options=options)


def test_two_studies_from_one_file_differ_and_hardly(tmp_path: Path) -> None:
    path = file_of(tmp_path, saved(trained()))
    (first, a), (second, b) = (started(path, seed=None) for _ in range(2))
    assert first.model.initial_model != second.model.initial_model
    assert 0 < np.abs(a - b).max() <= 2 * starts.FRESH / 100
    assert CENTRE not in {tensor.name for tensor in first.model.tensors.root}


def test_the_command_tells_what_was_taken_and_what_is_frozen(tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(app)
    path = bundle(tmp_path / "b", saved(trained(outputs=5)))
    arguments = ["study", "new", "--name", "films", "--task", "classification", "--profile", "xray"]
    arguments += ["--hospitals", "3", "--model", "monai:Classifier", "--option", "channels=4-8"]
    arguments += ["--option", "adapters=1", "--size", "32x32", "--patients", "300", "--anyway"]
    arguments += ["--start-weights", str(path), "--partial-start", "-o", str(tmp_path / "study")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "start    b: lungs 0.1.2: " in result.output
    assert "settings general ones to begin with, not measured" in result.output
    assert len(list((tmp_path / "study").glob("*.safetensors"))) == 2


# ---- the trial of a network that is not shipped ----


def one_study(**changes: Any) -> Study:
    return new_study(StudyOptions(**{**STUDY, **changes}))[0]


def test_a_network_of_another_kind_than_the_task_is_refused() -> None:
    with pytest.raises(UnfitNetwork, match=r"gives \(1, 32, 32\) where the task wants \(1,\)"):
        one_study(model="monai:UNet")


class Mixing(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images.flatten(1))
        return logits - logits.mean(0)


class Drawing(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(images.flatten(1)))


class Remembering(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images.sum()
        self.register_buffer("last", images.detach().mean(), persistent=False)
        return super().forward(images.flatten(1))


class Overflowing(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1)) / 0


class Deaf(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1)).detach() + 0 * self.weight.sum()


FAULTS: list[tuple[type[torch.nn.Linear], str]] = [
    (Mixing, "depend on the other images"),
    (Drawing, "other logits the next time"),
    (Remembering, "stores something"),
    (Overflowing, "not finite"),
    (Deaf, "is zero"),
]


@pytest.mark.parametrize(("kind", "said"), FAULTS)
def test_a_network_that_breaks_the_contract_is_refused_when_the_study_is_made(
    kind: type[torch.nn.Linear], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MODELS["small_cnn"]  # the folder is read first
    entries: dict[str, Any] = MODELS._entries
    monkeypatch.setitem(entries, "planted", lambda shape, options: kind(32 * 32, 1))
    with pytest.raises(UnfitNetwork, match=said) as caught:
        one_study(model="planted", options={})
    assert "planted" in str(caught.value)


@pytest.mark.slow
def test_a_fit_network_passes_the_trial_also_for_volumes() -> None:
    prove(one_study(model="mobilenet", options={"width": 0.25}, size=(32, 32)))
    volumes = {"task": "segmentation", "profile": "mri", "size": (16, 16, 16), "privacy": "local"}
    study = one_study(
        **volumes, model="monai:UNet", options={"channels": "4-8-8"}, patients_hint=5000, anyway=True
    )
    assert study.trained_weights > 0
