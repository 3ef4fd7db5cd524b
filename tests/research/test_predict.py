"""A prediction says what the network says, puts outlines where they belong, and goes on after a bad file."""

from __future__ import annotations

import csv
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from dicom_files import NAME, block, series_folder
from handed_models import command, fetched
from medveil.errors import BadOption
from medveil.study import Study, Target
from medveil.tensors import from_safetensors
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film, read_volume
from medveil_imaging.sources.readers import in_this_process
from medveil_imaging.transforms import film_transform
from medveil_research.fetching import TargetExists
from medveil_research.prediction.cases import cases_in
from medveil_research.prediction.findings import said_of
from medveil_research.prediction.networks import Judging
from medveil_research.prediction.run import Predicted, Wish, predict
from medveil_research.programs import network_of
from medveil_research.studies import StudyOptions, new_study

FILMS: dict[str, Any] = {"task": "classification", "profile": "xray", "model": "small_cnn", "size": (32, 32)}
HEADS: dict[str, Any] = {"task": "segmentation", "profile": "mri", "model": "unet3d", "size": (32, 32, 32)}


def study_of(**options: Any) -> tuple[Study, Any]:
    usual: dict[str, Any] = {"name": "seen", "privacy": "none", "hospitals": 3, "seed": 1, "anyway": True}
    study, initial = new_study(StudyOptions(**(usual | options)))
    return study, from_safetensors(initial, study.model.tensors)


def bright(threshold: float) -> Any:
    """Stands for a network that outlines what is brighter than a threshold: what it sees is known then."""

    def judge(images: torch.Tensor) -> torch.Tensor:
        value = images[:, :1] - threshold
        return torch.cat([-value, value], 1)

    return judge


def judged(model: Judging, given: Path, output: Path, **wish: Any) -> list[Predicted]:
    return predict(model, cases_in([given], model.study), output, Wish(**wish), readers=in_this_process)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def films() -> Judging:
    study, vector = study_of(**FILMS)
    moved = vector + np.random.default_rng(0).normal(0, 0.2, vector.shape).astype(np.float32)
    return Judging(study, "ab" * 32, network_of(study, moved), "torch")


def film(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 40), dtype=np.uint8)).save(path)
    return path


