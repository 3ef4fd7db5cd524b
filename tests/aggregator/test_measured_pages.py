"""The pages of convergence, comparison, privacy, audit and system, and their twins, whoever asks."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

import measured
from aggregator.cli import app as commands
from aggregator.storage.past import PastAttempt
from aggregator.storage.register import Role
from aggregator.watching import past as past_module
from aggregator.watching.past import PAGE
from aggregator.web.dashboard.checking import CHECK, Checking
from aggregator.web.dashboard.door import Viewer, viewer
from aggregator.work.workers import Inline
from medveil.catalogue.dashboard import DASHBOARD
from medveil.messages import Refusal
from world import World

Build = Callable[..., World]
HOSTILE = "</script><img src=x onerror=alert(1)>'\"{{ 70009*7 }}"
GENERAL = ("/comparison", "/privacy", "/audit", "/system")


def person(role: Role = Role.ADMIN) -> Viewer:
    return Viewer("ada", role, "Ada", "link", session="1", _cookie="a cookie")


class Pages:
    """An application and somebody who asks it."""

    def __init__(self, world: World, who: Viewer | None = None) -> None:
        self.world, self.who = world, who or person()
        self.app = measured.made_app(world, self.who)
        self.checking: Checking = self.app.state.checking
        self.checking._make = Inline
        self.at = f"/studies/{world.plan.id}/convergence"

    def become(self, role: Role) -> None:
        self.who = person(role)
        self.app.dependency_overrides[viewer] = lambda: self.who

    def ask(self, path: str, method: str = "GET", **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def page(self, path: str, language: str = "en") -> str:
        answer = self.ask(path, headers={"accept": "text/html", "accept-language": language})
        assert answer.status_code == 200, answer.text
        return answer.text

    def twin(self, path: str) -> Any:
        answer = self.ask(path, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A study with noise after ten rounds, one of which had no sum."""
    world = measured.make(tmp_path_factory.mktemp("pages") / "world", hospitals=3, rounds=10)
    told = Refusal(kind="refused", reason=HOSTILE, signature=b"x" * 64)
    world.store.plans.add_refusal(world.plan.id, world.plan.names[0], told, 1.0)
    found = Pages(world)
    yield found
    measured.close(found.app)
    world.store.close()


@pytest.fixture(autouse=True)
def admin_again(pages: Pages) -> Iterator[None]:
    yield
    pages.become(Role.ADMIN)


def test_every_page_has_a_twin_and_a_command_that_exists(pages: Pages) -> None:
    for path in (pages.at, *GENERAL):
        html, twin = pages.page(path), pages.twin(path)
        assert set(twin) >= {"as_of"}
        (line,) = re.findall(r'<p class="command elsewhere"><code>medveil ([^<]+)</code>', html)
        words = [word for word in line.split()[1:] if not re.fullmatch("[0-9a-f]{12,}", word)]
        assert CliRunner().invoke(commands, [*words, "--help"]).exit_code == 0, line


def test_both_languages_say_everything_in_every_state(pages: Pages, build: Build) -> None:
    bare = Pages(build())
    for some in (pages, bare):
        for language in ("en", "zh-CN"):
            for path in (some.at, f"{some.at}?gate=0.9", *GENERAL):
                html = some.page(path, language)
                assert not [key for key in DASHBOARD if f">{key}<" in html]
    assert "尚无已结束的轮次" in bare.page(bare.at, "zh")
    assert "nothing limits what the finished model can reveal" in " ".join(bare.page("/privacy").split())
    measured.close(bare.app)


def test_figures_stand_with_their_intervals_and_a_gate_is_in_the_address(pages: Pages) -> None:
    html, value = pages.page(f"{pages.at}?gate=0,88"), pages.twin(f"{pages.at}?gate=0,88")
    assert value["last"]["words"] in html
    assert " to " in value["last"]["words"]
    assert value["margin"]["gate"] == 0.88
    assert 'value="0,88"' in html
    assert "<title>round 3: 0." in html
    assert "1 attempt without a sum" in html


@pytest.mark.parametrize("typed", ["nan", "1e99", HOSTILE, "--"])
def test_a_gate_that_is_no_number_is_refused_in_words(pages: Pages, typed: str) -> None:
    answer = pages.ask(pages.at, params={"gate": typed}, headers={"accept": "text/html"})
    assert 400 <= answer.status_code < 500
    assert "<img" not in answer.text
    assert "Traceback" not in answer.text


