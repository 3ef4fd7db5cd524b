"""The pictures of the docs: what a browser shows of pages and reports.

``MEDVEIL_PICTURES=docs MEDVEIL_REPORT=REPORT.html`` puts them there, the report's from the report of a demo.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import node_page
from browser import barriers, shown, too_wide
from made_board import PLAN, watching
from made_board import served as board_served
from made_results import made_result
from medveil_research.report.page import render

pytestmark = pytest.mark.slow
WIDTH, DESK = 1180, 1280
ROOT = Path(__file__).parents[2]
Keep = Callable[..., None]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Keeps what a window shows in few colours, as small as the docs want it."""
    folder = Path(os.environ.get("MEDVEIL_PICTURES") or tmp_path)

    def kept(window: Any, name: str, *, height: int | None = None, colours: int = 255) -> None:
        assert too_wide(window) == []
        assert barriers(window) == []
        whole = Image.open(io.BytesIO(window.screenshot(full_page=True)))
        cut = whole.crop((0, 0, whole.width, height or whole.height)).convert("RGB")
        cut.quantize(colours, dither=Image.Dither.NONE).save(folder / name, optimize=True)
        with Image.open(folder / name) as picture, Image.open(ROOT / "docs" / name) as there:
            assert picture.width == there.width
        assert (folder / name).stat().st_size < 400_000

    return kept


@contextmanager
def opened(chromium: Any, address: str) -> Iterator[Any]:
    """A page at a desk, once it is live."""
    context = chromium.new_context(viewport={"width": WIDTH, "height": 900}, locale="en-GB")
    window = context.new_page()
    window.goto(address)
    window.locator("#age", has_text="live").wait_for()
    yield window
    context.close()


def test_a_round_says_what_it_waits_for_and_its_picture_too(
    chromium: Any, tmp_path: Path, keep: Keep
) -> None:
    with (
        board_served(tmp_path / "board", watching(6, 1, time.time())) as board,
        opened(chromium, f"{board.url}/studies/{PLAN}/rounds/7") as window,
    ):
        assert "waits for" in window.locator("h1").inner_text()
        keep(window, "dashboard.png")


def test_the_operators_page_as_the_guide_shows_it(
    chromium: Any, tmp_path: Path, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_page, "NOON", time.time())
    with (
        node_page.served(node_page.made_node(tmp_path), node_page.made_panels(1)) as page,
        opened(chromium, page.link) as window,
    ):
        keep(window, "operator-page.png", colours=64)


def test_the_top_of_a_demos_report_down_to_the_counts_at_the_threshold(chromium: Any, keep: Keep) -> None:
    named = os.environ.get("MEDVEIL_REPORT")
    made = Path(named).read_text("utf-8") if named else render(made_result("classification"))
    with shown(chromium, made, width=DESK) as window:
        card = window.locator("section", has=window.get_by_role("heading", name="At the threshold")).first
        box = card.bounding_box()
        keep(window, "report.png", height=round(box["y"] + box["height"]) + 16)
