"""Every shipped template explains its choices and makes a study that a node can read and price."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hospital_node.governance import check_plan
from hospital_node.settings import NodeSettings, Policy
from medveil.errors import BadOption
from medveil.identity import Identity
from medveil.shown import is_plain
from medveil.study import Study, read_study
from medveil_research.cli import register
from medveil_research.templates import Template, templates
from tries import leading
from world import make_plan

SHIPPED = templates()
HOSPITALS = [Identity.generate(f"hospital-{i}") for i in range(1, 7)]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    root = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(root)
    return root


def run(app: typer.Typer, *words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def made(app: typer.Typer, folder: Path, *words: str) -> Study:
    assert run(app, "study", "new", *words, "-o", folder / "study").exit_code == 0
    return read_study(folder / "study" / "study.toml")


def test_the_command_lists_them_and_shows_one_as_it_is(app: typer.Typer) -> None:
    assert set(SHIPPED) == {
        "brain-age", "film-outlines", "findings", "hippocampus", "mnist", "xray-classification"
    }  # fmt: skip
    listed = run(app, "study", "templates").output
    assert all(name in listed for name in SHIPPED)
    shown = run(app, "study", "templates", "mnist").output
    assert shown.split() == SHIPPED["mnist"].text.split()  # a terminal breaks long lines


@pytest.mark.parametrize("template", SHIPPED.values(), ids=str)
def test_every_choice_has_its_reason_in_the_line_above(template: Template) -> None:
    lines = template.text.splitlines()
    choices = [i for i, line in enumerate(lines) if re.match(r"[a-z_]+ = ", line) and "about" not in line[:5]]
    assert len(choices) == len(template.options)
    assert all(lines[i - 1].startswith("# ") and lines[i - 1].rstrip().endswith(".") for i in choices)
    assert is_plain(template.about)
    assert max(map(len, lines)) <= 130


@pytest.mark.parametrize("name", leading(SHIPPED, 3))
def test_a_study_from_it_can_be_read_and_priced_by_a_node(
    app: typer.Typer, tmp_path: Path, name: str
) -> None:
    study, options = made(app, tmp_path, "--template", name), SHIPPED[name].options
    told = study.name, study.task, study.transforms.profile, study.privacy.kind
    assert told == tuple(options[key] for key in ("name", "task", "profile", "privacy"))
    plan = make_plan(HOSPITALS[: options["hospitals"]], study)
    noised = options["privacy"] != "none"
    policy = Policy(allow_no_privacy=not noised, epsilon_cap=8.0, count_joint_noise=True)
    node = NodeSettings(
        name="hospital-1", aggregator="https://here", data=tmp_path, dataset="images", policy=policy
    )
    price = check_plan(plan, node, HOSPITALS[0])
    assert (price is not None) == noised


def test_what_is_given_beside_a_template_counts_more(app: typer.Typer, tmp_path: Path) -> None:
    words = ("--template", "xray-classification", "--name", "films", "--epsilon", "3", "--hospitals", "4")
    study = made(app, tmp_path, *words, "--privacy", "local")
    assert (study.name, study.privacy.kind, study.classes) == ("films", "local", ("normal", "opacity"))
    assert study.privacy.kind == "local"
    assert study.privacy.epsilon == 3.0


def test_noise_that_is_asked_for_is_not_lost_to_a_template_without(app: typer.Typer, tmp_path: Path) -> None:
    study = made(app, tmp_path, "--template", "mnist", "--privacy", "local", "--model", "small_cnn")
    assert study.privacy.kind == "local"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--template", "nothing"], "there is none called 'nothing'; there are brain-age, "),
        (["--name", "films"], "--task and --profile and --hospitals must be given, or a template"),
    ],
)
def test_an_unknown_template_and_a_study_without_its_four_words_are_refused(
    app: typer.Typer, tmp_path: Path, words: list[str], problem: str
) -> None:
    with pytest.raises(BadOption, match=re.escape(problem)):
        made(app, tmp_path, *words)
    assert not (tmp_path / "study").exists()
