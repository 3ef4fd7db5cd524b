"""The timeline of an attempt: a lane for each hospital over one axis, with deadline and quorum.

Widths are in per cent and text is in pixels, so nothing shrinks on a phone. The present is drawn in steps of
the axis, so that a page that nothing happens on is not drawn again every second.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from aggregator.watching.values import Lane, PhaseSpan, Step, Timeline
from medveil.catalogue import Speaker
from medveil.look import svg
from medveil.rounds import Phase

HEIGHT, MIDDLE, THICK = 44, 22, 12
AXIS_HEIGHT = 74
STEPS_OF_NOW = 240
LEAST_S = 20.0
"""The shortest time that an axis shows."""
SIZES = (
    1,
    2,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
    604800,
)
MOST_TICKS = 7
EDGE = 0.06
"""Share of an axis at each end where no time is written."""
STEPS: tuple[Step, ...] = ("keys", "training", "ready", "upload", "agreed", "shares")
"""What a hospital does in an attempt that goes well, in order."""


@dataclass(frozen=True)
class Axis:
    """Moments → places. All moments are Unix seconds."""

    start: float
    end: float
    now: float | None
    """None once the attempt has ended."""
    deadline: float | None
    """Of the present phase."""
    quorum: float | None
    """When as many hospitals as a sum takes had sent masked vectors; before that phase, were ready."""

    def place(self, at: float) -> float:
        """From 0 to 1."""
        return min(max((at - self.start) / (self.end - self.start), 0.0), 1.0)

    def x(self, at: float) -> str:
        """In per cent."""
        return svg.percent(self.place(at))

    @property
    def deadline_is_far(self) -> bool:
        """Whether it lies beyond the axis."""
        return self.deadline is not None and self.deadline > self.end


def axis_of(line: Timeline) -> Axis:
    """The axis of an attempt. One that goes on leaves room for what is to come."""
    present = line.phases[-1] if line.phases else None
    deadline = present.ends_by if present is not None and line.ended is None else None
    start = line.opened
    if line.ended is not None:
        end, now = max(line.ended, start + 1.0), None
        end += 0.06 * (end - start)
    else:
        passed = max(line.as_of - start, LEAST_S / 2)
        near = deadline is not None and deadline - start <= 3 * passed
        span = max(LEAST_S, deadline - start if near and deadline is not None else 1.5 * passed)
        span = _rounded(span)
        step = span / STEPS_OF_NOW
        end = start + span * 1.03
        now = start + math.floor((line.as_of - start) / step) * step
    return Axis(start, end, now, deadline, _quorum(line))


def _rounded(span: float) -> float:
    """A little longer, in steps of a fifth: the axis stands still for a while before it grows."""
    return float(1.2 ** math.ceil(math.log(span) / math.log(1.2)))


def _quorum(line: Timeline) -> float | None:
    step = "upload" if any(span.phase is Phase.UPLOAD for span in line.phases) else "ready"
    there = sorted(one.at for lane in line.lanes for one in lane.reached if one.step == step)
    return there[line.quorum - 1] if 0 < line.quorum <= len(there) else None


def head(t: Speaker, line: Timeline, axis: Axis) -> Markup:
    """The axis with its times, and the words of the lines."""
    size = next((s for s in SIZES if (axis.end - axis.start) / s <= MOST_TICKS), SIZES[-1])
    marks: list[Markup] = []
    first = math.ceil(axis.start / size) * size
    for number, at in enumerate(_every(first, axis.end, size)):
        x = axis.x(at)
        marks.append(svg.tag("line", class_="base", x1=x, x2=x, y1=44, y2=50))
        if EDGE <= axis.place(at) <= 1 - EDGE:  # else it would be cut off, or lie over the next one
            kind = "minor" if number % 2 else None
            marks.append(svg.text(_time(at, size), kind, x=x, y=64, text_anchor="middle"))
    words: list[Markup] = []
    if axis.deadline is not None:
        text = t("axis.deadline", time=_time(axis.deadline, 60))
        if axis.deadline_is_far:
            words.append(svg.text(f"{text} →", "deadline-word", x="100%", y=12, text_anchor="end"))
        else:
            words.append(_word(axis, axis.deadline, text, "deadline-word", 12))
    if axis.quorum is not None:
        words.append(
            _word(axis, axis.quorum, t("axis.quorum", time=_time(axis.quorum, size)), "quorum-word", 32)
        )
    if axis.now is not None and (
        axis.quorum is None or abs(axis.place(axis.quorum) - axis.place(axis.now)) > 0.3
    ):
        words.append(_word(axis, axis.now, t("axis.now", time=_time(axis.now, size)), "strong", 32))
    return svg.tag(
        "svg",
        *words,
        svg.tag("line", class_="base", x1=0, x2="100%", y1=50, y2=50),
        *marks,
        *_uprights(axis, 38, AXIS_HEIGHT),
        class_="draw",
        height=AXIS_HEIGHT,
        aria_hidden="true",
    )


def _every(first: float, end: float, size: float) -> Iterator[float]:
    while first <= end:
        yield first
        first += size


def _word(axis: Axis, at: float, text: str, kind: str, y: int) -> Markup:
    place = axis.place(at)
    anchor = "end" if place > 0.75 else "start" if place < 0.25 else "middle"
    return svg.text(text, kind, x=axis.x(at), y=y, text_anchor=anchor)


def _time(at: float, size: float) -> str:
    moment = dt.datetime.fromtimestamp(at, dt.UTC)
    if size < 60:
        return f"{moment:%H:%M:%S}"
    return f"{moment:%d %b}" if size >= 86400 else f"{moment:%H:%M}"


def _uprights(axis: Axis, top: int, bottom: int) -> list[Markup]:
    found = [("now", axis.now), ("quorum", axis.quorum)]
    found += [] if axis.deadline_is_far else [("deadline", axis.deadline)]
    return [
        svg.tag("line", class_=kind, x1=axis.x(at), x2=axis.x(at), y1=top, y2=bottom)
        for kind, at in found
        if at is not None
    ]


def lane(axis: Axis, line: Timeline, one: Lane, tone: str, label: str) -> Markup:
    """What one hospital has done, as bars.

    Args:
        tone: the state in which it stands. label: the same in words.
    """
    at: dict[str, float] = {step.step: step.at for step in one.reached}
    spans = {span.phase: span for span in line.phases}
    over = axis.now if axis.now is not None else axis.end
    drawn = [
        svg.tag("line", class_="hair", x1=0, x2="100%", y1=MIDDLE, y2=MIDDLE),
        *_uprights(axis, 0, HEIGHT),
    ]
    last = at.get("invited", line.opened)
    for kind, begin, end, solid in _bars(one, at, spans, over):
        drawn.append(_bar(axis, kind, begin, end, solid))
        last = max(last, end)
    drawn.append(_pin(axis, tone, last))
    return svg.drawing(label, HEIGHT, *drawn)


def _bars(
    one: Lane, at: dict[str, float], spans: dict[Phase, PhaseSpan], now: float
) -> Iterator[tuple[str, float, float, bool]]:
    """Tone, beginning, end, and whether it is solid (what is waited through is a thread)."""
    if not at:
        return
    asked = one.stand == "asked"

    def open_end(phase: Phase) -> float | None:
        span = spans.get(phase)
        if span is None:
            return None
        return span.ended if span.ended is not None else now if asked else None

    keys = at.get("training") or at.get("keys")
    opened = at.get("invited", 0.0)
    if keys is not None:
        yield "waiting", opened, keys, True
    elif (end := open_end(Phase.ADVERTISE)) is not None:
        yield "waiting", opened, end, False
    if "training" in at:
        end = at.get("ready") or open_end(Phase.COMMIT) or (now if asked else None)
        silent = one.last_heard if asked and one.in_reach is False else None
        if end is not None and silent is not None and at["training"] < silent < end and "ready" not in at:
            yield "working", at["training"], silent, True
            yield "late", silent, end, True
        elif end is not None:
            yield "working", at["training"], end, True
    upload = spans.get(Phase.UPLOAD)
    if "ready" in at:
        until = (
            upload.began if upload is not None else now if one.stand in ("answered", "asked") else at["ready"]
        )
        yield "waiting", at["ready"], until, False
        if upload is not None:
            end = at.get("upload") or open_end(Phase.UPLOAD)
            if end is not None:
                yield "sent", upload.began, end, True
            through = at.get("gave-up") or (spans[Phase.AGREE].began if Phase.AGREE in spans else now)
            if "upload" in at and (asked or one.stand in ("answered", "in-the-sum") or "gave-up" in at):
                yield "waiting", at["upload"], through, False
    agree = spans.get(Phase.AGREE)
    closing = at.get("shares") or at.get("agreed")
    if agree is not None and closing is not None:
        yield "done", agree.began, closing, True


def _bar(axis: Axis, kind: str, begin: float, end: float, solid: bool) -> Markup:
    left, right = axis.place(begin), axis.place(end)
    if not solid:
        x1, x2 = svg.percent(left), svg.percent(right)
        thread = svg.tag("line", class_="thread", x1=x1, x2=x2, y1=MIDDLE, y2=MIDDLE)
        return svg.tag("g", thread, class_=kind)
    width = svg.percent(max(right - left, 0.006))
    place = svg.percent(left)
    if kind == "late":
        same = {"x": place, "y": MIDDLE - THICK / 2, "width": width, "height": THICK}
        hatch = svg.tag("rect", fill="url(#hatch-late)", **same)
        return svg.tag(
            "g",
            svg.tag("rect", class_="paper", **same),
            hatch,
            svg.tag("rect", class_="outline", **same),
            class_=kind,
        )
    bar = svg.tag("rect", class_="tone", x=place, y=MIDDLE - THICK / 2, width=width, height=THICK, rx=2)
    return svg.tag("g", bar, class_=kind)


def _pin(axis: Axis, tone: str, at: float) -> Markup:
    icon = svg.tag(
        "svg", svg.tag("use", href=f"#i-{tone}"), class_="icon tone-icon", x=-9, y=-9, width=18, height=18
    )
    place = svg.percent(min(max(axis.place(at), 0.012), 0.985))
    return svg.tag(
        "svg",
        svg.tag("circle", class_="halo", r=12),
        icon,
        x=place,
        y=MIDDLE,
        overflow="visible",
        class_=tone,
    )


def budget(spent: float, end: float, label: str) -> Markup:
    """Privacy spent, and what it will be at the end, as one bar."""
    most = max(end, spent, 1e-9) * 1.04
    inner = [
        svg.tag("rect", class_="track", x=0, y=8, width="100%", height=16, rx=4),
        svg.tag(
            "g",
            svg.tag("rect", class_="outline", x=0, y=8, width=svg.percent(end / most), height=16),
            class_="waiting",
        ),
        svg.tag("rect", class_="accent", x=0, y=8, width=svg.percent(spent / most), height=16, rx=2),
    ]
    return svg.drawing(label, 32, *inner)


def progress(done: int, rounds: int, goes_on: bool) -> Markup:
    """How many rounds are over, as one bar."""
    share = min(done / max(rounds, 1), 1.0)
    inner = [svg.tag("rect", class_="track", x=0, y=1, width="100%", height=10, rx=4)]
    if goes_on and done < rounds:
        step = svg.tag(
            "rect",
            class_="outline",
            x=svg.percent(share),
            y=1,
            width=svg.percent(1 / max(rounds, 1)),
            height=10,
        )
        inner.append(svg.tag("g", step, class_="working"))
    inner.append(svg.tag("rect", class_="accent", x=0, y=1, width=svg.percent(share), height=10, rx=4))
    return svg.tag("svg", *inner, class_="draw", height=12, aria_hidden="true")


Stands = Callable[[Speaker, Lane, Timeline], tuple[str, str]]


def tally(t: Speaker, line: Timeline, stand: Stands) -> list[tuple[str, str, int]]:
    """State, word and how many hospitals stand so."""
    found = Counter(stand(t, one, line) for one in line.lanes)
    order = ("done", "sent", "working", "waiting", "late", "dropped", "refused")
    return sorted(
        ((tone, words, n) for (tone, words), n in found.items()), key=lambda one: order.index(one[0])
    )


def told(t: Speaker, one: Lane, words: str) -> str:
    """A lane in words, for whoever does not see it."""
    steps = [t("lane.step", step=t(f"lane.reached.{s.step}"), time=_time(s.at, 1)) for s in one.reached]
    return f"{one.hospital}: {', '.join([*steps, words])}"


def steps(one: Lane) -> list[tuple[Step, float | None]]:
    """When a hospital reached each step; None if it has not."""
    at = {reached.step: reached.at for reached in one.reached}
    return [(step, at.get(step)) for step in STEPS]
