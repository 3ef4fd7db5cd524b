"""The operator's page in a real browser: it fits, everybody can read and use it, and it lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser import barriers, too_wide
from hospital_node.page import deciding
from node_page import HOSTILE, Served, card, made_node, made_panels, served

pytestmark = pytest.mark.slow
OPEN = "document.querySelectorAll('details').forEach(one => { one.open = true; })"


FAST_CLOCK = """const real = Date.now; let ahead = 0;
Date.now = () => real() + ahead; window.pass = milliseconds => { ahead += milliseconds; };"""


@contextmanager
def visited(
    chromium: Any, page: Served, *, width: int = 1280, scheme: str = "light", language: str = "en-GB"
) -> Iterator[Any]:
    """The page in a browser that has just used the link.

    Guarantees: nothing was written to the console and no error was thrown.
    """
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, locale=language
    )
    window, heard = context.new_page(), list[str]()
    window.on("console", lambda message: heard.append(message.text))
    window.on("pageerror", lambda error: heard.append(str(error)))
    window.goto(page.link)
    yield window
    context.close()
    assert not heard, heard


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page over hostile values that lives fast."""
    with served(made_node(tmp_path_factory.mktemp("page")), made_panels(2, HOSTILE), every_s=0.05) as started:
        yield started


def test_the_page_fits_a_phone_and_a_desk_whatever_others_write_and_has_no_barrier(
    chromium: Any, page: Served
) -> None:
    with visited(chromium, page) as window:
        window.evaluate(OPEN)
        assert too_wide(window) == []
        assert barriers(window) == []
        window.set_viewport_size({"width": 390, "height": 900})
        assert too_wide(window) == []
        assert "<b onload" in window.locator("#requests").inner_text()


def test_what_changes_is_shown_without_a_reload_and_nobody_who_types_is_disturbed(
    chromium: Any, page: Served
) -> None:
    reader: Any = page.page.reader
    before = reader.now
    with visited(chromium, page) as window:
        field = window.locator("input[name=words]").first
        field.fill("absurd amount liar")
        later = made_panels(2, "calm")
        reader.change(leaves=later.leaves, requests=later.requests, data=later.data, ledger=later.ledger)
        window.locator("#ledger", has_text="calm").wait_for()
        assert field.input_value() == "absurd amount liar"
        assert "<b onload" in window.locator("#requests").inner_text()
        field.fill("")
        window.locator("#ask").focus()
        window.locator("#requests", has_text="calm").wait_for()
        assert window.evaluate("document.activeElement.id") == "ask"
    reader.now = before


MADE: dict[str, Any] = {
    "nothing": lambda: made_panels(0),
    "one": lambda: made_panels(1),
    "many": lambda: made_panels(12, requests=3),
    "hostile": lambda: made_panels(3, HOSTILE, requests=2),
    "chinese": lambda: made_panels(2, "胸部平片没有任何异常发现的病人" * 4),
}


@pytest.mark.parametrize(("scheme", "language"), [("light", "en-GB"), ("dark", "zh-CN")])
@pytest.mark.parametrize("name", MADE)
def test_every_state_fits_every_window_light_and_dark_in_both_languages(
    chromium: Any, tmp_path: Path, name: str, scheme: str, language: str
) -> None:
    with (
        served(made_node(tmp_path, "h" * 48), MADE[name]()) as page,
        visited(chromium, page, scheme=scheme, language=language) as window,
    ):
        assert too_wide(window) == []
        window.evaluate(OPEN)
        for width in (1280, 800, 390):
            window.set_viewport_size({"width": width, "height": 900})
            assert too_wide(window) == []
        assert barriers(window) == []
        window.goto(f"{page.url}/support")
        assert too_wide(window) == []
        assert barriers(window) == []


def test_a_plan_is_approved_by_the_keyboard_alone(chromium: Any, page: Served) -> None:
    asked: list[tuple[str, str, int | None]] = []
    page.page.asking.approve = lambda *given: asked.append(given)  # type: ignore[method-assign,assignment]
    one = card(0, HOSTILE)
    with visited(chromium, page) as window:
        window.locator(f"#words-{one.plan[:12]}").focus()
        window.keyboard.type(" ".join(one.words))
        window.keyboard.press("Tab")
        window.keyboard.press("Tab")
        window.keyboard.press("Space")
        window.keyboard.press("Tab")
        assert window.evaluate("document.activeElement.className") == "main"
        with window.expect_navigation():
            window.keyboard.press("Enter")
        assert window.locator("p.note[role=status]").inner_text().startswith("The plan is approved")
    assert asked == [(one.plan, " ".join(one.words), one.declared)]


