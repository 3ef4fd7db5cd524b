"""The commands of a researcher at a consortium: what they print, where they write, how they end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from door import Door
from medveil.errors import BadFile
from medveil_research.cli import register
from medveil_research.consortium import NoSuchStudy
from medveil_research.fetching import TargetExists
from medveil_research.results import read_result
from medveil_research.shared_study import NotEvaluated
from researchers import ADDRESS, Line, authority, enrolled, reaching, study_world, token
from world import play


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: object) -> str:
    """What a command prints, as one line."""
    root = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(root)
    done = CliRunner().invoke(root, ["research", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_who_came_late_is_told_what_is_missing_and_the_admins_line(
    door: Door, line: Line, tmp_path: Path
) -> None:
    pem, used = authority(tmp_path), token(door.world, "late")
    said = run("enroll", used, "--name", "late", "--aggregator", ADDRESS, "--authority", pem)
    assert "No study is open to late yet" in said
    assert "medveil aggregator people grant late STUDY" in said
    assert "medveil aggregator people grant late films" in run("ask", "films")
    assert '"abandon ability able about"' in run("ask", "abandon ability able about")
    assert "medveil aggregator people grant late STUDY" in run("studies")
    with pytest.raises(NoSuchStudy) as refused:
        run("watch", "films")
    assert refused.value.remedy.endswith("medveil aggregator people grant late films")
    door.service.register.grant(door.world.plan.id, "late")
    assert "open to late already" in run("ask", "films")
    assert "films" in run("studies")


def test_studies_are_listed_for_people_and_for_programs(folder: Path, line: Line, door: Door) -> None:
    said = run("studies", "--folder", folder)
    assert door.world.plan.id[:8] in said
    assert "finished" in said
    (row,) = json.loads(run("studies", "--folder", folder, "--json"))
    assert (row["study"], row["plan"], row["rounds"]) == ("films", door.world.plan.id, 3)
    assert row["low"] < row["figure"] < row["high"]


def test_a_finished_study_is_watched_at_once_a_line_for_each_round(folder: Path, line: Line) -> None:
    said = run("watch", "--folder", folder)
    places = [said.index(f"round {number} of 3") for number in (1, 2, 3)]
    assert places == sorted(places)
    assert "3 of 3 hospitals" in said
    assert "AUROC 0." in said[said.index("finished") :]


def test_a_study_that_ends_without_figures_says_so_and_keeps_the_rest(tmp_path: Path) -> None:
    with study_world(tmp_path / "aggregator") as (world, sites):
        play(world, sites, until=lambda: len(world.status["attempts"]) == 2)
        with reaching(Door(world)):
            where = enrolled(world, tmp_path, "anna").folder
            world.store.register.grant(world.plan.id, "anna")
            with pytest.raises(NotEvaluated):
                run("report", "films", "--folder", where, "--json", "result.json")
        assert "films" in Path("films-report.html").read_text()
        assert read_result(Path("result.json")).rounds[1].round == 2
        world.store.plans.finish(world.plan.id)
        world.restart()
        with reaching(Door(world)):
            with pytest.raises(NotEvaluated, match="ended before its last round"):
                run("watch", "films", "--folder", where)
            assert "version 2" in run("fetch", "films", "--folder", where)


def test_a_model_is_fetched_into_a_folder_that_evaluation_takes(folder: Path, line: Line) -> None:
    said = run("fetch", "films", "--version", "1", "--folder", folder)
    assert "films version 1" in said
    assert "medveil research evaluate --model films-version-1 --data" in said
    with pytest.raises(TargetExists):
        run("fetch", "films", "--version", "1", "--folder", folder)


def test_curves_are_written_once_and_replaced_on_demand(folder: Path, line: Line) -> None:
    run("curves", "films", "--folder", folder)
    with open("films-rounds.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    with pytest.raises(TargetExists, match="films-rounds"):
        run("curves", "films", "--folder", folder)
    run("curves", "films", "--folder", folder, "--replace")


def test_the_report_of_a_study_comes_from_the_aggregator_alone(folder: Path, line: Line, door: Door) -> None:
    run("report", "--folder", folder, "--json", "result.json", "--patients", 20)
    page = Path("films-report.html").read_text(encoding="utf-8")
    assert door.world.plan.id[:12] in page
    run("report", "result.json", "-o", "again.html")
    assert Path("again.html").read_text(encoding="utf-8") == page
    with pytest.raises(TargetExists):
        run("report", "result.json", "-o", "again.html")
    run("report", "result.json", "-o", "again.html", "--replace")
    with pytest.raises(BadFile):
        run("report", "nowhere.json")
