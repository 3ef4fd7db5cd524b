"""What the admin sees at the terminal of studies and hospitals, and says of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from unittest.mock import patch

import pytest
from click.testing import Result
from typer.testing import CliRunner

from aggregator import cli_watching
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.directives import WordRefused
from aggregator.watching import live
from aggregator.watching.values import Heard, Live
from medveil.errors import BadOption
from medveil.messages import Refusal
from medveil.plan import sign_refusal
from medveil.shown import NotConfirmed
from world import World, finish, make_sites, play

Build = Callable[..., World]


def ask(world: World, *typed: str, columns: int = 80) -> Result:
    world.admin.save(world.folder / "admin.key") if not (world.folder / "admin.key").exists() else None
    Settings(world.folder).save()
    with patch.object(cli_watching.screen._console, "_width", columns):  # whatever COLUMNS was at the import
        return CliRunner().invoke(app, [*typed, "--folder", str(world.folder)])


def shown(world: World, *typed: str, columns: int = 80) -> str:
    result = ask(world, *typed, columns=columns)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_study_is_watched_to_its_end_a_line_for_each_change(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(training={"rounds": 1, "local_steps": 1, "learning_rate": 1.0})
    world.wall = time.time
    world.restart()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "commit")

    def pause(_: float) -> None:
        """One hospital moves at each look."""
        for site in sites:
            if site.act():
                break
        world.coordinator.tick()

    monkeypatch.setattr(cli_watching.time, "sleep", pause)
    lines = shown(world, "study", "watch").splitlines()
    assert "commit 0/3 (needs 3)  waits for hospital-1, hospital-2, hospital-3" in lines[0]
    assert "commit 1/3 (needs 3)  waits for hospital-2, hospital-3" in lines[1]
    assert sum("done, 3 of 3 hospitals" in line for line in lines) == 2
    assert lines[-1] == "tiny finished: The study is over and waits for nothing."
    assert len(lines) == len(set(lines))


def test_a_watched_study_is_told_to_programs_as_json(build: Build) -> None:
    world = build(training={"rounds": 1, "local_steps": 1, "learning_rate": 1.0})
    finish(world, make_sites(world))
    told = [json.loads(line) for line in shown(world, "study", "watch", "--json").splitlines()]
    assert [one["ended"]["round"] for one in told[:-1]] == [1, 2]
    assert told[-1]["study"]["state"] == "finished"
    assert told[-1]["timeline"]["outcome"] == "done"
    whole = json.loads(shown(world, "study", "show", "--json"))
    assert whole["plan"] == world.plan.id


def test_a_study_is_shown_with_who_refused_and_why_in_80_columns(build: Build) -> None:
    world = build(hospitals=4, approvals=2)
    who, why = world.identities[3], "not with this consent form [red]now[/red]"
    signature = sign_refusal(world.plan, who, "refused", why)
    told = Refusal(kind="refused", reason=why, signature=signature)
    world.coordinator.intake.refuse(world.plan.id, who.name, told)
    text = shown(world, "study", "show")
    assert max(map(len, text.splitlines())) <= 80
    assert f"refused by hospital-4, 2023-11-14: {why}" in text
    assert "The study waits for 1 more approval" in " ".join(text.split())


@pytest.mark.parametrize("columns", [80, 50])
def test_hospitals_fit_the_terminal_and_say_when_nothing_is_live(build: Build, columns: int) -> None:
    world = build()
    heard = Heard(at=time.time() - 200, version="0.1.0", clock_s=-31.0, certificate_until=time.time() + 9.6e5)
    told = Live(written=time.time(), started=1.0, pid=1, hospitals={"hospital-1": heard})
    live.write(world.folder, told)
    text = shown(world, "hospitals", columns=columns)
    assert max(map(len, text.splitlines()[:-2])) <= columns
    for words in ("hospital-3", "3 min ago", "0.1.0", "-31.0 s", "11", "never"):
        assert words in " ".join(text.split()), text
    assert "No aggregator runs" not in text
    live.write(world.folder, told.model_copy(update={"stopped": True}))
    assert "No aggregator runs" in shown(world, "hospitals", columns=columns)


def test_the_admin_pauses_resumes_and_stops_and_is_asked_before_what_is_for_good(build: Build) -> None:
    world = build()
    play(world, make_sites(world), until=lambda: world.phase == "commit")
    assert "is paused: a board meets" in shown(
        world, "study", "pause", "tiny", "--reason", " a board\nmeets "
    )
    assert "(a board meets); the attempt that is open ends." in " ".join(
        shown(world, "study", "show").split()
    )
    world.coordinator.tick()
    assert "The study is paused by the admin: a board meets" in shown(world, "study", "show")
    assert "goes on" in shown(world, "study", "resume", "tiny")
    refused = ask(world, "study", "stop", "tiny", "--reason", "enough")
    assert isinstance(refused.exception, NotConfirmed)
    assert "For good" in refused.output
    assert "is stopped: enough" in shown(world, "study", "stop", "tiny", "--reason", "enough", "--yes")
    again = ask(world, "study", "resume", "tiny")
    assert isinstance(again.exception, WordRefused)
    world.coordinator.tick()
    assert world.status["finished"]


@pytest.mark.parametrize("reason", ["", "   ", "x" * 301, "a\x1b[31mb"])
def test_a_reason_that_hospitals_could_not_read_is_refused(build: Build, reason: str) -> None:
    world = build()
    assert isinstance(ask(world, "study", "pause", "tiny", "--reason", reason).exception, BadOption)
    assert world.store.directives.of(world.plan.id) == ()


def test_ctrl_c_ends_the_watching_and_not_the_study(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_watching.time, "sleep", interrupted)
    result = ask(world, "study", "watch")
    assert result.exit_code == 130
    assert "the study goes on" in result.output


def test_a_study_that_nobody_meant_is_refused(build: Build) -> None:
    world = build()
    for verb in (["show"], ["watch"], ["pause", "--reason", "x"]):
        assert ask(world, "study", *verb, "b" * 40).exception.code == "no-plan"  # type: ignore[union-attr]
