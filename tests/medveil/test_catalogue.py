"""Pages speak English and Chinese: both whole, and no text that a person reads stands elsewhere."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from medveil.catalogue import LANGUAGES, Speaker, Text, language_of
from medveil.catalogue.operator import OPERATOR
from rooms import FOLDERS, ROOT

PAGE = ROOT / FOLDERS["hospital_node"] / "page"
TEMPLATES = sorted((PAGE / "templates").rglob("*.j2"))
SOURCES = sorted(PAGE.glob("*.py"))
WORDS = frozenset({"MedVeil", "GPU", "CPU", "medveil", "node", "$"})
"""What is the same in every language: our name, and what a command line says."""
GROUPS = re.compile(r'\b(?:t|named)\(\s*f?"([a-z-]+)\.?(?:"\s*[~,]|\{)|"([a-z-]+)\." ~')
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def fields(text: str) -> set[str]:
    """The names of the values in a text."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_texts_are_there_and_take_the_same_values() -> None:
    for key, text in OPERATOR.items():
        assert text.en.strip() == text.en != "", key
        assert text.zh.strip() == text.zh != "", key
        assert fields(text.en) == fields(text.zh), key
        assert fields(text.one) <= fields(text.en), key
        assert CHINESE.search(text.zh), key
        assert not CHINESE.search(text.en), key


def whole(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def used() -> tuple[set[str], set[str]]:
    """Keys that are named whole, and groups of which one is chosen by a value."""
    keys, groups = set(), set()
    for file in (*TEMPLATES, *SOURCES):
        text = whole(file)
        keys |= set(re.findall(r'"([a-z-]+(?:\.[a-z0-9-]+)+)"', text)) & OPERATOR.keys()
        keys |= {f"{a}" for a in re.findall(r'\bt\(\s*"([^"]+)"\s*[,)]', text)}
        groups |= {one for pair in GROUPS.findall(text) for one in pair if one}
        groups |= set(re.findall(r'f"([a-z]+(?:\.[a-z]+)?)\.\{', text))
        groups |= {one.rstrip(".") for one in re.findall(r'"([a-z.-]+\.)" ~', text)}
    return keys, groups


def test_every_key_that_is_asked_for_is_there_and_every_text_is_asked_for() -> None:
    keys, groups = used()
    assert keys - OPERATOR.keys() == set()
    shared = ("state.", "time.", "age.", "page.")
    idle = [
        key
        for key in OPERATOR
        if key not in keys and not any(key.startswith(f"{g}.") for g in groups) and not key.startswith(shared)
    ]
    assert idle == []


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_no_template_says_anything_by_itself(file: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", whole(file), flags=re.S)
    for name in ("aria-label", "title", "placeholder", "alt", "data-name"):
        for value in re.findall(rf'\s{name}="([^"]*)"', text):
            assert not re.search(r"[^\W\d_]", value), f"{name}={value}"
    said = re.sub(r"<code>.*?</code>", "", text, flags=re.S)  # what is typed is the same everywhere
    said = re.sub(r'<!doctype html>|<[^>]*>|\sid="content"', " ", said, flags=re.S)
    words = {word for word in re.findall(r"[^\W\d_]+", said) if word not in WORDS and len(word) > 1}
    assert words == set()


def test_no_python_of_the_page_holds_a_sentence_for_it() -> None:
    for name in ("painter.py", "reading.py", "health.py", "cards.py"):
        text = re.sub(r'""".*?"""', "", whole(PAGE / name), flags=re.S)
        for literal in re.findall(r'"([^"\n]*)"', text):
            assert not re.search(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", literal) or "medveil" in literal


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("de,fr;q=0.9", "en"),
        ("de,zh-Hant-TW;q=0.3", "zh"),
        ("zh;q=0,en", "en"),
        ("zh;q=nonsense", "en"),
        (";;;,,,q=1", "en"),
        ("zh;q=0.5,en;q=0.9", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_likes_most(asked: str, language: str) -> None:
    assert language_of(asked) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_sizes_and_lengths_of_time_are_said_in_each_language(language: str) -> None:
    t = Speaker({**OPERATOR, "x": Text("{count} films", "{count} 张片子", one="a film")}, language)  # type: ignore[arg-type]
    english = language == "en"
    assert t("x", count=1_234) == ("1,234 films" if english else "1,234 张片子")
    assert t("x", count=1) == ("a film" if english else "1 张片子")
    assert t.bytes(44_800_000) == "44.8 MB"
    assert t.duration(660) == ("11 min" if english else "11 分钟")
    assert t.duration(3 * 86400) == ("3 days" if english else "3 天")
    assert t.duration(12) == ("12 s" if english else "12 秒")
    with pytest.raises(KeyError):
        t("no.such.key")