def test_a_plan_is_refused_by_the_keyboard_alone_and_the_box_asks_for_a_reason(
    chromium: Any, page: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(deciding, "refuse", lambda node, asking, plan, reason: told.append((plan, reason)))
    one = card(0, HOSTILE)
    with visited(chromium, page) as window:
        window.locator(f"#ask-refuse-{one.plan[:12]}").focus()
        window.keyboard.press("Enter")
        window.keyboard.press("Tab")
        window.keyboard.press("Enter")  # without a reason nothing is sent
        assert window.evaluate("document.activeElement.name") == "reason"
        window.keyboard.type("We have no such scanner.")
        window.keyboard.press("Tab")
        with window.expect_navigation():
            window.keyboard.press("Enter")
        assert "The plan is refused" in window.locator("p.note[role=status]").inner_text()
    assert told == [(one.plan, "We have no such scanner.")]


def test_nothing_is_sent_without_the_words_and_the_tick(chromium: Any, page: Served) -> None:
    asked: list[object] = []
    page.page.asking.approve = lambda *given: asked.append(given)  # type: ignore[method-assign,assignment]
    with visited(chromium, page) as window:
        window.locator("button.main").first.click()
        assert window.evaluate("document.activeElement.name") == "words"
        window.keyboard.type("too short")
        window.locator("button.main").first.click()
        assert window.evaluate("document.activeElement.name") == "words"
    assert asked == []


def test_a_line_that_is_cut_greys_the_page_and_one_that_comes_back_brings_the_news(
    chromium: Any, page: Served
) -> None:
    reader: Any = page.page.reader
    before, real = reader.now, page.page.stream
    context = chromium.new_context()
    context.add_init_script(FAST_CLOCK)
    window = context.new_page()

    async def falls_silent(request: Any) -> Any:
        async for one in real(request):
            yield one
            await page.page._stopping.wait()

    page.page.stream = falls_silent  # type: ignore[method-assign,assignment]
    window.goto(page.link)
    window.locator("#age", has_text="live").wait_for()
    window.wait_for_load_state("networkidle")
    window.evaluate("pass(41000)")
    window.locator("#age.late", has_text="no news for").wait_for()
    assert window.locator("main.stale").count() == 1
    page.page.stream = real  # type: ignore[method-assign]
    window.reload()
    reader.change(leaves=made_panels(0).leaves)
    window.locator("#leaves", has_text="Nothing has left").wait_for()
    window.locator("#age.done", has_text="live").wait_for()
    assert window.locator("main.stale").count() == 0
    context.close()
    reader.now = before


def test_a_stream_that_breaks_off_is_taken_up_again_without_a_reload(chromium: Any, page: Served) -> None:
    reader: Any = page.page.reader
    before, real = reader.now, page.page.stream
    context = chromium.new_context()
    window = context.new_page()

    async def breaks(request: Any) -> Any:
        async for one in real(request):
            yield one
            return

    page.page.stream = breaks  # type: ignore[method-assign,assignment]
    window.goto(page.link)
    window.locator("#age", has_text="live").wait_for()
    page.page.stream = real  # type: ignore[method-assign]
    reader.change(leaves=made_panels(0).leaves)
    window.locator("#leaves", has_text="Nothing has left").wait_for()
    context.close()
    reader.now = before


def test_a_page_whose_session_has_ended_goes_to_the_way_in_by_itself(chromium: Any, page: Served) -> None:
    context = chromium.new_context()
    window = context.new_page()
    window.goto(page.link)
    (cookie,) = context.cookies()
    page.page.door.sign_out(cookie["value"])
    window.locator("#enter").wait_for()
    assert barriers(window) == []
    context.close()


def test_the_page_works_without_script(chromium: Any, page: Served) -> None:
    context = chromium.new_context(java_script_enabled=False)
    window = context.new_page()
    window.goto(page.link)
    assert window.locator("#age").inner_text().startswith("as of ")
    window.get_by_role("link", name="中文").click()
    assert "隐私" in window.locator("#ledger-h").inner_text()
    window.locator("form.quiet button").click()
    assert window.url == f"{page.url}/sign-in"
    context.close()
