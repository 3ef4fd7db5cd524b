"""The dashboard in a real browser: it fits, everybody can read and use it, and it lives."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser import barriers, too_wide
from made_board import HOSTILE, PLAN, ServedBoard, served, watching

pytestmark = pytest.mark.slow
ROUND = f"/studies/{PLAN}/rounds/7"
PAGES = (
    "/",
    f"/studies/{PLAN}",
    f"/studies/{PLAN}/rounds",
    ROUND,
    f"/studies/{PLAN}/rounds/6",
    "/hospitals",
    "/enrolment",
)
OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
NAVIGATION = "[...document.querySelectorAll('.bar nav a')].map(one => one.getBoundingClientRect().top)"
WRONG_CLOCK = "Date.now = () => 1000; performance.mark('set');"
LATER = """const real = performance.now.bind(performance); let ahead = 0;
performance.now = () => real() + ahead; window.pass = milliseconds => { ahead += milliseconds; };"""


@contextmanager
def visited(
    chromium: Any, address: str, *, width: int = 1280, before: str = "", **options: Any
) -> Iterator[Any]:
    """A page in a browser of its own.

    Guarantees: nothing was written to the console and no error was thrown.
    """
    options = {"color_scheme": "light", "locale": "en-GB"} | options
    context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
    if before:
        context.add_init_script(before)
    window, heard = context.new_page(), list[str]()
    window.on("console", lambda message: heard.append(message.text))
    window.on("pageerror", lambda error: heard.append(str(error)))
    window.goto(address)
    yield window
    context.close()
    assert not heard, heard


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedBoard]:
    """A round that runs at this moment, with hostile words in its study."""
    made = watching(6, 2, time.time())
    hostile = {"description": HOSTILE}
    made.studies_ = (made.studies_[0].model_copy(update=hostile), *made.studies_[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregator.web.dashboard.live.EVERY_S", 0.05)
        patch.setattr("aggregator.web.dashboard.live.BEAT_S", 0.2)
        with served(tmp_path_factory.mktemp("board"), made) as started:
            yield started


def test_a_round_fits_a_phone_and_a_desk_has_no_barrier_and_lives(chromium: Any, board: ServedBoard) -> None:
    before = board.watching.timeline_
    with visited(chromium, board.url + ROUND) as window:
        assert too_wide(window) == []
        assert barriers(window) == []
        window.set_viewport_size({"width": 390, "height": 900})
        assert too_wide(window) == []
        window.locator("#lane-porto h3 a").focus()
        window.evaluate("document.getElementById('lane-lyon').dataset.witness = 'same'")
        lanes = tuple(
            lane.model_copy(update={"stand": "left"}) if lane.hospital == "porto" else lane
            for lane in before.lanes
        )
        board.watching.timeline_ = before.model_copy(update={"lanes": lanes})
        board.wrote()
        window.locator("#lane-porto .state.dropped").wait_for()
        assert window.evaluate("document.activeElement.textContent") == "porto"
        assert window.evaluate("document.getElementById('lane-lyon').dataset.witness") == "same"
    board.watching.timeline_ = before


def test_a_newcomer_finds_whom_a_round_waits_for_and_what_the_study_cost_in_three_clicks(
    chromium: Any, board: ServedBoard
) -> None:
    """What somebody reads who was told the address only: the first page says both; three clicks say why."""
    with visited(chromium, board.url) as window:
        assert len(set(window.evaluate(NAVIGATION))) == 1  # in one line
        seen = window.locator("main").inner_text()
        assert re.search(r"Round 7 waits for guangzhou-b", seen)
        assert re.search(r"Privacy spent\s+ε 3\.41", seen)
        window.get_by_role("link", name="hospital by hospital").click()
        assert "training" in window.locator("#lane-guangzhou-b").inner_text()
        window.get_by_role("link", name="pneumothorax-on-films").click()
        cost = window.locator("#cost").inner_text()
        assert "What it has cost so far" in cost
        assert re.search(r"ε 3\.41\s+5\.62 at the end", cost)


def test_a_browser_whose_clock_is_decades_wrong_tells_the_same_ages(
    chromium: Any, board: ServedBoard
) -> None:
    with visited(chromium, board.url + ROUND, before=WRONG_CLOCK) as window:
        assert re.search(r"deadline in 5\d min", window.locator("h1").inner_text())
        window.locator("#age", has_text="live").wait_for()
        assert re.search(r"training for \d\d min", window.locator("#lane-guangzhou-b").inner_text())


@pytest.mark.parametrize(("scheme", "language"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("hospitals", [0, 1, 50])
def test_every_page_fits_every_window_light_and_dark_in_both_languages(
    chromium: Any, tmp_path: Path, hospitals: int, scheme: str, language: str
) -> None:
    made = watching(hospitals, 2 if hospitals else 0, time.time())
    made.ended = 10_000
    pages = PAGES if hospitals else ("/", "/hospitals", "/enrolment")
    with served(tmp_path, made) as board:
        for path in pages:
            with visited(chromium, board.url + path, color_scheme=scheme, locale=language) as window:
                assert barriers(window) == [], path
                window.evaluate(OPEN)
                for width in (1280, 800, 390):
                    window.set_viewport_size({"width": width, "height": 900})
                    assert too_wide(window) == [], (path, width)


def test_hostile_words_fit_and_are_read_as_words(chromium: Any, board: ServedBoard) -> None:
    with visited(chromium, f"{board.url}/studies/{PLAN}", width=390) as window:
        assert too_wide(window) == []
        assert "<b onload" in window.locator("#facts").inner_text()


def test_a_page_without_news_turns_grey_and_says_for_how_long(
    chromium: Any, board: ServedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.web.dashboard.live.BEAT_S", 600.0)
    with visited(chromium, board.url, before=LATER) as window:
        window.locator("#age", has_text="live").wait_for()
        window.wait_for_load_state("load")
        window.evaluate("pass(41000)")
        window.locator("#age.late", has_text="no news for 4").wait_for()
        assert window.locator("main.stale").count() == 1


def test_a_page_takes_up_where_it_was_when_the_aggregator_has_started_again(
    chromium: Any, tmp_path: Path
) -> None:
    made = watching(6, 1, time.time())
    context = chromium.new_context()
    window = context.new_page()
    with served(tmp_path, made) as first:
        window.goto(first.url)
        window.locator("#age", has_text="live").wait_for()
        window.evaluate("window.kept = document.getElementById('sentence')")
        port = int(first.url.rpartition(":")[2])
    with served(tmp_path, made, port=port) as second:
        (one,) = made.studies_
        made.studies_ = (one.model_copy(update={"name": "renamed"}),)
        second.wrote()
        window.locator("h2", has_text="renamed").wait_for(timeout=60_000)
        assert window.evaluate("window.kept === document.getElementById('sentence')")
    context.close()


def test_all_of_it_works_by_keyboard_and_without_script(chromium: Any, board: ServedBoard) -> None:
    with visited(chromium, board.url, java_script_enabled=False) as window:
        assert window.locator("#age").inner_text().startswith("as of ")
        assert "deadline in" in window.locator("h1").inner_text()
        window.keyboard.press("Tab")
        assert window.locator("a.skip").is_visible()
        window.locator("h2 a").first.focus()
        window.keyboard.press("Enter")
        window.wait_for_url("**/studies/**")
        assert "waits for" in window.locator("h1").inner_text()


@pytest.mark.parametrize("hospitals", [1, 50])
def test_first_words_are_there_within_a_second_of_the_pages_own_time(
    chromium: Any, tmp_path: Path, hospitals: int
) -> None:
    """What our part of it takes, as CPU time of the page's making; a machine under load only waits longer."""
    made = watching(hospitals, 2, time.time())
    made.ended = 10_000
    with served(tmp_path, made) as board:
        for path in PAGES:
            spent = board.app.state.board.spent_s
            with visited(chromium, board.url + path):
                pass
            assert board.app.state.board.spent_s - spent < 0.3, path
