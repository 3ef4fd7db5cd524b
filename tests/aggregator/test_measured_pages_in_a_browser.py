"""Convergence, comparison, privacy, audit and system in a real browser: wide and narrow, empty and full."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import measured
from browser import barriers, too_wide
from world import World, make_world

pytestmark = pytest.mark.slow
GENERAL = ("/comparison", "/privacy", "/audit", "/system", "/audit/check")


def looked_at(chromium: Any, url: str, *, width: int, scheme: str, language: str, kept: str = "") -> None:
    """Open a page: nothing is wider than the window, nothing complains, axe-core finds no serious fault."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, locale=language
    )
    page, heard = context.new_page(), list[str]()
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    answer = page.goto(url)
    assert answer.status == 200, url
    assert too_wide(page) == []
    assert barriers(page) == []
    folder = os.environ.get("MEDVEIL_SCREENSHOTS")
    if folder and kept:
        page.screenshot(path=str(Path(folder) / f"{kept}-{width}-{scheme}.png"), full_page=True)
    assert heard == []
    context.close()


def walk(chromium: Any, world: World, *, sizes: list[tuple[int, str, str]], name: str) -> None:
    with measured.served(world) as served:
        for path in (f"/studies/{world.plan.id}/convergence?gate=0.9", *GENERAL):
            for width, scheme, language in sizes:
                screen = path.partition("?")[0].rpartition("/")[2]
                url = f"{served.url}{path}"
                looked_at(
                    chromium, url, width=width, scheme=scheme, language=language, kept=f"{screen}-{name}"
                )
    world.store.close()


def test_the_charts_of_a_study_are_shown_on_a_phone_without_a_complaint(
    chromium: Any, tmp_path: Path
) -> None:
    world = measured.make(tmp_path / "world", hospitals=3, rounds=6)
    with measured.served(world) as served:
        url = f"{served.url}/studies/{world.plan.id}/convergence"
        looked_at(chromium, url, width=390, scheme="dark", language="en")
    world.store.close()


BOTH = [(1280, "light", "en"), (390, "dark", "zh-CN")]


def test_every_page_with_six_hospitals(chromium: Any, tmp_path: Path) -> None:
    walk(chromium, measured.make(tmp_path / "world", rounds=14), sizes=BOTH, name="6")


def test_every_page_with_fifty_hospitals_and_ten_thousand_rounds(chromium: Any, tmp_path: Path) -> None:
    world = measured.make(tmp_path / "world", hospitals=50, rounds=0)
    measured.pour_rounds(world, 10_000)
    walk(chromium, world, sizes=BOTH, name="50")


def test_every_page_before_anything_has_happened(chromium: Any, tmp_path: Path) -> None:
    walk(chromium, make_world(tmp_path / "world", approvals=0), sizes=BOTH, name="0")


def test_a_check_is_asked_for_and_told_and_the_page_lives(chromium: Any, tmp_path: Path) -> None:
    world = measured.make(tmp_path / "world", rounds=3)
    with measured.served(world) as served:
        page = chromium.new_page()
        page.goto(f"{served.url}/audit")
        page.click("#check")
        page.click("button.main")
        page.wait_for_selector("#sentence .state.done", timeout=60_000)
        assert "is as it was written" in page.inner_text("#sentence")
        page.close()
    world.store.close()
