"""An exported model computes elsewhere what it computes here: in MONAI alone, and in onnxruntime.

All of it is slow: torch follows each network's code, which takes seconds.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from medveil.study import Study, Target
from medveil.tensors import from_safetensors
from medveil_imaging.models import build_model, load_vector
from medveil_imaging.sources.read import read_film, read_volume
from medveil_imaging.transforms import film_transform, volume_transform
from medveil_imaging.weight_files import read_weights
from medveil_research.bundle_metadata import metadata_of
from medveil_research.export import export
from medveil_research.export.onnx import Session
from medveil_research.finished import Finished
from medveil_research.hand_on import hand_on
from medveil_research.preprocessing import steps_of
from medveil_research.programs import CLOSE, NotExportable, network_of, trial_images
from medveil_research.studies import StudyOptions, new_study

pytestmark = pytest.mark.slow
PLAN = "ab" * 32
AGE = Target(column="age", unit="years", low=18, high=90)
FILMS: dict[str, Any] = {"task": "classification", "profile": "xray", "size": (32, 32)}
HEADS: dict[str, Any] = {"task": "segmentation", "profile": "mri", "size": (16, 16, 16)}
STUDIES: dict[str, dict[str, Any]] = {
    "small_cnn": FILMS,
    "wavelet_head": FILMS,
    "monai:DenseNet": FILMS | {"options": {"init_features": 8, "growth_rate": 4, "block_config": "2-2"}},
    "monai:ViT": FILMS | {"options": {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}},
    "mobilenet": FILMS | {"profile": "picture", "options": {"width": 0.25}},
    "unet3d": HEADS,
    "position_head": HEADS,
    "monai:SegResNet": HEADS | {"options": {"blocks_down": "1-1", "blocks_up": "1"}},
    "densenet121": FILMS | {"size": (64, 64)},
}


def made(model: str, **changes: Any) -> Finished:
    usual: dict[str, Any] = {"name": "abroad", "model": model, "privacy": "none", "hospitals": 3, "seed": 1}
    study, initial = new_study(StudyOptions(**(usual | STUDIES.get(model, {}) | {"anyway": True} | changes)))
    start = from_safetensors(initial, study.model.tensors)
    weights = start + np.random.default_rng(0).normal(0, 0.05, start.shape).astype(np.float32)
    return Finished(study, PLAN, weights, epsilon=None, rounds=3, figures={"auroc": 0.9})


def here(finished: Finished) -> torch.nn.Module:
    network = build_model(finished.study)
    load_vector(network, finished.weights)
    return network.eval()


@pytest.mark.parametrize("model", STUDIES)
def test_onnx_gives_the_logits_of_torch_for_batches_of_any_size(model: str, tmp_path: Path) -> None:
    finished = made(model)
    path, card = export("onnx", finished, tmp_path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session, network = Session(path.read_bytes(), threads=2), here(finished)
    chance = torch.Generator().manual_seed(7)
    for count in (1, 2, 5):
        images = torch.randn(count, *trial_images(finished.study).shape[1:], generator=chance)
        with torch.no_grad():
            wanted = network(images)
        found = session(images)
        assert found.shape == wanted.shape
        assert float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max()) <= CLOSE
    told = json.loads(card.read_text())
    assert told["preprocessing"] == steps_of(finished.study)
    assert told["onnx"]["difference"] <= CLOSE
    written = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert written["medveil.version"] == finished.version
    assert str(Path.cwd()).encode() not in path.read_bytes()  # no word of this machine


def test_equal_models_give_equal_onnx_files(tmp_path: Path) -> None:
    finished = made("small_cnn")
    first, again = (export("onnx", finished, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == again


def test_a_network_that_onnx_has_no_words_for_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    finished = made("depth_head", task="regression", profile="brain", target=AGE, size=(24, 24, 24))
    for form in ("onnx", "bundle"):
        with pytest.raises(NotExportable, match="depth_head"):
            hand_on(form, finished, tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def run_bundle(root: Path, images: Path, output: Path) -> None:
    """MONAI's own command, offline, in a process for which MedVeil does not exist."""
    program = (
        "import sys; sys.path[:] = [p for p in sys.path if 'platform' not in p]\n"
        "for name in ('medveil', 'medveil_imaging', 'medveil_research'): sys.modules[name] = None\n"
        "sys.argv = ['monai.bundle', 'run', '--config_file', sys.argv[1] + '/configs/inference.json',\n"
        "    '--bundle_root', sys.argv[1], '--dataset_dir', sys.argv[2], '--output_dir', sys.argv[3]]\n"
        "import runpy; runpy.run_module('monai.bundle', run_name='__main__')"
    )
    settings = os.environ | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    given = [sys.executable, "-c", program, str(root), str(images), str(output)]
    done = subprocess.run(given, capture_output=True, text=True, env=settings, cwd=output.parent, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def films(folder: Path, count: int = 3, colour: bool = False) -> list[Path]:
    folder.mkdir()
    random, paths = np.random.default_rng(0), []
    for k in range(count):
        shape = (50 + k, 40, 3) if colour else (50 + k, 40)
        paths.append(folder / f"{k}.png")
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("model", ["wavelet_head", "monai:DenseNet"])
def test_monai_alone_predicts_from_a_bundle_what_medveil_predicts(model: str, tmp_path: Path) -> None:
    finished = made(model)
    export("bundle", finished, tmp_path / "bundle")
    paths = films(tmp_path / "images")
    run_bundle(tmp_path / "bundle", tmp_path / "images", tmp_path / "out")
    prepare, network = film_transform(finished.study.transforms), here(finished)
    with torch.no_grad():
        wanted = [float(network(prepare(read_film(path))[None]).sigmoid()) for path in paths]
    with (tmp_path / "out" / "predictions.csv").open() as file:
        found = {Path(row[0]).name: float(row[1]) for row in csv.reader(file)}
    assert found == pytest.approx({p.name: value for p, value in zip(paths, wanted, strict=True)}, abs=1e-4)


def head(path: Path, shape: tuple[int, int, int], seed: int = 0) -> Path:
    """An ellipsoid with structure, in voxels and axes of its own."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, edge) for edge in shape), indexing="ij"))
    inside = (places**2).sum(0) < 0.9
    texture = np.random.default_rng(seed).normal(0, 30, shape)
    voxels = np.where(inside, 300 + 200 * places[0] + 100 * places[1] + texture, 0).astype(np.float32)
    affine = np.array([[0, -1.5, 0, 20], [1.2, 0, 0, -15], [0, 0, -1.1, 9], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize("patches", [0, 1])
def test_a_bundle_outlines_on_the_volumes_own_grid(patches: int, tmp_path: Path) -> None:
    finished = made("unet3d", patches=patches)
    export("bundle", finished, tmp_path / "bundle")
    (tmp_path / "images").mkdir()
    path = head(tmp_path / "images" / "a.nii.gz", (26, 22, 30))
    run_bundle(tmp_path / "bundle", tmp_path / "images", tmp_path / "out")
    given, outline = nibabel.load(path), nibabel.load(tmp_path / "out" / "a_outline.nii.gz")
    assert outline.shape == given.shape
    assert np.allclose(outline.affine, given.affine, atol=1e-4)
    found = np.asarray(outline.dataobj)
    assert set(np.unique(found)) <= {0, 1, 2}
    assert found.max() > 0
    if not patches:  # what the network made of the middle of the volume, voxel for voxel of the study's grid
        with torch.no_grad():
            seen = here(finished)(volume_transform(finished.study.transforms)(read_volume(path))[None])
        assert set(np.unique(found)) <= {0, *seen.argmax(1).unique().tolist()}


def test_bundle_out_is_bundle_in(tmp_path: Path) -> None:
    finished = made("monai:DenseNet")
    hand_on("bundle", finished, tmp_path / "bundle", None)
    study, initial = new_study(
        StudyOptions(
            name="again",
            model="monai:DenseNet",
            privacy="none",
            hospitals=3,
            seed=5,
            start_weights=read_weights(tmp_path / "bundle"),
            **STUDIES["monai:DenseNet"],
        )
    )
    assert np.array_equal(from_safetensors(initial, study.model.tensors), finished.weights)


DEMANDED = frozenset(
    """
    schema version monai_version pytorch_version numpy_version required_packages_version
    task description authors copyright network_data_format
    """.split()
)
"""What MONAI's schema demands of a bundle's metadata."""
OF_A_TENSOR = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
}
"""What it demands of each input and output of its network, and of which kind it is."""


@pytest.mark.parametrize("model", STUDIES)
def test_the_metadata_has_what_monais_schema_demands(model: str) -> None:
    told = metadata_of(made(model))
    assert told.keys() >= DEMANDED
    assert all(
        isinstance(told[name], str)
        for name in DEMANDED
        if name.endswith(("version", "task", "authors")) and "packages" not in name
    )
    network = told["network_data_format"]
    for tensor in (*network["inputs"].values(), *network["outputs"].values()):
        assert {name: type(tensor[name]) for name in OF_A_TENSOR} == OF_A_TENSOR
        assert all(isinstance(size, int | str) for size in tensor["spatial_shape"])


def test_the_metadata_satisfies_monais_own_schema() -> None:
    """Held against MONAI's file where MEDVEIL_MONAI_SCHEMA names a copy of it."""
    given = os.environ.get("MEDVEIL_MONAI_SCHEMA")
    if not given:
        pytest.skip("MEDVEIL_MONAI_SCHEMA names no copy of meta_schema_20240725.json")
    schema = json.loads(Path(given).read_text())
    for model in STUDIES:
        jsonschema.validate(metadata_of(made(model)), schema)


def test_monai_finds_that_network_and_metadata_of_a_bundle_agree(tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    export("bundle", made("monai:DenseNet"), tmp_path)
    configs = tmp_path / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(tmp_path),
    )


def test_the_study_of_an_export_has_the_phantom_that_it_was_checked_with() -> None:
    for model in ("small_cnn", "unet3d"):
        study: Study = made(model).study
        images = trial_images(study)
        assert images.shape == (4, 1, *study.transforms.size)
        assert network_of(study, made(model).weights)(images).isfinite().all()
