"""``medveil study new --persons``: the study names the consortium's file; one that is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keepers import new_keys, public
from medveil.cli import root_app
from medveil.errors import BadFile, BadOption
from medveil.handed import read_json, written
from medveil.ids import fingerprint
from medveil.persons import Persons
from medveil.study import read_study

FILMS = (
    "study new --name films --task classification --profile xray --hospitals 3 --model small_cnn --size 32x32"
)


@pytest.fixture(scope="module")
def persons() -> Persons:
    keepers = tuple(public(name, new_keys()) for name in ("east", "west"))
    return Persons(name="north", identifier="NHS number", keepers=keepers)


def made(folder: Path, file: Path, *more: str) -> tuple[str, BaseException | None]:
    """What ``study new`` prints, and how it ends."""
    words = [*FILMS.split(), "--persons", str(file), "-o", str(folder / "study"), *more]
    done = CliRunner().invoke(root_app(["study"]), words)
    return done.output, done.exception


def test_the_study_names_the_persons_file_and_its_author_is_told_what_to_compare(
    persons: Persons, tmp_path: Path
) -> None:
    file = tmp_path / "persons.json"
    file.write_bytes(written(persons))
    said, failed = made(tmp_path, file)
    assert failed is None, said
    assert read_study(tmp_path / "study" / "study.toml").cohort.persons == persons.hash.hex()
    assert "NHS number to the keepers east, west" in said
    assert fingerprint(persons.hash) in said


def without(*path: str | int, to: Any) -> Any:
    """A change of the file as it is written."""

    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to(content) if callable(to) else to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("keepers", to=lambda c: c["keepers"][:1]), "keepers: .* at least 2"),
        (without("keepers", 1, "name", to="east"), "two keepers have the same name"),
        (without("keepers", 1, "evaluation", to=lambda c: c["keepers"][0]["evaluation"]), "same evaluation"),
        (without("keepers", 1, "evaluation", to="02" + "ff" * 32), "of 'west' is no point of P-256"),
        (without("keepers", 0, "sealing", to="00" * 32), "of 'east' is no key of X25519"),
        (without("keepers", 0, "name", to="https://east.example.org"), "keepers.0.name"),
        (without("identifier", to=""), "identifier"),
    ],
    ids=["one", "name twice", "key twice", "off the curve", "small order", "an address", "nothing"],
)
def test_a_persons_file_that_nobody_could_keep_is_refused(
    persons: Persons, tmp_path: Path, change: Any, said: str
) -> None:
    content = json.loads(written(persons))
    change(content)
    file = tmp_path / "persons.json"
    file.write_text(json.dumps(content))
    with pytest.raises(BadFile, match=rf"persons\.json.*{said}"):
        read_json(file, Persons)


def test_without_noise_or_with_a_file_that_is_none_no_study_is_written(
    persons: Persons, tmp_path: Path
) -> None:
    file = tmp_path / "persons.json"
    file.write_bytes(written(persons))
    _, failed = made(tmp_path, file, "--privacy", "none")
    assert isinstance(failed, BadOption)
    assert "--privacy local or joint" in str(failed)
    file.write_bytes(file.read_bytes().replace(b'"west"', b'"east"'))
    _, failed = made(tmp_path, file)
    assert isinstance(failed, BadFile)
    assert "two keepers have the same name" in str(failed)
    assert not (tmp_path / "study").exists()
