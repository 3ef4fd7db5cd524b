"""A real browser for pages: what it complains of, what is wider than the window, and what axe-core finds.

Skipped by name where there is none, unless MEDVEIL_SKIP_NOTHING is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

INSTALL = "this needs a browser: apt-get install chromium"
WIDE = """() => {
  const edge = document.documentElement.clientWidth + 0.5;
  const away = e => e.closest('.away, .sprite, thead, details:not([open]) > :not(summary)');
  return [...document.querySelectorAll('main *')]
    .filter(e => !away(e) && e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > edge)
    .map(e => e.tagName + '.' + (e.getAttribute('class') || '') + ': ' + e.textContent.slice(0, 40));
}"""


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, without a window; one for a module of tests."""
    where = shutil.which("chromium")
    if where is None:
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
        pytest.skip(INSTALL)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def shown(
    browser: Any, html: str, *, width: int = 1280, scheme: str = "light", media: str = "screen"
) -> Iterator[Any]:
    """A page in a window of its own.

    Guarantees: nothing was written to the console and no error was thrown, at the end as at the beginning.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.emulate_media(media=media, color_scheme=scheme)
    page.set_content(html)
    yield page
    assert not heard, heard
    context.close()


def too_wide(page: Any) -> list[str]:
    """Elements that end outside of the window, and the page itself if it can be scrolled sideways."""
    found = list(page.evaluate(WIDE))
    scroll, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    return [*found, *([f"the page is {scroll} wide in a window of {window}"] if scroll != window else [])]


def barriers(page: Any) -> list[str]:
    """Serious and critical faults that axe-core finds."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']} {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
