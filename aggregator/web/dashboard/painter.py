"""Values → HTML, in the reader's language. Every text comes from the catalogue, or is somebody else's own."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from shlex import quote
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from aggregator.settings import Settings
from aggregator.web.dashboard import charted, drawing, sentences
from aggregator.web.dashboard.door import Viewer
from aggregator.web.dashboard.parts import Part, Parts, filled, moment
from aggregator.web.dashboard.screen import Screen, View
from medveil import look
from medveil.catalogue import NAMES, TAGS, Language, Speaker
from medveil.catalogue.dashboard import DASHBOARD
from medveil.look import svg
from medveil.shown import plain
from medveil.values import Frozen

OWN_STYLES = ("board.css", "measures.css")
SHORTEST_PLAN = 12
"""Digits of a plan's hash that a command is given."""
KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


class Painter:
    """Draws the dashboard of one consortium."""

    def __init__(self, settings: Settings, screens: tuple[Screen, ...]) -> None:
        self._screens = screens
        self._templates = look.environment("aggregator.web.dashboard", {})
        self._templates.globals |= {
            "consortium": settings.title,
            "languages": NAMES,
            "tags": TAGS,
            "version": look.version(),
            "icon": icon,
            "badge": badge,
            "when": when,
            "clock": clock,
            "day": day,
            "moment": moment,
            "figure": figure,
            "short": short,
            "charted": charted,
            "drawing": drawing,
            "sentences": sentences,
            "svg": svg,
        }
        self.files = {
            "board.css": (look.style(self._templates, *OWN_STYLES).encode(), "text/css"),
            "icon.svg": (look.icon(), "image/svg+xml"),
        }
        """What pages load: name → bytes and media type."""
        for file in (files("aggregator.web.dashboard") / "static").iterdir():
            kind = KINDS.get(file.name.rpartition(".")[2])
            if kind is not None:
                self.files[file.name] = file.read_bytes(), kind
        self._templates.globals["static"] = self._static

    def _static(self, name: str) -> str:
        """The address of a file, another one for other bytes: browsers keep it for ever."""
        body, _ = self.files[name]
        return f"/static/{name}?{hashlib.sha256(body).hexdigest()[:12]}"

    def warm(self) -> None:
        """Read every template now, so that the first visitor waits for none."""
        look.warm(self._templates)

    def parts(self, screen: Screen, value: Frozen, view: View, language: Language) -> dict[str, Part]:
        """What a screen shows, in parts. The whole content is the part ``page``."""
        t, part = Speaker(DASHBOARD, language), Parts()
        template = self._templates.get_template("content.html.j2")
        template.render(
            {
                **_of(t),
                "v": value,
                "view": view,
                "part": part,
                "screen": screen,
                "command": command_of(screen, view),
            }
        )
        return part.made

    def page(
        self,
        screen: Screen,
        parts: Mapping[str, Part],
        view: View,
        viewer: Viewer,
        language: Language,
        **own: Any,
    ) -> str:
        """A whole page around its content.

        Args:
            own: ``mark`` of the content, ``now`` (Unix seconds), ``back`` (this page's address).
        """
        t = Speaker(DASHBOARD, language)
        html = self._templates.get_template("frame.html.j2").render(
            {
                **_of(t),
                "screen": screen,
                "content": Markup(parts["page"].html),
                "viewer": viewer,
                "view": view,
                "general": self._menu(viewer, of_a_study=False),
                "studys": self._menu(viewer, of_a_study=True) if screen.of_a_study else (),
                "address": address,
                "twin": address(screen.twin, view),
                **own,
            }
        )
        return filled(html, t, own["now"])

    def standing(self, template: str, language: Language, **values: Any) -> str:
        """A page that stands alone, without navigation and without anything that lives."""
        t = Speaker(DASHBOARD, language)
        return self._templates.get_template(template).render({**_of(t), **values})

    def refusal(self, language: Language, status: int, said: Mapping[str, str]) -> str:
        """A page that says why there is none."""
        t = Speaker(DASHBOARD, language)
        return self._templates.get_template("refusal.html.j2").render(
            {**_of(t), "status": status, "said": said}
        )

    def _menu(self, viewer: Viewer, *, of_a_study: bool) -> list[Screen]:
        return [
            one
            for one in self._screens
            if one.place and one.of_a_study == of_a_study and viewer.role in one.roles
        ]


def _of(t: Speaker) -> dict[str, Any]:
    """What every template may use beside its values."""

    def named(group: str, word: object) -> str:
        """A word of the protocol in the reader's language; itself where there is none."""
        key = f"{group}.{word}"
        return t(key) if t.knows(key) else str(word)

    return {"t": t, "named": named}


def address(path: str, view: View, *, filters: bool = True) -> str:
    """Where a screen lies for what is looked at now, with its filters."""
    found = path.format(**view.path) if "{" in path else path
    query = urlencode(view.filters) if filters else ""
    return f"{found}?{query}" if query else found


def command_of(screen: Screen, view: View) -> str:
    """The line for a terminal."""
    plan = view.path.get("plan", "")[:SHORTEST_PLAN]
    said = [f"--{name} {quote(plain(view.filters[name]))}" for name in screen.options if name in view.filters]
    return " ".join([screen.command.format(**{**view.path, "plan": plan}), *said])


def icon(name: str) -> Markup:
    """An icon of ``icons.svg``."""
    use = svg.tag("use", href=f"#i-{name}")
    return svg.tag("svg", use, class_="icon", aria_hidden="true")


def badge(state: str, words: str) -> Markup:
    """A state: icon, word and colour."""
    return svg.tag("span", icon(state), words, class_=f"state {state}")


def _utc(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)


def clock(at: float, *, seconds: bool = False) -> str:
    """A time of day, UTC."""
    return f"{_utc(at):%H:%M:%S}" if seconds else f"{_utc(at):%H:%M}"


def day(at: float) -> str:
    """A day, UTC."""
    return f"{_utc(at):%Y-%m-%d}"


def when(at: float | None, *, seconds: bool = False, ago: bool = True) -> Markup:
    """A moment, absolute and how long ago; a dash where it is not known."""
    if at is None:
        return Markup("–")
    text = f"{day(at)} {clock(at, seconds=seconds)}"
    shown = svg.tag("time", text, datetime=_utc(at).isoformat(timespec="seconds"))
    if not ago:
        return shown
    return shown + Markup(" ") + svg.tag("span", "· ", moment("ago", at), class_="ago")


def figure(epsilon: float | None) -> str:
    """An epsilon as people compare it."""
    return "–" if epsilon is None else f"{epsilon:.2f}"


def short(hash_: str) -> str:
    """The beginning of a hash, in groups."""
    return f"{hash_[:4]} {hash_[4:8]} {hash_[8:12]} …"
