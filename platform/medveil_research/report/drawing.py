"""From a matplotlib figure to accessible SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure

# matplotlib wants colours at drawing time, the page decides light or dark later: these stand in for
# the page's CSS variables and are exchanged when the SVG is written.
INK, MUTED, ACCENT, SECOND, LINE, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 7))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    ACCENT: "var(--accent)",
    SECOND: "var(--dropped)",
    LINE: "var(--line)",
    PAPER: "var(--card)",
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
WIDTH_IN = 5.0
"""All figures share one width, so that their lettering has one size on the page."""

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medveil",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
}


@dataclass(frozen=True)
class Drawing:
    """One figure of the report, with the words that go with it."""

    title: str
    how_to_read: str
    description: str
    """What the picture shows, in words and numbers, for those who cannot see it."""
    svg: Markup
    note: str = ""


@contextmanager
def canvas(height_in: float) -> Iterator[Figure]:
    """A figure to draw into, with the report's settings and no window system."""
    with matplotlib.style.context(["default", SETTINGS]):
        yield Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """SVG to be put into a page: titled, scalable, free of script, references and fixed colours.

    Args:
        name: prefix of every id, so that several drawings live in one page.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.attrib[key] = _translate(key, value, name)
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        label = ElementTree.Element(
            f"{{{SVG}}}{tag}", id=f"{name}-{'title' if tag == 'title' else 'description'}"
        )
        label.text = text
        root.insert(place, label)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _translate(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"'DejaVu Sans'[^;]*", "var(--font)", value)
        for colour, variable in VARIABLES.items():
            value = value.replace(colour, variable)
    return value
