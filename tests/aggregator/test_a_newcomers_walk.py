"""Somebody who was told an address, and nothing else, looks at a real aggregator in a round that waits.

``MEDVEIL_SCREENSHOTS=FOLDER`` keeps a picture of each step.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator import signing_in
from aggregator.access.tls import make_certificates
from aggregator.settings import Limits, Settings, load
from browser import barriers, too_wide
from medveil_research.ports import free_port
from served import Served
from world import World, make_sites, play

pytestmark = [pytest.mark.slow]
SILENT = "hospital-3"


@dataclass
class Place:
    """A study in its second round, whose third hospital is silent."""

    settings: Settings
    world: World


@pytest.fixture
def place(build: Callable[..., World]) -> Iterator[Place]:
    world = build()
    world.wall = time.time
    world.restart()
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2 and world.phase == "commit")
    for site in sites[:2]:
        site.act()
    world.admin.save(world.folder / "admin.key")
    make_certificates(world.folder / "tls", ("localhost",))
    server = Served(world.folder, Limits(), port=free_port(), names=("localhost",), consortium="Three films")
    yield Place(load(world.folder), world)
    server.stop()


def kept(page: Any, name: str) -> None:
    if folder := os.environ.get("MEDVEIL_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"walk-{name}.png"))


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_the_first_page_says_whom_the_round_waits_for_and_what_the_study_has_cost(
    chromium: Any, place: Place, width: int, scheme: str
) -> None:
    context = chromium.new_context(
        ignore_https_errors=True,
        locale="en",
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
    )
    page, began = context.new_page(), time.monotonic()
    page.goto(f"{place.settings.url}/")
    assert "/signin" in page.url  # the address alone leads to the ways in
    kept(page, f"1-the-door-{width}-{scheme}")
    assert "medveil aggregator page" in page.locator("main").inner_text()
    page.goto(signing_in.new_link(place.settings).address)
    page.wait_for_url(f"{place.settings.url}/")
    kept(page, f"2-the-first-page-{width}-{scheme}")
    heading = page.locator("h1")
    assert re.search(rf"Round 2 waits for .*{SILENT}", heading.inner_text())
    assert heading.bounding_box()["y"] + heading.bounding_box()["height"] < 900
    cost = page.locator(".tiles")
    for words in (
        r"no noise",
        r"Time so far\s+\d+ (s|min)",
        r"Moved so far\s+[\d.]+ [kM]?B\s+about .* to go",
    ):
        assert re.search(words, cost.inner_text()), words
    if width > 1000:
        assert cost.bounding_box()["y"] + cost.bounding_box()["height"] < 900  # without scrolling
        assert len({one.bounding_box()["y"] for one in page.locator(".bar nav a").all()}) == 1
    assert too_wide(page) == []
    assert barriers(page) == []
    page.get_by_role("link", name="hospital by hospital").click()
    page.locator(f"#lane-{SILENT}").wait_for()
    kept(page, f"3-the-round-{width}-{scheme}")
    assert time.monotonic() - began < 60
    context.close()
