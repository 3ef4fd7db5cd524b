"""Every line of a manifest ends as an image or as one named problem; nothing crashes, nothing leaks."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medveil.study import Study
from medveil_imaging.sources.site import SiteData, read_site

MakeStudy = Callable[..., Study]
WriteManifest = Callable[..., Path]


def film(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def volume(path: Path, voxels: Any, affine: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def line(image: str, patient: str = "P1", label: Any = 0, split: str = "train") -> dict[str, Any]:
    return {"image": image, "patient_id": patient, "label": label, "split": split}


def codes(site: SiteData) -> list[tuple[int | None, str]]:
    return [(problem.row, problem.code) for problem in site.problems]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for number in range(6):
        film(tmp_path / "site" / f"{number}.png", number)
    return tmp_path / "site"


def test_patients_come_sorted_with_their_images_as_listed(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(
        line("3.png", "B", 1), line("0.png", "A", 0), line("1.png", "B", 0), line("2.png", "C", 1, "test")
    )
    site = read_site(films, make_study())
    assert site.name == "site"
    assert site.problems == ()
    assert [(p.patient, p.labels.tolist()) for p in site.train] == [("a", [0]), ("b", [1, 0])]
    assert [p.patient for p in site.test] == ["c"]
    assert site.train[1].images.shape == (2, 1, 16, 16)
    assert site.train[1].images.dtype == torch.float32
    assert site.train[1].labels.dtype == torch.int64


def test_a_pseudonym_is_in_no_repr_and_no_problem(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(line("0.png", "Zzyzx"), line("1.png", "Zzyzx", split="val"), line("2.png", "Zzyzx", 9))
    site = read_site(films, make_study())
    assert len(site.problems) == 4
    assert "Zzyzx" not in repr(site) + repr(site.problems) + repr(site.train)


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("missing-file", line("9.png")),
        ("outside-folder", line("../secret.png")),
        ("outside-folder", line("sub/../../secret.png")),
        ("outside-folder", line("/etc/passwd")),
        ("outside-folder", line("link.png")),
        ("outside-folder", line(".")),
        ("no-path", line(" ")),
        ("bad-path", line("a" * 5000)),
        ("bad-path", line("a" * 300)),
        ("bad-path", line("a\0b")),
        ("no-patient", line("1.png", " ")),
        ("bad-split", line("1.png", split="trian")),
        ("bad-split", line("1.png", split="")),
        ("bad-label", line("1.png", label=2)),
        ("bad-label", line("1.png", label=-1)),
        ("bad-label", line("1.png", label="unusual")),
        ("bad-label", line("1.png", label="")),
        ("bad-label", line("1.png", label="1.5")),
        ("listed-twice", line("0.png", label=0)),
        ("empty-file", line("empty.png")),
        ("folder", line("folder")),
    ],
)
def test_a_bad_line_is_one_problem_and_the_rest_goes_on(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest, code: str, bad: dict[str, Any]
) -> None:
    film(films.parent / "secret.png")
    (films / "link.png").symlink_to(films.parent / "secret.png")
    (films / "empty.png").touch()
    (films / "folder").mkdir()
    write_manifest(line("0.png"), bad, line("2.png", "P2", 1))
    site = read_site(films, make_study())
    assert codes(site) == [(3, code)]
    assert site.problems[0].severity == "error"
    assert [len(p) for p in site.train] == [1, 1]


def test_a_patient_in_two_splits_is_not_used_at_all(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(
        line("0.png", "A"),
        line("1.png", "B", 1),
        line("2.png", "A", split="test"),
        line("missing.png", "C", split="val"),
        line("3.png", "A", 1),
    )
    site = read_site(films, make_study())
    assert [p.patient for p in site.train] == ["b"]
    assert site.test == ()
    assert [c for c in codes(site) if c[1] == "patient-in-two-splits"] == [
        (row, "patient-in-two-splits") for row in (2, 4, 6)
    ]


def test_one_image_with_two_labels_of_a_patient_is_not_used_at_all(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(line("1.png", "C", 0), line("./1.png", "c", 1))
    site = read_site(films, make_study())
    assert [code for _, code in codes(site)] == ["no-training-patients", *["contradicting-lines"] * 2]


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("missing-columns", b""),
        ("missing-columns", b"image,patient_id,label\n0.png,A,0\n"),
        ("duplicate-columns", b"image,image,patient_id,label,split\n0.png,0.png,A,0,train\n"),
        ("bad-manifest", b'image,patient_id,label,split,"\n0.png,A,0,train,1\n'),
        ("bad-manifest", b"image,patient_id,label,split," + b"a" * 70_000 + b"\n0.png,A,0,train,1\n"),
        ("missing-file", b"image,patient_id,label,split\n\xff\xfe,A,0,train\n"),
        ("no-patient", b"image,patient_id,label,split\n0.png,1.23457E+11,0,train\n"),
    ],
)
def test_a_malformed_manifest_is_a_problem_not_a_crash(
    films: Path, make_study: MakeStudy, code: str, content: bytes
) -> None:
    (films / "manifest.csv").write_bytes(content)
    site = read_site(films, make_study())
    assert {c for _, c in codes(site)} == {code, "no-training-patients"}
    assert site.train == ()


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("bad-line", b"2.png,C"),
        ("bad-line", b"2.png,C,0,train,extra"),
        ("bad-line", b'"2.png,C,0,train'),
        ("bad-line", b'"2.png"s,C,0,train'),
        ("long-line", b'"' + b"a" * 200_000 + b'",C,0,train'),
        ("not-utf-8", b"2.png,M\xfcller,0,train"),
        ("not-utf-8", "2.png,M\N{REPLACEMENT CHARACTER}ller,0,train".encode()),
    ],
)
def test_of_a_manifest_that_cannot_be_read_whole_nothing_is_used_and_each_bad_line_is_named(
    films: Path, make_study: MakeStudy, code: str, bad: bytes
) -> None:
    good = b"image,patient_id,label,split\r\n0.png,A,0,train\r\n1.png,B,1,train\r\n,,,\r\n"
    (films / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + good + bad + b"\r\n3.png,D,0,train\r\n" + bad)
    site = read_site(films, make_study())
    assert site.train == ()
    assert codes(site) == [(None, "half-manifest"), (None, "no-training-patients"), (5, code), (7, code)]
    assert "2 line(s)" in site.problems[0].reason


def test_an_empty_or_absent_folder_is_a_problem(tmp_path: Path, make_study: MakeStudy) -> None:
    site = read_site(tmp_path / "nowhere", make_study())
    assert [(p.code, p.severity) for p in site.problems] == [
        ("no-manifest", "error"),
        ("no-training-patients", "error"),
    ]


def test_a_site_with_one_class_is_used_with_a_warning(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(line("0.png", "A", 1), line("1.png", "B", 1), line("2.png", "C", 0, "val"))
    site = read_site(films, make_study())
    assert [(p.code, p.severity) for p in site.problems] == [("one-class", "warning")]
    assert len(site.train) == 2


def outlined(image: str, label_map: str, patient: str = "P1") -> dict[str, Any]:
    return {"image": image, "label_map": label_map, "patient_id": patient, "split": "train"}


LABELS = np.zeros((10, 12, 14), np.uint8)
LABELS[2:5, 2:5, 2:5], LABELS[6:9, 6:9, 6:9] = 1, 2
VOXELS = (LABELS * 50 + np.random.default_rng(0).integers(0, 20, LABELS.shape)).astype(np.int16)
MOVED = np.eye(4) + 30 * np.eye(4, k=3)


@pytest.mark.parametrize(
    ("code", "labels", "affine"),
    [
        ("label-map-shape", LABELS[:-1], None),
        ("label-map-place", LABELS, MOVED),
        ("label-map-place", LABELS, np.diag([-1.0, 1, 1, 1])),
        ("undeclared-class", np.where(LABELS == 2, 3, LABELS).astype(np.uint8), None),
        ("undeclared-class", np.where(LABELS == 2, -1, LABELS).astype(np.int16), None),
        ("label-map-values", LABELS * np.float32(0.5), None),
        ("label-map-values", np.where(LABELS == 2, np.nan, LABELS).astype(np.float32), None),
        ("wrong-dimensions", np.stack([LABELS] * 2, 3), None),
    ],
)
def test_a_label_map_that_does_not_fit_refuses_the_pair(
    tmp_path: Path,
    make_study: MakeStudy,
    write_manifest: WriteManifest,
    code: str,
    labels: Any,
    affine: Any,
) -> None:
    site_folder = tmp_path / "site"
    volume(site_folder / "a.nii.gz", VOXELS)
    volume(site_folder / "good.nii.gz", LABELS)
    volume(site_folder / "b.nii.gz", VOXELS + 1)
    volume(site_folder / "bad.nii.gz", labels, affine)
    write_manifest(outlined("a.nii.gz", "good.nii.gz"), outlined("b.nii.gz", "bad.nii.gz"))
    site = read_site(site_folder, make_study("mri", "segmentation"))
    assert codes(site) == [(3, code)]
    assert site.train[0].labels.shape == (1, 16, 16, 16)
    assert site.train[0].labels.unique().tolist() == [0, 1, 2]


def test_warnings_do_not_cost_a_volume(
    tmp_path: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    site_folder = tmp_path / "site"
    volume(site_folder / "a.nii.gz", VOXELS)
    volume(site_folder / "empty.nii.gz", np.zeros_like(LABELS))
    volume(site_folder / "b.nii.gz", np.tile(VOXELS, (1, 1, 3)))
    volume(site_folder / "long.nii.gz", np.tile(LABELS, (1, 1, 3)))
    write_manifest(outlined("a.nii.gz", "empty.nii.gz"), outlined("b.nii.gz", "long.nii.gz"))
    site = read_site(site_folder, make_study("mri", "segmentation"))
    assert [(p.row, p.code, p.severity) for p in site.problems] == [
        (2, "empty-label-map", "warning"),
        (3, "structure-cut", "warning"),
    ]
    assert len(site.train[0]) == 2


def test_spoiled_volumes_are_problems(
    tmp_path: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    folder = tmp_path / "site"
    volume(folder / "good.nii.gz", VOXELS)
    volume(folder / "four.nii.gz", np.stack([VOXELS] * 2, 3))
    volume(folder / "nan.nii.gz", np.where(LABELS == 1, np.nan, VOXELS).astype(np.float32))
    volume(folder / "constant.nii.gz", np.ones_like(VOXELS))
    whole = (folder / "good.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "short.nii").write_bytes(gzip.decompress(whole)[:-5])
    names = ("four.nii.gz", "nan.nii.gz", "constant.nii.gz", "cut.nii.gz", "short.nii")
    write_manifest(line("good.nii.gz"), *(line(name, f"P{name}", 1) for name in names))
    site = read_site(folder, make_study("mri"))
    assert [code for row, code in codes(site) if row] == [
        "wrong-dimensions",
        "not-finite",
        "constant-image",
        "unreadable-file",
        "cut-short",
    ]
    assert len(site.train) == 1


def test_a_failure_inside_a_transform_is_a_problem_too(
    films: Path, make_study: MakeStudy, write_manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(line("0.png"))

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("geometry that no library can use")

    monkeypatch.setattr("torch.nn.functional.interpolate", broken)
    assert (2, "unusable-image") in codes(read_site(films, make_study()))