def test_a_film_gets_the_probability_that_the_network_gives_it(films: Judging, tmp_path: Path) -> None:
    paths = [film(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate(("b", "a", "c"))]
    done = judged(films, tmp_path / "in", tmp_path / "out", threshold=0.5)
    prepare = film_transform(films.study.transforms)
    for row, path in zip(rows_of(tmp_path / "out"), sorted(paths), strict=True):
        wanted = float(films.judge(prepare(read_film(path))[None]).sigmoid())
        assert row["image"] == path.name
        assert float(row["positive"]) == pytest.approx(wanted, rel=1e-5)
        assert row["class"] == ("positive" if wanted >= 0.5 else "negative")
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (told["version"], told["research_only"], len(told["cases"])) == ("ab" * 32, True, 3)
    assert [one.problem for one in done] == [None] * 3


def test_a_threshold_decides_and_leaves_the_probability_alone(films: Judging, tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.png")
    for threshold, verdict in ((0.0, "positive"), (1.0, "negative")):
        judged(films, tmp_path / "in", tmp_path / f"out{threshold}", threshold=threshold)
        assert rows_of(tmp_path / f"out{threshold}")[0]["class"] == verdict


def test_a_bad_file_is_listed_by_name_and_the_rest_goes_on(films: Judging, tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (tmp_path / "in" / "notes.txt").write_text("thorax")
    film(tmp_path / "in" / "deep" / "z.png", 3)
    judged(films, tmp_path / "in", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["image"] for row in rows] == ["a.png", "b.png", "notes.txt", "deep/z.png"]
    assert [bool(row["positive"]) for row in rows] == [True, False, False, True]
    assert "unknown-format" in rows[2]["problem"]


def test_what_is_written_is_its_owners_alone_and_called_by_numbers(films: Judging, tmp_path: Path) -> None:
    study, _ = study_of(**HEADS)
    head(tmp_path / "in" / f"{NAME}.nii.gz")
    judged(Judging(study, "ab" * 32, bright(0.0), "torch"), tmp_path / "in", tmp_path / "out")
    written = list((tmp_path / "out").rglob("*"))
    assert {p.relative_to(tmp_path / "out").as_posix() for p in written} == {
        "predictions.csv",
        "predictions.json",
        "outlines",
        "outlines/0001.nii.gz",
    }
    assert {stat.S_IMODE(p.stat().st_mode) for p in written if p.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_a_target_that_is_there_is_refused_and_an_interrupted_run_leaves_nothing(
    films: Judging, tmp_path: Path
) -> None:
    film(tmp_path / "in" / "a.png")
    (tmp_path / "mine").mkdir()
    with pytest.raises(TargetExists, match="mine"):
        judged(films, tmp_path / "in", tmp_path / "mine")

    def stopped(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(Judging(films.study, "ab" * 32, stopped, "torch"), tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "mine"]


def test_a_cell_that_a_spreadsheet_would_compute_is_text(films: Judging, tmp_path: Path) -> None:
    film(tmp_path / "in" / "=SUM(A1).png")
    judged(films, tmp_path / "in", tmp_path / "out")
    assert rows_of(tmp_path / "out")[0]["image"] == "'=SUM(A1).png"


OBLIQUE = np.array([[0.1, -1.4, 0.0, 30], [1.2, 0.1, 0.1, -20], [0.0, 0.1, -1.1, 14], [0, 0, 0, 1.0]])


def head(path: Path, affine: Any = OBLIQUE, shape: tuple[int, ...] = (26, 22, 24)) -> Path:
    """A bright ellipsoid beside the middle of a darker one; no half of it is like another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, edge) for edge in shape), indexing="ij")
    voxels = 100.0 * (x**2 + y**2 + z**2 < 0.9) + x + 2 * y + 3 * z
    voxels[(x - 0.2) ** 2 / 0.2 + (y + 0.1) ** 2 / 0.3 + (z - 0.1) ** 2 / 0.15 < 1.2] = 400
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


@pytest.mark.parametrize("way", ["whole", "by patches", "by slices"])
def test_an_outline_lies_on_the_volume_it_was_made_of(way: str, tmp_path: Path) -> None:
    options = HEADS | ({"patches": 1} if way == "by patches" else {})
    if way == "by slices":
        options = HEADS | {"profile": "mri_slices", "model": "monai:UNet", "size": (48, 48)}
        options |= {"options": {"channels": "4-8"}}
    study, _ = study_of(**options)
    path = head(tmp_path / "in" / "a.nii.gz")
    voxels = np.asarray(nibabel.load(path).dataobj)
    edge = float((325 - voxels.mean()) / voxels.std())  # of the scale that the network sees
    done = judged(Judging(study, "ab" * 32, bright(edge), "torch"), tmp_path / "in", tmp_path / "out")
    given, found = nibabel.load(path), nibabel.load(tmp_path / "out" / "outlines" / "0001.nii.gz")
    assert np.allclose(found.affine, given.affine, atol=1e-5)
    truth, labels = voxels == 400, np.asarray(found.dataobj) == 1
    assert labels.shape == truth.shape
    dice = 2 * (truth & labels).sum() / (truth.sum() + labels.sum())
    assert dice > (0.75 if way == "by slices" else 0.93)  # slices are 4 mm apart; the rest is interpolation
    middles = [np.argwhere(part).mean(0) for part in (truth, labels)]
    assert np.abs(middles[0] - middles[1]).max() < (0.8 if way == "by slices" else 0.3)
    (one,) = done
    assert one.said is not None
    volume_ml = labels.sum() * abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    assert one.said.values[study.classes[1]] == pytest.approx(volume_ml)


def test_on_the_studys_own_grid_the_outline_is_exact_voxel_for_voxel(tmp_path: Path) -> None:
    study, _ = study_of(**HEADS)
    turned = np.array([[0, -1.0, 0, 9], [1.0, 0, 0, -7], [0, 0, -1.0, 5], [0, 0, 0, 1.0]])
    path = head(tmp_path / "in" / "a.nii.gz", turned, (30, 41, 27))  # cropped along one axis, padded on two
    judged(Judging(study, "ab" * 32, bright(1.2), "torch"), tmp_path / "in", tmp_path / "out")
    truth = np.asarray(nibabel.load(path).dataobj) == 400
    labels = np.asarray(nibabel.load(tmp_path / "out" / "outlines" / "0001.nii.gz").dataobj) == 1
    assert np.array_equal(truth, labels)


def test_an_outlined_film_gets_a_map_of_its_own_size(tmp_path: Path) -> None:
    options = FILMS | {"task": "segmentation", "model": "monai:UNet", "options": {"channels": "4-8"}}
    study, _ = study_of(**options)
    pixels = np.zeros((90, 70), np.uint8)
    pixels[20:50, 30:60] = 200
    pixels[0, 0] = 1
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    judged(Judging(study, "ab" * 32, bright(0.5), "torch"), tmp_path / "in", tmp_path / "out")
    labels = np.asarray(Image.open(tmp_path / "out" / "outlines" / "0001.png"))
    assert labels.shape == pixels.shape
    overlap = ((labels == 1) & (pixels == 200)).sum()
    assert 2 * overlap / ((labels == 1).sum() + 900) > 0.93


def test_numbers_and_findings_are_read_from_logits_as_the_evaluation_reads_them() -> None:
    age = Target(column="age", unit="years", low=20, high=80)
    study, _ = study_of(**FILMS | {"task": "regression", "target": age})
    said = said_of(study, torch.tensor([[0.0], [1.0]]), 0.5)
    assert said.values == {"age": pytest.approx(65.0)}  # the mean of 50 and 80 years
    assert said_of(study, torch.tensor([[9.0]]), 0.5).values["age"] == 80  # cut to the range
    study, _ = study_of(**FILMS | {"task": "findings", "classes": ("oedema", "mass")})
    said = said_of(study, torch.tensor([[math.log(3), -2.0]]), 0.7)
    assert said.values["oedema"] == pytest.approx(0.75)
    assert said.verdicts == {"oedema": "yes", "mass": "no"}
    with pytest.raises(Unusable, match="finite"):
        said_of(study, torch.tensor([[math.nan, 0.0]]), 0.5)


def test_several_classes_have_probabilities_that_add_up(tmp_path: Path) -> None:
    study, _ = study_of(**FILMS | {"classes": ("a", "b", "c")})
    said = said_of(study, torch.tensor([[0.0, math.log(2), math.log(5)]]), 0.5)
    assert said.values == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8})
    assert said.verdicts == {"class": "c"}


def test_a_folder_of_slices_is_one_volume_and_a_manifest_says_what_is_an_image(tmp_path: Path) -> None:
    study, _ = study_of(**HEADS)
    series_folder(tmp_path / "in" / "s1", block())
    head(tmp_path / "in" / "b.nii.gz")
    assert [case.name for case in cases_in([tmp_path / "in"], study)] == ["b.nii.gz", "s1"]
    assert [case.name for case in cases_in([tmp_path / "in" / "s1"], study)] == ["s1"]
    (tmp_path / "in" / "manifest.csv").write_text("image,patient_id,split\ns1,p1,test\nno.nii,p2,test\n")
    first, second = cases_in([tmp_path / "in"], study)
    assert (first.paths, first.problem) == ((tmp_path / "in" / "s1",), None)
    assert second.problem is not None
    with pytest.raises(BadOption, match="not there"):
        cases_in([tmp_path / "nowhere"], study)


def test_sequences_in_one_folder_are_channels_of_one_volume(tmp_path: Path) -> None:
    study, _ = study_of(**HEADS | {"channels": ("t1", "flair")})
    for name in ("p1_flair.nii.gz", "p1_t1.nii.gz"):
        head(tmp_path / "in" / "p1" / name)
    (case,) = cases_in([tmp_path / "in"], study)
    assert [path.name for path in case.paths] == ["p1_t1.nii.gz", "p1_flair.nii.gz"]  # the study's order


@pytest.mark.slow  # it loads highdicom
def test_the_dicom_objects_of_a_series_are_read_back_equal(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    from medveil_research.prediction.dicom_objects import About, Number, outline_object, report_object

    def whole(header: Any, number: int) -> None:
        header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2.9", "1.2.8"

    folder = series_folder(tmp_path / "s", block(), whole)
    volume = read_volume(folder)
    labels = (volume.voxels > 600).astype(np.uint8) + (volume.voxels > 1200)
    about = About("heads", "ab" * 32, "0.1.0", ("head", "tail"))
    (tmp_path / "a.dcm").write_bytes(outline_object([folder], labels.astype(np.uint8), volume.affine, about))
    found = highdicom.seg.segread(tmp_path / "a.dcm")
    assert found.SegmentationType == "BINARY"
    assert found.SeriesDescription.startswith("RESEARCH ONLY")
    assert str(found.PatientName) == NAME  # a viewer files it with its patient
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(folder.iterdir())]
    frames = found.get_pixels_by_source_instance(uids, combine_segments=True)
    assert np.array_equal(np.transpose(frames, (2, 1, 0)), labels)
    told = report_object([folder], [Number("age", 61.25, "years")], [("class", "old")], about)
    (tmp_path / "b.dcm").write_bytes(told)
    report = pydicom.dcmread(tmp_path / "b.dcm")
    assert report.SeriesDescription.startswith("RESEARCH ONLY")
    values = str(report)
    assert "61.25" in values
    assert "old" in values
    assert "Imaging Measurement Report" in values


@pytest.mark.slow
def test_dicom_in_gives_dicom_out_from_a_confined_process(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")

    def whole(header: Any, number: int) -> None:
        header.StudyInstanceUID = "1.2.9"  # and no frame of reference, as anonymisers leave it

    study, _ = study_of(**HEADS | {"size": (16, 16, 16)})
    series_folder(tmp_path / "in" / "good", block(), whole)
    series_folder(tmp_path / "in" / "poor", block())  # no study: nothing to file an object under
    done = judged(
        Judging(study, "ab" * 32, bright(0.5), "torch"), tmp_path / "in", tmp_path / "out", dicom=True
    )
    assert [len(one.files) for one in done] == [2, 1]
    assert "StudyInstanceUID" in done[1].missing[0]
    path = tmp_path / "out" / "dicom" / "0001-seg.dcm"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = highdicom.seg.segread(path)
    labels = np.asarray(nibabel.load(tmp_path / "out" / "outlines" / "0001.nii.gz").dataobj)
    import pydicom

    uids = [pydicom.dcmread(p).SOPInstanceUID for p in sorted((tmp_path / "in" / "good").iterdir())]
    frames = found.get_pixels_by_source_instance(uids, combine_segments=True, relabel=False)
    assert np.array_equal(np.transpose(frames, (2, 1, 0)), labels)


@pytest.mark.slow
def test_onnx_says_what_torch_says_by_the_command(tmp_path: Path) -> None:
    folder = fetched(tmp_path / "films")
    for k in range(3):
        film(tmp_path / "in" / f"{k}.png", k)
    onnx, images = str(tmp_path / "onnx"), str(tmp_path / "in")
    assert command("export", str(folder), "--format", "onnx", "-o", onnx, "--unsigned")[0] == 0
    for name in ("films", "onnx"):
        code, said = command("predict", str(tmp_path / name), images, "-o", str(tmp_path / f"{name}-out"))
        assert (code, "judged   3 of 3" in said) == (0, True)
    torch_rows, onnx_rows = rows_of(tmp_path / "films-out"), rows_of(tmp_path / "onnx-out")
    for one, other in zip(torch_rows, onnx_rows, strict=True):
        assert float(one["positive"]) == pytest.approx(float(other["positive"]), abs=1e-4)
    assert os.listdir(tmp_path / "onnx-out") == os.listdir(tmp_path / "films-out")
