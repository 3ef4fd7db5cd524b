"""Values → HTML, in the reader's language. Every text comes from the catalogue, or is somebody else's own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from markupsafe import Markup, escape

from hospital_node.page.door import Session
from hospital_node.page.values import BigState, Panels, PlanNow, Training, Trouble
from medveil import look
from medveil.catalogue import NAMES, TAGS, Language, Speaker
from medveil.catalogue.operator import OPERATOR
from medveil.look import svg
from medveil.shown import plain

OWN_STYLE = "operator.css"
PARTS = (
    "emblem",
    "now",
    "lead",
    "calls",
    "verbs",
    "leaves",
    "requests",
    "training",
    "data",
    "ledger",
    "health",
)
"""What is sent again when it has changed; each is an element with this id."""
TONES = {"running": "working", "waiting": "waiting", "paused": "late", "needs": "needs", "off": "dropped"}
STANDS = {
    "refused": "refused",
    "approved": "done",
    "running": "working",
    "finished": "done",
    "left": "dropped",
}
CAP_AT = 0.8
"""Where on a bar the cap's red line stands."""


class Painter:
    """Draws the pages of one node."""

    def __init__(self, name: str) -> None:
        self._templates = look.environment("hospital_node.page", {})
        self._templates.globals |= {
            "name": name,
            "icon": icon,
            "badge": badge,
            "when": when,
            "clock": clock,
            "figure": figure,
            "small": small,
            "languages": NAMES,
            "tags": TAGS,
            "tones": TONES,
            "stands": STANDS,
            "indented": indented,
        }

    def warm(self) -> None:
        """Read every template now, so that the first visitor waits for none."""
        look.warm(self._templates)

    def style(self) -> str:
        """The one style sheet."""
        return look.style(self._templates, OWN_STYLE)

    def page(self, template: str, language: Language, **values: Any) -> str:
        """One of the small pages: sign-in, a refusal, the support bundle."""
        t = Speaker(OPERATOR, language)
        refused = values.pop("refused", None)
        said = None if refused is None else _said(t, refused)
        return self._templates.get_template(template).render({**_of(t), **values, "refused": said})

    def operator(self, panels: Panels, language: Language, session: Session, now: float) -> str:
        """The page itself. What the session was to be told once is told by it."""
        values = self._values(panels, language, session)
        mark = mark_of(panels, language, session)
        notices, refused = list(session.notices), session.refused
        session.notices.clear()
        session.refused = None
        said = None if refused is None else _said(values["t"], Trouble.of(refused))
        own = {"now": now, "notices": notices, "refused": said, "mark": mark, "here": session.seal("/here")}
        return self._templates.get_template("operator.html.j2").render({**values, **own})

    def parts(self, panels: Panels, language: Language, session: Session) -> dict[str, str]:
        """Id → its element, as the page has it."""
        values = self._values(panels, language, session)
        return {
            name: self._templates.get_template(f"parts/{name}.html.j2").render(values).strip()
            for name in PARTS
        }

    def _values(self, panels: Panels, language: Language, session: Session) -> dict[str, Any]:
        t = Speaker(OPERATOR, language)
        sentence, lead = sentences(t, panels.state)
        cap = 1.0 if isinstance(panels.ledger, Trouble) else panels.ledger.cap

        def seal(action: str) -> Markup:
            return Markup('<input type="hidden" name="seal" value="{}">').format(session.seal(action))

        def bar(spent: float, finished: float) -> Markup:
            return budget_bar(t, spent, finished, cap)

        ledger = panels.ledger
        return {
            **_of(t),
            "p": panels,
            "seal": seal,
            "bar": bar,
            "sentence": sentence,
            "lead": lead,
            "progress": Markup() if isinstance(panels.training, Trouble) else progress(t, panels.training),
            "budget": Markup() if isinstance(ledger, Trouble) else bar(ledger.spent, ledger.promised),
        }


def _of(t: Speaker) -> dict[str, Any]:
    """What every template may use beside its values."""

    def named(group: str, word: str) -> str:
        """A word of the protocol in the reader's language; itself where there is none."""
        key = f"{group}.{word}"
        return t(key) if t.knows(key) else word

    def spelt(values: Mapping[str, object]) -> dict[str, object]:
        return {name: _spelt(t, name, value) for name, value in values.items()}

    return {"t": t, "named": named, "spelt": spelt, "spoken_error": lambda trouble: _said(t, trouble)}


def _spelt(t: Speaker, name: str, value: object) -> object:
    if name == "at" and isinstance(value, float):
        return clock(value, day=True)
    if name == "bytes" and isinstance(value, int):
        return t.bytes(value)
    return value


def _said(t: Speaker, trouble: Trouble) -> Trouble:
    """In the reader's language, where the catalogue has it."""
    key = f"error.{trouble.code}"
    if not t.knows(f"{key}.what"):
        return trouble
    return replace(trouble, what=t(f"{key}.what"), meaning=t(f"{key}.meaning"), remedy=t(f"{key}.remedy"))


