"""A plan has one name: the words that the admin reads out are those that every command prints and takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.admin import NoPlan, set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.cli import app
from aggregator.settings import Settings, load
from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.shown import is_plain
from medveil.spoken import NotAFingerprint, spoken
from medveil.tensors import to_safetensors
from medveil_research.study_file import to_toml
from world import SPEC, START, make_study

FULL = "Films [ward A], see [1]. Ends [/ward]."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An aggregator with three hospitals, a researcher and a study file."""
    set_up_aggregator(Settings(tmp_path / "aggregator"))
    store = open_store(load(tmp_path / "aggregator"))
    for name in ("h1", "h2", "h3", "anna"):
        role = "researcher" if name == "anna" else "hospital"
        store.register.add_token(f"token-{name}", name=name, role=role, expires=1e12)
        store.register.enrol(
            f"token-{name}", name=name, public_key=Identity.generate(name).public_key, now=0.0
        )
    store.close()
    (tmp_path / "study [1].toml").write_text(to_toml(make_study(description=FULL)), encoding="utf-8")
    (tmp_path / "initial.safetensors").write_bytes(to_safetensors(START, SPEC))
    return tmp_path


def run(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--folder", str(folder / "aggregator")])
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split())


def created(folder: Path) -> tuple[str, str]:
    """What 'study create' printed, and the plan's words."""
    initial = str(folder / "initial.safetensors")
    told = run(folder, "study", "create", str(folder / "study [1].toml"), "--initial", initial)
    store = open_store(load(folder / "aggregator"))
    ((plan, _, _),) = store.plans.all()
    store.close()
    return told, spoken(plan.hash)


def test_create_status_and_grant_speak_of_a_plan_by_the_same_words(folder: Path) -> None:
    told, words = created(folder)
    status = run(folder, "study", "status")
    assert f"words {words} hash" in told
    assert f"words {words} hash" in status
    number = status.split("hash ")[1].split()[0]
    assert len(number) == 64
    assert words in run(folder, "people", "grant", "anna", words.upper())
    assert words in run(folder, "people", "grant", "anna", number, "--withdraw")
    assert " ".join(words.split()[:3]) not in run(folder, "people", "list")
    assert words in run(folder, "people", "grant", "anna", "tiny")
    run(folder, "people", "grant", "anna", "tiny", "--withdraw")
    run(folder, "people", "grant", "anna", number[:8])
    assert " ".join(words.split()[:3]) in run(folder, "people", "list")


@pytest.mark.parametrize(
    ("typed", "error"),
    [("de94de94", NoPlan), ("zoo " * 12, NoPlan), ("de94", NotAFingerprint), ("[/]\x1b[2J", NotAFingerprint)],
)
def test_what_names_no_plan_is_refused_in_words(folder: Path, typed: str, error: type[Exception]) -> None:
    created(folder)
    with pytest.raises(error) as refused:
        run(folder, "people", "grant", "anna", typed)
    assert is_plain(refused.value.what)  # type: ignore[attr-defined]


def test_a_study_whose_author_writes_control_characters_never_becomes_a_plan(folder: Path) -> None:
    path = folder / "study [1].toml"
    path.write_text(path.read_text().replace(FULL, "a\\u001b[2Jb"))
    with pytest.raises(BadFile, match=r"study \[1\]\.toml cannot be used: .*cannot be shown"):
        created(folder)
    assert "words" not in run(folder, "study", "status")
