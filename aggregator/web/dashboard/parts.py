"""A page in parts, so that only what has changed is sent again; and moments that go on by themselves.

A template marks a part with ``{% call part("lane-porto", tag="li") %} … {% endcall %}``. Parts may lie in one
another. A part is sent again when what it holds beside its own parts has changed.

How long ago something was would change every second. So a page holds the moment alone, as an empty element,
and :func:`filled` or the script of the page writes what it says now.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from medveil.catalogue import Speaker
from medveil.look import svg

_MOMENT = re.compile(r'<time data-(ago|since|left)="(\d+)"( [^>]*)?></time>')
ROOT = "page"
"""The part that all others lie in."""


@dataclass(frozen=True)
class Part:
    """One element of a page."""

    html: str
    inside: frozenset[str]
    """Parts that lie in it, at any depth."""
    skeleton: str
    """Its markup with names in place of the parts in it."""


class Parts:
    """Collects the parts of one page while it is rendered; the function ``part`` of a template."""

    def __init__(self) -> None:
        self.made: dict[str, Part] = {}
        self._direct: list[list[str]] = [[]]

    def __call__(
        self, name: str, caller: Callable[[], str], *, tag: str = "section", **attributes: object
    ) -> Markup:
        """One part; ``name`` is its element's id."""
        self._direct.append([])
        body = str(caller())
        direct = self._direct.pop()
        self._direct[-1].append(name)
        html = svg.tag(tag, Markup(body), id=name, **attributes)
        skeleton, inside = str(html), set(direct)
        for one in direct:
            skeleton = skeleton.replace(self.made[one].html, f"<{one}>", 1)
            inside |= self.made[one].inside
        self.made[name] = Part(str(html), frozenset(inside), skeleton)
        return html


def changed(before: dict[str, Part], now: dict[str, Part]) -> dict[str, str]:
    """Name → markup of the parts that bring a page from one state to the other; none lies in another."""
    new = [name for name, part in now.items() if name not in before or before[name].skeleton != part.skeleton]
    covered = {inner for name in new for inner in now[name].inside}
    return {name: now[name].html for name in new if name not in covered}


def mark_of(parts: dict[str, Part]) -> str:
    """One name for what a page shows. It is the same in every process, and tells nothing but sameness."""
    root = parts[ROOT].html if ROOT in parts else ""
    return hashlib.sha256(root.encode()).hexdigest()[:32]


def moment(kind: str, at: float) -> Markup:
    """An empty element for a moment: ``ago``, ``since`` (how long it lasts) or ``left`` (until then)."""
    return svg.tag("time", **{f"data_{kind}": str(max(0, round(at)))})


def filled(html: str, t: Speaker, now: float) -> str:
    """The same with words in every moment."""

    def said(found: re.Match[str]) -> str:
        kind, at = found[1], int(found[2])
        words = t.duration(max(0.0, at - now if kind == "left" else now - at))
        words = t("time.ago", age=words) if kind == "ago" else words
        return found[0].replace("></time>", f">{words}</time>")

    return _MOMENT.sub(said, html)
