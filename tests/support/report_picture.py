"""The README's picture of a report: python tests/support/report_picture.py REPORT.html docs/report.png."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from browser import browser, shown

WIDTH = 1280
LAST = "At the threshold"
"""The first heading of the card with which the picture ends."""


def picture(report: Path, target: Path) -> None:
    """The top of a report at a desk, down to the counts at the threshold, in few colours."""
    with (
        browser() as chromium,
        shown(chromium, report.read_text(encoding="utf-8"), width=WIDTH) as window,
    ):
        card = window.locator("section", has=window.get_by_role("heading", name=LAST)).first.bounding_box()
        height = round(card["y"] + card["height"]) + 16
        whole = Image.open(io.BytesIO(window.screenshot(full_page=True)))
    whole.crop((0, 0, WIDTH, height)).convert("RGB").quantize(255, dither=Image.Dither.NONE).save(
        target, optimize=True
    )


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