def sentences(t: Speaker, state: BigState) -> tuple[str, str]:
    """What is going on and what it waits for: the heading and the sentence under it."""
    if state.kind in ("off", "paused"):
        return t(f"now.{state.kind}"), t(f"lead.{state.kind}")
    one = _foremost(state.plans)
    if one is None:
        return t("now.no-plan"), t("lead.nothing")
    heading, lead = _of_plan(t, one)
    if state.kind == "needs":
        heading = t("now.needs")
    return heading, f"{lead} {t('lead.leaving')}" if one.leaving else lead


def _foremost(plans: tuple[PlanNow, ...]) -> PlanNow | None:
    order = sorted(plans, key=lambda one: (one.going is None, one.stand != "running"))
    return order[0] if order else None


def _of_plan(t: Speaker, one: PlanNow) -> tuple[str, str]:
    place = {"round": one.round, "rounds": one.rounds}
    if one.going is not None:
        left = t.duration(one.going.left_s)
        return t(f"now.{one.going.part}", **place), t(f"lead.{one.going.part}", study=one.study, left=left)
    if one.stand == "running":
        return t("now.round", **place), t("lead.round", study=one.study)
    if one.stand in ("approvals", "ready"):
        values = {"study": one.study, "approvals": one.approvals, "needed": one.approvals_needed}
        return t("now.others"), t(f"lead.{one.stand}", **values)
    key = "lead.away" if one.stand == "away" else "lead.waiting"
    return t("now.nothing"), t(key, study=one.study)


def progress(t: Speaker, training: Training) -> Markup:
    """How far the work in hand is, as a bar; empty where nothing is computed."""
    going = None if training.now is None else training.now.going
    if going is None:
        return Markup()
    key = "training.image" if going.part == "images" else "training.step"
    done = t(key, done=going.done, total=going.total)
    share = going.done / max(1, going.total)
    bar = svg.tag("rect", class_="tone", x=0, y=4, width=svg.percent(share), height=14, rx=3)
    left = t("training.left", left=t.duration(going.left_s))
    return svg.drawing(
        f"{done}, {left}",
        44,
        svg.tag("rect", class_="track", x=0, y=4, width="100%", height=14, rx=3),
        svg.tag("g", bar, class_="working"),
        svg.text(done, "strong", x=0, y=36),
        svg.text(left, x="100%", y=36, text_anchor="end"),
    )


def budget_bar(t: Speaker, spent: float, finished: float, cap: float) -> Markup:
    """Spent solid, still to come dashed, the cap a red line."""
    scale = CAP_AT / cap if cap > 0 else 0.0
    have, want = min(1.0, spent * scale), min(1.0, finished * scale)
    words = {"spent": figure(spent), "finished": figure(finished), "cap": figure(cap)}
    ahead = svg.tag(
        "rect",
        class_="outline",
        x=svg.percent(have),
        y=10,
        width=svg.percent(max(0.0, want - have)),
        height=14,
    )
    return svg.drawing(
        t("ledger.bar", **words),
        34,
        svg.tag("rect", class_="track", x=0, y=10, width="100%", height=14, rx=3),
        svg.tag("rect", class_="accent", x=0, y=10, width=svg.percent(have), height=14),
        svg.tag("g", ahead if want > have else Markup(), class_="waiting"),
        svg.tag("line", class_="deadline", x1=svg.percent(CAP_AT), x2=svg.percent(CAP_AT), y1=4, y2=30),
    )


def icon(name: str) -> Markup:
    """One of ``icons.svg``."""
    return svg.tag("svg", svg.tag("use", href=f"#i-{name}"), class_="icon", aria_hidden="true")


def badge(kind: str, words: str) -> Markup:
    """A state: icon, word and colour."""
    return svg.tag("span", icon(kind), words, class_=f"state {kind}")


def clock(at: float, *, zone: bool = False, day: bool = False) -> str:
    """A moment on this machine's clock."""
    moment = dt.datetime.fromtimestamp(at).astimezone()
    text = f"{moment:%Y-%m-%d %H:%M}" if day else f"{moment:%H:%M:%S}"
    if not zone:
        return text
    offset = f"{moment:%z}"
    return f"{moment:%Y-%m-%d} {text} UTC{offset[:3]}:{offset[3:]}"


def when(at: float) -> Markup:
    """A moment, absolute; the script adds how long ago it was."""
    moment = dt.datetime.fromtimestamp(at).astimezone()
    return svg.tag("time", clock(at, day=True), datetime=moment.isoformat(timespec="seconds"))


def indented(line: str) -> Markup:
    """A line of JSON that is ours, with the blanks at its beginning."""
    text = line.lstrip(" ")
    return Markup(" " * (len(line) - len(text))) + escape(plain(text, look.LONGEST))


def figure(epsilon: float) -> str:
    """An epsilon as people compare it."""
    return f"{epsilon:.2f}"


def small(value: float) -> str:
    """A small number without an exponent."""
    text = f"{value:.12f}".rstrip("0")
    return text if value >= 1e-9 else f"{value:g}"


def mark_of(panels: Panels, language: Language, session: Session) -> str:
    """One name for what a browser shows of these values."""
    return session.seal(f"{language} {panels!r}")[:32]
