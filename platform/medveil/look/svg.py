"""Small drawings written by hand: colours are classes of ``page.css``, text is in pixels and never shrinks.

Two kinds: a line of a table or a chart over rounds fills whatever width there is (places in per cent, class
``draw``); a square with two axes from 0 to 1 is 360 wide, the width of a phone (class ``plot``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup, escape

LEFT, TOP, SIDE = 44, 16, 300
"""Of the square: where its inner part begins, and how long it is, in pixels."""
Point = tuple[float, float]


def tag(name: str, /, *inside: str, **attributes: object) -> Markup:
    """An element; texts and values are escaped. ``class_`` is ``class``, ``text_anchor`` gets a hyphen."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{''.join(escape(one) for one in inside)}</{name}>")


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def drawing(label: str, height: int, *inside: str) -> Markup:
    """As wide as its place, ``height`` pixels high; ``label`` says in words what it shows."""
    return tag("svg", *inside, class_="draw", height=height, role="img", aria_label=label)


def stretched(width: float, height: float, *inside: str) -> Markup:
    """A layer that is stretched to the whole drawing: lines and areas, never text.

    Args:
        width, height: units of the layer's own along and across.
    """
    view = f"0 0 {_short(float(width))} {_short(float(height))}"
    return tag("svg", *inside, viewBox=view, preserveAspectRatio="none", width="100%", height="100%")


def text(words: str, kind: str | None = None, **attributes: object) -> Markup:
    """Letters of 12 pixels. Kinds: ``strong``; ``minor``, which is left out where there is little room."""
    return tag("text", words, class_=kind, **attributes)


def percent(share: float) -> str:
    """A place: 0 is the left or upper end, 1 the other."""
    return f"{_short(100 * share)}%"


def path(points: Iterable[Point]) -> str:
    """Corners of a polyline or polygon."""
    return " ".join(f"{_short(float(x))},{_short(float(y))}" for x, y in points)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, both included where they are round."""
    span = high - low
    if not span > 1e-300:
        return [low]
    rough = span / max(most - 1, 1)
    size = 10.0 ** np.floor(np.log10(rough))
    step = float(next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= rough * 0.999))
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(step * k, 12) for k in range(first, last + 1)]


def square(
    label: str, across: str, upwards: str, *inside: str, note: tuple[Point, str] | None = None
) -> Markup:
    """Two axes from 0 to 1 with a grid, and what is drawn into them.

    Args:
        across, upwards: names of the axes. note: a text and the point beside which it stands.
    """
    grid: list[str] = []
    for share, word in ((0.0, "0"), (0.25, ""), (0.5, "0.5"), (0.75, ""), (1.0, "1")):
        (x, _), (_, y) = place((share, 0.0)), place((0.0, share))
        grid += [
            tag("line", class_="hair", x1=x, x2=x, y1=TOP, y2=TOP + SIDE),
            tag("line", class_="hair", x1=LEFT, x2=LEFT + SIDE, y1=y, y2=y),
        ]
        if word:
            grid += [
                text(word, x=x, y=TOP + SIDE + 16, text_anchor="middle"),
                text(word, x=LEFT - 6, y=y + 4, text_anchor="end"),
            ]
    middle = LEFT + SIDE / 2
    names = [
        text(across, x=middle, y=TOP + SIDE + 34, text_anchor="middle"),
        text(upwards, transform=f"translate(12 {TOP + SIDE / 2:g}) rotate(-90)", text_anchor="middle"),
    ]
    words = [_beside(*note)] if note else []
    return tag(
        "svg",
        *grid,
        *names,
        *inside,
        *words,
        class_="plot",
        viewBox="0 0 360 356",
        role="img",
        aria_label=label,
    )


def place(point: Point) -> Point:
    """Pixels of a point with both coordinates from 0 to 1."""
    return LEFT + SIDE * min(max(point[0], 0.0), 1.0), TOP + SIDE * (1 - min(max(point[1], 0.0), 1.0))


def diagonal() -> Markup:
    """From corner to corner, dashed: what is expected."""
    (x1, y1), (x2, y2) = place((0, 0)), place((1, 1))
    return tag("line", class_="base", stroke_dasharray="4 4", x1=x1, y1=y1, x2=x2, y2=y2)


def curve(points: Sequence[Point], kind: str = "accent-line", dash: str | None = None) -> Markup:
    """A line in the square."""
    return tag("polyline", class_=kind, stroke_dasharray=dash, points=path(map(place, points)))


def band(upper: Sequence[Point], lower: Sequence[Point]) -> Markup:
    """What lies between two lines, tinted."""
    corners = [*map(place, upper), *map(place, reversed(lower))]
    return tag("polygon", class_="accent-soft", points=path(corners))


def dot(point: Point, radius: float = 5.0, *, ringed: bool = False) -> Markup:
    """A point in the square; a ringed one stands out from its line."""
    x, y = place(point)
    ring = tag("circle", class_="halo", cx=x, cy=y, r=radius + 2.5) if ringed else Markup()
    return ring + tag("circle", class_="accent", cx=x, cy=y, r=radius)


def upright(across: float, low: float, high: float) -> Markup:
    """An interval in the square, as a line upwards."""
    (x, y1), (_, y2) = place((across, low)), place((across, high))
    return tag("line", class_="accent-line", x1=x, x2=x, y1=y1, y2=y2)


def _beside(point: Point, words: str) -> Markup:
    x, y = place(point)
    if x > LEFT + SIDE / 2:
        return text(words, "strong", x=x - 12, y=min(y + 22, TOP + SIDE - 8), text_anchor="end")
    return text(words, "strong", x=x + 14, y=min(y + 22, TOP + SIDE - 8))
