"""What every page of a researcher has in common: one file with its look, and a policy that forbids the rest.

A page is a template of ``medveil_research/templates`` that begins with ``{% extends "base.html.j2" %}`` and
fills the blocks ``title`` and ``content``; ``write_page(render_page("mine.html.j2", some=value), path)``
makes the file. Use the classes of ``page.css`` and no ``style=``: the policy would refuse it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medveil import look
from medveil.files import replace_durably
from medveil.spoken import spoken
from medveil_research.words import in_bytes, in_seconds, number, plain, short_hash

OWN_STYLE = "report.css"
"""What only a researcher's pages need beside the family's look."""


def render_page(template: str, *, pictures: bool = False, **values: Any) -> str:
    """A page as HTML text; equal values give equal text.

    Every text is escaped, and shown as printable characters only (:func:`medveil.shown.plain`); markup is
    what a template or a drawing has written itself.

    Args:
        template: a file of ``medveil_research/templates`` that extends ``base.html.j2``.
        pictures: whether it holds pictures as ``data:`` addresses; nothing else may be loaded.
    """
    templates = _templates()
    style = look.style(templates, OWN_STYLE)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        *(["img-src data:"] if pictures else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return templates.get_template(template).render(
        {**values, "style": Markup(style), "content_policy": "; ".join(policy), "version": look.version()}
    )


def write_page(html: str, path: Path) -> Path:
    """Put a page where it belongs, whole or not at all; folders are made. Returns: ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, html.encode())
    return path


@functools.cache
def _templates() -> Environment:
    return look.environment(
        "medveil_research",
        {
            "bytes": in_bytes,
            "seconds": in_seconds,
            "number": number,
            "plain": plain,
            "short": short_hash,
            "words": lambda plan: spoken(bytes.fromhex(plan)),
        },
    )
