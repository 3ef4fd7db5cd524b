"""The way in speaks English and Chinese: both whole, and no template says anything by itself."""

from __future__ import annotations

import inspect
import re
import string
from pathlib import Path

import pytest

import aggregator.web.entrance
from aggregator.access import breakglass, sessions
from aggregator.access.oidc import errors as oidc
from aggregator.storage import sessions as stored
from aggregator.ways_in import Provider, Rule, SignIn
from medveil.catalogue.entrance import ENTRANCE
from medveil.errors import Error
from rooms import ROOT

FOLDER = Path(aggregator.web.entrance.__file__).parent
TEMPLATES = sorted((FOLDER / "templates").glob("*.j2"))
SAME = {"MedVeil", "medveil", "aggregator", "page"}
"""Our name, and what a command line says."""
AT_A_TERMINAL = {"no-such-session", "weak-password-here", "sign-in-first"}
"""Not shown by these pages."""


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_texts_are_there_and_take_the_same_values() -> None:
    for key, text in ENTRANCE.items():
        assert text.en.strip() == text.en != "", key
        assert fields(text.en) == fields(text.zh), key
        assert re.search(r"[\u4e00-\u9fff]", text.zh), key
        assert not re.search(r"[\u4e00-\u9fff]", text.en), key


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_no_template_says_anything_by_itself_and_every_key_is_there(file: Path) -> None:
    whole = file.read_text("utf-8")
    assert set(re.findall(r'\bt\(\s*"([^"]+)"', whole)) <= ENTRANCE.keys()
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<code>.*?</code>", "", whole, flags=re.S)
    said = re.sub(r'<!doctype html>|<[^>]*>|\sid="[a-z]+"|\sclass="[a-z]+"', " ", text, flags=re.S)
    assert {word for word in re.findall(r"[^\W\d_]{2,}", said) if word not in SAME} == set()


def test_every_setting_of_sign_in_is_explained_to_the_admin() -> None:
    page = (ROOT / "docs" / "admin.md").read_text("utf-8")
    names = {name for model in (SignIn, Provider, Rule) for name in model.model_fields}
    assert {name for name in names if f"`{name}`" not in page and f'"{name}"' not in page} == set()


def test_what_these_pages_refuse_is_said_in_both_languages() -> None:
    for module in (breakglass, sessions, stored, oidc):
        for _, one in inspect.getmembers(module, inspect.isclass):
            if issubclass(one, Error) and one.__module__ == module.__name__ and one.code not in AT_A_TERMINAL:
                for part in ("what", "meaning", "remedy"):
                    assert f"error.{one.code}.{part}" in ENTRANCE, one.code
