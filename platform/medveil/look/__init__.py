"""How MedVeil looks: one family of pages, whoever serves them and whoever reads them.

``templates/tokens.css`` holds every colour, distance and size; ``templates/page.css`` holds the rest and
names no colour. A page is a template of its own room that begins with ``{% extends "page.html.j2" %}`` and
fills blocks; :func:`environment` finds both. A state is a class of ``page.css``, an icon of ``icons.svg`` and
a word, always all three. Drawings: :mod:`medveil.look.svg`;
what browsers are told of it: :mod:`medveil.look.browsers`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medveil import shown

STYLES = ("tokens.css", "page.css")
"""In this order: colours and distances, the family's look. A room's own style comes after them."""
LONGEST = 2000
"""Most characters of one text on a page."""


def environment(package: str, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """Templates of a package, and those that all pages share.

    Guarantees: every text is escaped, and shown as printable characters only (:func:`medveil.shown.plain`);
        markup is what a template or a drawing has written itself. A name without a value is an error.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("medveil.look")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    made.filters |= filters
    return made


def style(made: Environment, *own: str) -> str:
    """The family's style and a room's own files after it, as one text."""
    loader = made.loader
    assert loader is not None
    return "\n".join(loader.get_source(made, name)[0] for name in (*STYLES, *own))


def icon() -> bytes:
    """The family's icon (SVG)."""
    return (files("medveil.look") / "templates" / "icon.svg").read_bytes()


def warm(made: Environment) -> None:
    """Read every template now, so that the first visitor waits for none."""
    for name in made.list_templates(extensions=["j2"]):
        made.get_template(name)


def version() -> str:
    """Of MedVeil, as pages name it."""
    return importlib.metadata.version("medveil")


def _visible(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    before, after = value[:1] == " ", value[1:][-1:] == " "  # a template's own, between two words
    return " " * before + shown.plain(value, LONGEST) + " " * after
