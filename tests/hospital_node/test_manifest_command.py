"""``medveil node manifest``: shown before it is written, written whole, never over another one unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from folders import write_folder
from hospital_node.cli import app
from hospital_node.manifests import ManifestThere, NothingToList, SeveralSites
from hospital_node.patients_key import FILE
from medveil.errors import BadFile, BadOption, UnknownName
from medveil.shown import NotConfirmed
from trees import films as make_films

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Types the command; the node's folder is ``node`` in the test's."""

    def typed(*words: str, **how: Any) -> Result:
        return CliRunner().invoke(app, ["manifest", *words, "--folder", str(tmp_path / "node")], **how)

    return typed


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two classes of three patients with two films each."""
    names = [
        f"{kind}/person{number}{place}_virus_{image}.png"
        for place, kind in enumerate(("sick", "normal"))
        for number in range(3)
        for image in range(2)
    ]
    return make_films(tmp_path / "films", *names)


def test_it_shows_counts_and_writes_when_it_is_told_to(run: Run, films: Path, tmp_path: Path) -> None:
    answer = run(str(films), "--yes")
    assert answer.exit_code == 0, answer.output
    for words in ("a folder for each class", "from the folders: normal, sick", "normal ┃ sick", "│ all   │"):
        assert words in answer.output
    written = films / "manifest.csv"
    assert written.read_text().startswith(
        "image,patient_id,split,label\nnormal/person01_virus_0.png,person01,"
    )
    assert len(written.read_text().splitlines()) == 13
    assert written.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "node").iterdir()] == [FILE]
    assert sorted(path.name for path in films.iterdir()) == ["manifest.csv", "normal", "sick"]


def test_without_a_word_nothing_is_written(run: Run, films: Path, tmp_path: Path) -> None:
    assert run(str(films), "--dry-run").exit_code == 0
    assert not (tmp_path / "node").exists()
    assert isinstance(run(str(films)).exception, NotConfirmed)
    assert not (films / "manifest.csv").exists()


def test_a_manifest_that_is_there_is_named_kept_and_its_splits_hold(run: Run, films: Path) -> None:
    run(str(films), "--yes")
    before = (films / "manifest.csv").read_text()
    moved = "\n".join(
        line.replace(",train,", ",test,") if "person01" in line else line for line in before.splitlines()
    )
    (films / "manifest.csv").write_text(moved)
    answer = run(str(films), "--yes")
    assert isinstance(answer.exception, ManifestThere)
    assert "a manifest with 12 lines; against it 0 patients are new and 0 gone" in " ".join(
        answer.output.split()
    )
    assert (films / "manifest.csv").read_text() == moved
    assert run(str(films), "--yes", "--replace").exit_code == 0
    assert (films / "manifest.csv").read_text().splitlines() == moved.splitlines()
    assert (films / "manifest.csv.old").read_text() == moved


def test_a_disk_that_takes_nothing_leaves_the_old_one(
    run: Run, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (films.parent / "node").mkdir(mode=0o700)
    (films.parent / "node" / FILE).write_bytes(bytes(32))
    answer = run(str(films), "--yes")
    assert isinstance(answer.exception, BadFile)
    assert "No space left" in answer.exception.what
    assert not (films / "manifest.csv").exists()


def test_several_sites_below_are_not_made_one(run: Run, films: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "films" / "other")
    answer = run(str(films), "--yes")
    assert isinstance(answer.exception, SeveralSites)
    assert "other" in answer.exception.what


def test_what_cannot_be_done_is_named(run: Run, films: Path, tmp_path: Path) -> None:
    assert isinstance(run(str(tmp_path / "nowhere")).exception, BadFile)
    assert isinstance(run(str(films), "--from", "bid").exception, UnknownName)
    assert isinstance(run(str(films), "--patient-pattern", "(").exception, BadOption)
    assert isinstance(run(str(films), "--labels", str(films / "none.csv")).exception, BadFile)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/letter.txt").write_text("hello")
    answer = run(str(tmp_path / "empty"), "--yes")
    assert isinstance(answer.exception, NothingToList)
    assert "letter.txt" in answer.output


def test_names_of_files_cannot_paint_the_screen(run: Run, tmp_path: Path) -> None:
    for kind in ("a", "[red]b[/red]\x1b[2J"):
        make_films(tmp_path / "in", f"{kind}/0.png", f"{kind}/1.png")
    (tmp_path / "in/\x1b[31mjunk").write_text("x")
    answer = run(str(tmp_path / "in"), "--dry-run")
    assert answer.exit_code == 0
    assert "\x1b" not in answer.output
    assert "[red]b[/red]" in answer.output
