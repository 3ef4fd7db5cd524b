"""Colours are readable on every ground, in the light and in the dark, and no page names one of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medveil_research.report.base import render_page
from rooms import FOLDERS, ROOT

SHARED = ROOT / FOLDERS["medveil"] / "look" / "templates"
ROOMS = [ROOT / room for room in FOLDERS.values()]
TEMPLATES = sorted(file for room in ROOMS for file in room.rglob("*.j2"))
STYLES = sorted(file for room in ROOMS for file in room.rglob("*.css"))
STATES = ("waiting", "working", "sent", "done", "late", "dropped", "refused", "needs")
GROUNDS = ("ground", "card", "well", "note-ground")


def schemes() -> dict[str, dict[str, str]]:
    """Colours by name, in the light and in the dark."""
    light, dark, *_ = re.findall(r":root \{(.*?)\n {0,2}\}", (SHARED / "tokens.css").read_text(), re.S)
    found = {}
    for name, text in (("light", light), ("dark", light + dark)):
        found[name] = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", text))
    return found


def contrast(one: str, other: str) -> float:
    """WCAG 2: of two colours, 1 to 21."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_every_ground_it_can_lie_on(scheme: str) -> None:
    colours = schemes()[scheme]
    pairs = [(ink, ground) for ink in ("ink", "muted", "accent") for ground in GROUNDS]
    pairs += [(state, ground) for state in STATES for ground in (f"{state}-ground", "card", "ground")]
    pairs += [("on-accent", "accent"), ("card", "needs"), ("card", "refused")]
    assert {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs if
            contrast(colours[pair[0]], colours[pair[1]]) < 4.5} == {}  # fmt: skip
    assert contrast(colours["edge"], colours["card"]) >= 3


def test_black_and_white_are_as_far_apart_as_can_be() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_only_the_tokens_name_a_colour() -> None:
    found = {file.name: re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", file.read_text()) for file in STYLES}
    assert found.pop("tokens.css")
    assert found.pop("page.css") == ["#fff"]  # white paper in print
    assert found
    assert not any(found.values()), found


OWN_FILE = r'(?:/[a-z./]+|\{\{ static\("[a-z.]+"\) \}\})'
"""On this host, or where the dashboard's ``static`` says that one of its files is."""


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: f"{file.parent.parent.name}-{file.stem}")
def test_no_template_brings_a_style_a_handler_or_a_script_or_file_of_another_host(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r'\sstyle="|\son[a-z]+="|<img(?! [^>]*src="{{)', text)
    if file.parts[-3] == "medveil_research":  # one file, without script
        assert not re.search(r"<script|<link", text)
    assert not re.search(rf'<script(?! src="{OWN_FILE}"[^>]*></script>)', text)
    assert not re.search(rf'<link(?! rel="(icon|stylesheet)" href="{OWN_FILE}")', text)


def test_a_page_allows_nothing_but_its_own_style() -> None:
    policy = re.search(r'Policy" content="([^"]*)"', _page())
    assert policy is not None
    assert re.fullmatch(
        r"default-src &#39;none&#39;; style-src &#39;sha256-[A-Za-z0-9+/=]+&#39;; "
        r"base-uri &#39;none&#39;; form-action &#39;none&#39;",
        policy[1],
    )
    assert "img-src data:" in _page(pictures=True)


def _page(*, pictures: bool = False) -> str:
    return render_page("base.html.j2", pictures=pictures)
