"""What every page has in common: the look, the policy that forbids script and network, and how text is shown.

A page is a template of ``medveil_research/templates`` that begins with ``{% extends "base.html.j2" %}`` and
fills the blocks ``title`` and ``content``; ``write_page(render_page("mine.html.j2", some=value), path)``
makes the file. Use the classes of ``page.css`` and no ``style=``: the policy would refuse it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medveil import shown
from medveil.files import replace_durably
from medveil.spoken import spoken
from medveil_research.words import in_bytes, in_seconds, number, plain, short_hash

STYLES = ("tokens.css", "page.css", "report.css")
"""In this order: colours and distances, the family's look, and what only a researcher's pages need."""
LONGEST = 2000
"""Most characters of one text on a page."""


def render_page(template: str, *, pictures: bool = False, **values: Any) -> str:
    """A page as HTML text; equal values give equal text.

    Every text is escaped, and shown as printable characters only (:func:`medveil.shown.plain`); markup is
    what a template or a drawing has written itself.

    Args:
        template: a file of ``medveil_research/templates`` that extends ``base.html.j2``.
        pictures: whether it holds pictures as ``data:`` addresses; nothing else may be loaded.
    """
    environment = _environment()
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        *(["img-src data:"] if pictures else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return environment.get_template(template).render(
        {**values, "style": Markup(style), "content_policy": "; ".join(policy), "version": _version()}
    )


def write_page(html: str, path: Path) -> Path:
    """Put a page where it belongs, whole or not at all; folders are made. Returns: ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, html.encode())
    return path


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medveil_research"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "bytes": in_bytes,
        "seconds": in_seconds,
        "number": number,
        "plain": plain,
        "short": short_hash,
        "words": lambda plan: spoken(bytes.fromhex(plan)),
    }
    return environment


def _visible(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    before, after = value[:1] == " ", value[1:][-1:] == " "  # a template's own, between two words
    return " " * before + shown.plain(value, LONGEST) + " " * after


@functools.cache
def _style() -> str:
    loader = _environment().loader
    assert loader is not None
    return "\n".join(loader.get_source(_environment(), name)[0] for name in STYLES)


def _version() -> str:
    return importlib.metadata.version("medveil")
