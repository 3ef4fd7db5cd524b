"""The dashboard speaks English and Chinese: both whole, and no text that a person reads stands elsewhere."""

from __future__ import annotations

import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from aggregator.web.dashboard.painter import command_of
from aggregator.web.dashboard.screen import View
from aggregator.web.dashboard.screens import all_screens
from medveil import readings
from medveil.catalogue.dashboard import DASHBOARD
from medveil.readings import Reading, interval_words
from rooms import ROOT

ROOM = ROOT / "aggregator" / "web" / "dashboard"
TEMPLATES = sorted((ROOM / "templates").rglob("*.j2"))
SOURCES = sorted(ROOM.rglob("*.py"))
SHARED = ("state.", "time.", "age.", "page.")
"""Texts of all pages; not every page says each."""
SAME = frozenset({"MedVeil", "UTC", "ε", "δ"})
"""What is the same in every language."""
CHINESE = re.compile(r"[\u4e00-\u9fff、，：（）]")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_texts_are_there_and_take_the_same_values() -> None:
    for key, text in DASHBOARD.items():
        assert text.en.strip(" \u00a0") != "" != text.zh.strip(), key
        assert fields(text.en) == fields(text.zh), key
        assert fields(text.one) <= fields(text.en), key
        if re.search(r"[A-Za-z]", re.sub(r"\{\w+\}", "", text.en)):
            assert CHINESE.search(text.zh), key
        assert not re.search(r"[\u4e00-\u9fff]", text.en), key


def test_every_text_that_is_asked_for_is_there_and_every_text_is_asked_for() -> None:
    whole = "\n".join(file.read_text(encoding="utf-8") for file in (*TEMPLATES, *SOURCES))
    named = set(re.findall(r'\bt\(\s*"([a-z0-9.-]+)"\s*[,)]', whole))
    named |= set(re.findall(r'marked\(\s*t,\s*"([a-z0-9.-]+)"', whole))
    named |= {key for key in re.findall(r'"([a-z-]+(?:\.[a-z0-9-]+)+)"', whole) if key in DASHBOARD}
    assert named - DASHBOARD.keys() == set()
    groups = set(re.findall(r'"([a-z.-]+)\." ~', whole)) | set(re.findall(r'f"([a-z.]+)\.\{', whole))
    groups |= set(re.findall(r'named\("([a-z]+)"', whole)) | {"phase"}
    titles = {f"{key}.title" for key in (file.stem.partition(".")[0] for file in TEMPLATES)}
    idle = [
        key
        for key in DASHBOARD
        if key not in named | titles
        and not key.startswith(SHARED)
        and not any(key.startswith(f"{group}.") for group in groups)
    ]
    assert idle == []


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name.partition(".")[0])
def test_no_template_says_anything_by_itself(file: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", file.read_text(encoding="utf-8"), flags=re.S)
    for name in ("aria-label", "title", "placeholder", "alt", "data-name"):
        for value in re.findall(rf'\s{name}="([^"]*)"', text):
            assert not re.search(r"[^\W\d_]", value) or value.strip() in SAME, f"{name}={value}"
    said = re.sub(r"<code>.*?</code>", "", text, flags=re.S)  # what is typed is the same everywhere
    said = re.sub(r"<[^>]*>", " ", said, flags=re.S)
    said = re.sub(r' (id|data-[a-z]+)="[^"]*"', " ", said)  # the frame's block within a tag
    assert set(re.findall(r"[^\W\d_]{2,}", said)) - SAME == set()


@pytest.mark.parametrize(
    "reading",
    [
        Reading(None),
        Reading(0.9),
        Reading(0.9, (0.8, 0.95)),
        Reading(0.9, None, (0.8, 0.95)),
        Reading(1.0, (0.9, 1.0)),
        Reading(0.0, (0.0, 0.1)),
    ],
)
def test_a_figure_is_written_in_the_readers_language_with_the_same_numbers(reading: Reading) -> None:
    english, chinese = interval_words(reading), interval_words(reading, "", readings.CHINESE)
    assert readings.ENGLISH.keys() == readings.CHINESE.keys()
    assert not re.search("[A-Za-z]", chinese)
    assert re.findall(r"[0-9.]+", english) == re.findall(r"[0-9.]+", chinese)


def test_the_line_for_a_terminal_tells_what_the_page_is_narrowed_to() -> None:
    screens = {one.key: one for one in all_screens()}
    for key, filters, said in (
        ("audit", {"actor": "admin", "text": "a b; rm"}, " --actor admin --text 'a b; rm'"),
        ("comparison", {"task": "findings"}, " --task findings"),
        ("privacy", {"study": "tiny"}, " --study tiny"),
    ):
        view: View = SimpleNamespace(path={}, filters=filters)  # type: ignore[assignment]
        assert command_of(screens[key], view).endswith(said)