def test_whatever_others_have_written_is_shown_as_text(pages: Pages) -> None:
    for path in ("/audit?action=plan", f"/audit?actor={HOSTILE}", f"/audit?text={HOSTILE}&action={HOSTILE}"):
        html = pages.page(path)
        assert "<img" not in html
        assert "490063" not in re.sub(r"[0-9a-f]{8,}", "", html)
        assert "&lt;/script&gt;" in html
    assert pages.ask("/audit?before=x", headers={"accept": "text/html"}).status_code == 404


def test_a_researcher_sees_what_was_granted_and_nothing_tells_whether_there_is_more(pages: Pages) -> None:
    pages.become(Role.RESEARCHER)
    theirs, nobodys = (
        pages.ask(f"/studies/{plan}/convergence.json") for plan in (pages.world.plan.id, "0" * 64)
    )
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content
    assert pages.twin("/comparison")["studies"] == pages.twin("/privacy")["studies"] == []
    for path in ("/audit", "/system", "/audit/export.jsonl", CHECK):
        answer = pages.ask(path)
        assert answer.status_code == 403, path
        assert pages.world.plan.id not in answer.text
    pages.become(Role.AUDITOR)
    assert pages.ask(f"{pages.at}.json").status_code == 403
    assert pages.ask("/audit.json").status_code == pages.ask("/privacy.json").status_code == 200


def test_the_log_is_checked_when_a_sealed_form_asks_and_the_result_is_told(pages: Pages) -> None:
    assert "Nobody has asked for a check" in pages.page("/audit")
    html = pages.page(CHECK)
    (seal,) = re.findall(r'name="seal" value="([^"]+)"', html)
    forged = pages.ask(CHECK, "POST", data={"seal": "forged"})
    assert 400 <= forged.status_code < 500
    assert pages.checking.last() is None
    asked = pages.ask(CHECK, "POST", data={"seal": seal})
    assert (asked.status_code, asked.headers["location"]) == (303, "/audit")
    found = pages.checking.last()
    assert found is not None
    assert (found.outcome, found.number) == ("whole", pages.world.store.transactions.head.number)


def test_the_whole_log_leaves_as_json_lines(pages: Pages) -> None:
    answer = pages.ask("/audit/export.jsonl")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "attachment" in answer.headers["content-disposition"]
    assert [line["number"] for line in lines[1:]] == list(
        range(1, pages.world.store.transactions.head.number + 1)
    )
    assert lines[-1]["hash"] == pages.world.store.transactions.head.hash.hex()


def test_a_long_history_is_read_a_piece_at_a_time_and_is_thinned_on_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_module, "PAGE", 100)
    world = measured.make(folder / "long", hospitals=3, rounds=0)
    measured.pour_rounds(world, 250)
    pages, counted = Pages(world), rows_read(world)
    html = pages.page(pages.at)
    assert sum(counted) == 100
    assert "back to round 151" in html
    pages.page(f"{pages.at}?gate=1")
    html = pages.page(f"{pages.at}?gate=2")
    assert sum(counted) == 250
    assert "each column stands for 3 rounds" in html
    assert "<title>rounds 1 to 3: " in html
    measured.close(pages.app)
    world.store.close()


@pytest.mark.slow
def test_ten_thousand_rounds_of_fifty_hospitals_take_a_look_less_than_a_second_of_a_core(
    folder: Path,
) -> None:
    world = measured.make(folder / "long", hospitals=50, rounds=0)
    measured.pour_rounds(world, 10_000)
    pages, counted, took = Pages(world), rows_read(world), list[float]()
    for look in range(12):
        began = time.process_time()
        html = pages.page(f"{pages.at}?gate={look}")
        took.append(time.process_time() - began)
        assert max(counted) <= PAGE
        assert len(html) < 250_000
    assert sum(counted) == 10_000
    assert "each column stands for 84 rounds" in html
    assert sorted(took)[len(took) // 2] <= 1.0
    measured.close(pages.app)
    world.store.close()


def rows_read(world: World) -> list[int]:
    """Collects how many past attempts each question to the database reads."""
    real, counted = world.store.past.attempts, list[int]()

    def counting(*args: Any, **kwargs: Any) -> list[PastAttempt]:
        found = real(*args, **kwargs)
        counted.append(len(found))
        return found

    world.store.past.attempts = counting  # type: ignore[method-assign]
    return counted
