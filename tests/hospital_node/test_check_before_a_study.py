"""Images are checked before there is a study, a plan or a node: read as the kind, counted by class, drawn."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from browser import barriers, browser, shown, too_wide
from dicom_files import NAME
from hospital_node.cli import app
from hospital_node.preview import drawn
from hospital_node.profile_check import checked, question_for
from hospital_node.settings import NoNode
from medveil.errors import BadOption, UnknownName
from medveil_imaging import cache
from medveil_imaging.sources.balance import doubts
from trees import dicom, films, volume

Run = Callable[..., Result]


def write(folder: Path, *lines: dict[str, Any]) -> Path:
    """``manifest.csv`` with these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder


def line(number: int, split: str, **more: Any) -> dict[str, Any]:
    return {"image": f"film-{number}.png", "patient_id": f"secret-{number}", "split": split} | more


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Six films of two classes by name; one file is no picture, one class has no test patient."""
    folder = tmp_path / "site"
    kinds = ("normal", "sick", "normal", "sick", "normal", "normal")
    splits = ("train", "train", "train", "train", "test", "val")
    films(folder, *(f"film-{k}.png" for k in range(6)))
    (folder / "film-2.png").write_bytes(b"no picture")
    return write(folder, *(line(k, splits[k], label=kinds[k], age=40 + k) for k in range(6)))


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(app, ["check", *map(str, words)])


def test_a_folder_is_checked_before_there_is_a_node(run: Run, site: Path) -> None:
    answer = run("--data", site, "--profile", "xray")
    assert answer.exit_code == 1
    said = " ".join(answer.output.split())
    for words in (
        "xray images; classification",
        "film-2.png",
        "memory 0.5 GB",
        "a pass of small_cnn",
    ):
        assert words in said, words
    assert "No test patient is of the class sick: it is measured on no image here." in said
    assert re.search(r"train │ 3 │ 3 │ 1 │ 2", said)
    assert "secret" not in said


def test_a_number_is_learned_where_it_is_named(run: Run, site: Path) -> None:
    answer = run("--data", site, "--profile", "xray", "--target", "age")
    assert "40 to 43, median 41" in answer.output
    assert "labels-from-one" not in answer.output
    assert isinstance(run("--data", site, "--profile", "xray", "--target", "bmi").exception, BadOption)


def test_images_without_labels_can_be_checked(run: Run, tmp_path: Path) -> None:
    folder = films(tmp_path / "site", "film-0.png", "film-1.png")
    answer = run("--data", write(folder, line(0, "train"), line(1, "test")), "--profile", "xray")
    assert answer.exit_code == 0
    assert "the manifest does not say what they show" in answer.output
    assert "one-class" not in answer.output


def test_label_maps_are_counted_by_structure(tmp_path: Path) -> None:
    lines = []
    for number, split in enumerate(("train", "train", "test")):
        volume(tmp_path / f"v{number}.nii.gz", number)
        volume(tmp_path / f"m{number}.nii.gz", number, labels=True)
        lines.append(line(number, split) | {"image": f"v{number}.nii.gz", "label_map": f"m{number}.nii.gz"})
    with checked(write(tmp_path, *lines), question_for(tmp_path, "mri")) as found:
        assert found.counts.classes == {"train": {"structure 1": 2}, "test": {"structure 1": 1}}


def test_channels_are_the_columns_that_name_files(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz", 1)
    volume(tmp_path / "b.nii.gz", 2)
    write(tmp_path, {"flair": "a.nii.gz", "t1w": "b.nii.gz", "patient_id": "P", "split": "train", "label": 0})
    question = question_for(tmp_path, "mri")
    assert question.study.transforms.channels == ("flair", "t1w")
    with checked(tmp_path, question) as found:
        assert found.counts.images == {"train": 1, "val": 0, "test": 0}


def test_too_many_images_for_memory_are_sealed_and_go(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with checked(site, question_for(site, "xray")) as found:
        assert found.counts.classes["train"] == {"normal": 1, "sick": 2}
        assert found.effort.disk_bytes > 0
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_what_an_operator_should_think_about() -> None:
    classes = {"train": {"a": 60, "b": 40}, "test": {"a": 9}}
    assert doubts(classes, {"train": 100, "val": 0, "test": 9}) == [
        "No test patient is of the class b: it is measured on no image here."
    ]
    assert len(doubts({"train": {"a": 9}}, {"train": 9, "val": 0, "test": 0})) == 3
    assert any("below 50" in one for one in doubts({}, {"train": 49, "test": 9}))
    assert any("nothing can be trained" in one for one in doubts({}, {"train": 0, "test": 9}))


def test_what_was_mistyped_is_named(run: Run, site: Path, tmp_path: Path) -> None:
    assert isinstance(run("--data", site, "--profile", "xrai").exception, UnknownName)
    assert isinstance(run("--data", site).exception, BadOption)
    assert isinstance(run("--profile", "xray", "--folder", tmp_path / "none").exception, NoNode)
    write(site, *(line(k, "train", label=f"{k}.5") for k in range(70)))
    assert isinstance(run("--data", site, "--profile", "xray").exception, BadOption)


def test_planes_are_hung_as_films_are(tmp_path: Path) -> None:
    head = torch.zeros(1, 96, 96, 96)
    head[0, 80:, 40:56, 40:56] = 1.0  # on the patient's right
    head[0, 40:56, 80:, 40:56] = 0.7  # in front
    axial = drawn(head)[:, :96, 0]
    assert axial[48, 5] > 200  # right is left
    assert axial[5, 48] > 200  # front is up
    assert max(axial[48, 90], axial[90, 48]) < 50
    outlined = np.zeros((96, 96, 96), np.int64)
    outlined[20:30, 20:30, 60:70] = 1
    assert (drawn(head, outlined) == (0, 158, 115)).all(-1).any()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The preview of DICOM films with identities, in files whose names tell them."""
    folder = tmp_path_factory.mktemp("site")
    lines = []
    for number in range(6):
        dicom(folder / f"{NAME}-{number}.dcm", f"PAT-471{number}")
        split = ("train", "train", "train", "test", "test", "val")[number]
        lines.append(line(number, split, label=number % 2) | {"image": f"{NAME}-{number}.dcm"})
    write(folder, *lines, line(9, "train", label=0))
    path = folder.parent / "preview.html"
    answer = CliRunner().invoke(
        app, ["check", "--data", str(folder), "--profile", "xray", "--preview", str(path)]
    )
    assert answer.exit_code == 1, answer.output
    return path.read_text(), path


def test_the_preview_is_private_and_names_nobody(page: tuple[str, Path]) -> None:
    html, path = page
    assert path.stat().st_mode & 0o777 == 0o600
    words = re.sub(r"data:image/png;base64,[^\"']*", "data:image/png", html)  # letters by chance
    for identity in (NAME, "Quillfeather", "Ottoline", "4710", "secret", "film-9", ".dcm", str(path.parent)):
        assert identity not in words, identity
    assert html.count("data:image/png") == 6
    assert "missing-file" in html
    assert "for the eyes of this hospital" in " ".join(html.split())
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_preview_is_for_every_window_and_everybody(
    page: tuple[str, Path], window: Any, width: int, scheme: str
) -> None:
    with shown(window, page[0], width=width, scheme=scheme) as seen:
        assert too_wide(seen) == []
        assert barriers(seen) == []
        assert seen.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
