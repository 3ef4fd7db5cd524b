"""How the cost of secure aggregation grows: in neighbours, hospitals, parameters, dropouts; drawn as SVG."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from crowd import SharedWork, crowd
from linked import NEVER
from medveil.rounds import RoundKind
from medveil.values import MaskGraph
from peers import FLOWER, ckks_step, flower_mask, flower_step, missing
from privacy.secagg import server
from privacy.secagg.graph import COMPLETE_UP_TO, EVERY_EDGE, edge_limit
from privacy.secagg.keys import Context, Setting
from privacy.secagg.masks import add_masks
from timing import interleaved, median
from vector_work import CLIP, NEIGHBOURS, params_of, some_masks, some_update, step

OURS, HIDDEN, FLOWERS, TENSEALS = "MedVeil", "MedVeil, hidden graph", "Flower SecAgg+", "TenSEAL CKKS"
STYLES = {
    OURS: ("#1b6ca8", "o"),
    HIDDEN: ("#3a9d78", "D"),
    FLOWERS: ("#c1521c", "s"),
    TENSEALS: ("#6b6b6b", "^"),
}
HOSPITALS_DROPPING = 200
FLOWER_UP_TO = 200
"""Hospitals; beyond it the line is straight and costs minutes."""
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medveil",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass
class Panel:
    """One plot: for each label a line of (x, seconds)."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    logarithmic: bool = True

    def add(self, label: str, x: float, seconds: float) -> None:
        """One more point of a line."""
        self.lines.setdefault(label, []).append((x, seconds))


def measure(*, quick: bool = False) -> list[Panel]:
    """Every panel; ``quick`` with vectors a tenth as long."""
    scale = 10 if quick else 1
    panels = [
        in_neighbours(10**7 // scale, (2, 5, 10, 20, 40, 80, 199)),
        in_hospitals(10**6 // scale, (10, 50, 128, 200, 500, 1000, 2000)),
        in_parameters([10**5, 10**6] if quick else [10**5, 10**6, 10**7, 25 * 10**6]),
        in_dropouts(10**6 // scale, (0, 5, 10, 30)),
    ]
    return panels


def in_neighbours(parameters: int, counts: Sequence[int]) -> Panel:
    """A hospital's vector work with more and more pair masks."""
    panel = Panel(f"client, {_millions(parameters)} parameters", "neighbours", "CPU seconds")
    update = some_update(parameters)
    for count in counts:
        params = params_of(parameters, 21, cohort=max(counts) + 1)
        panel.add(OURS, count, _seconds(step(update, some_masks(count + 1), params), 3))
        if not missing(*FLOWER):
            seeds = [secrets.token_bytes(32) for _ in range(count + 1)]
            theirs = flower_step(update.values, seeds, clip=CLIP, steps=2 * params.steps)
            panel.add(FLOWERS, count, _seconds(theirs, 1))
    return panel


def in_hospitals(parameters: int, sizes: Sequence[int]) -> Panel:
    """A hospital's vector work in larger and larger rounds: a mask for everybody, or for its neighbours."""
    panel = Panel(f"client, {_millions(parameters)} parameters", "hospitals", "CPU seconds")
    update = some_update(parameters)
    for hospitals in sizes:
        params = params_of(parameters, 21, cohort=hospitals)
        panel.add(OURS, hospitals, _seconds(step(update, some_masks(hospitals), params), 1))
        if hospitals > COMPLETE_UP_TO:
            masks = some_masks(neighbours(hospitals) + 1)
            panel.add(HIDDEN, hospitals, _seconds(step(update, masks, params), 3))
        if not missing(*FLOWER) and hospitals <= FLOWER_UP_TO:
            seeds = [secrets.token_bytes(32) for _ in range(hospitals)]
            theirs = flower_step(update.values, seeds, clip=CLIP, steps=2 * params.steps)
            panel.add(FLOWERS, hospitals, _seconds(theirs, 1))
    return panel


def neighbours(hospitals: int) -> int:
    """How many the hidden graph gives a hospital, on the average."""
    context = Context(b"p" * 32, 1, 1, RoundKind.TRAIN, b"m" * 32)
    setting = Setting(context, {}, min_hospitals=3, colluders=0, mask_graph="hidden")
    return round(edge_limit(setting, hospitals) / EVERY_EDGE * (hospitals - 1))


def in_parameters(sizes: Sequence[int]) -> Panel:
    """A hospital's vector work with ten neighbours, for longer and longer vectors."""
    panel = Panel(f"client, {NEIGHBOURS} neighbours", "parameters", "CPU seconds")
    for parameters in sizes:
        update, params = some_update(parameters), params_of(parameters, 21)
        panel.add(OURS, parameters, _seconds(step(update, some_masks(), params), 5))
        if not missing(*FLOWER):
            seeds = [secrets.token_bytes(32) for _ in range(NEIGHBOURS + 1)]
            theirs = flower_step(update.values, seeds, clip=CLIP, steps=2 * params.steps)
            panel.add(FLOWERS, parameters, _seconds(theirs, 1))
        if not missing("tenseal") and parameters <= 10**6:
            panel.add(TENSEALS, parameters, _seconds(ckks_step(update.values)[0], 1))
    return panel


def in_dropouts(parameters: int, shares: Sequence[int]) -> Panel:
    """The aggregator takes all masks from the sum; some hospitals dropped out after the commit."""
    n = HOSPITALS_DROPPING
    panel = Panel(
        f"aggregator, {n} hospitals, {_millions(parameters)} parameters",
        "% dropped out between commit and upload",
        "CPU seconds",
        logarithmic=False,
    )
    for share in shares:
        total = np.zeros(params_of(parameters, 21, cohort=n).words, np.uint64)
        masks = masks_left(n, share * n // 100, "hidden")
        panel.add(HIDDEN, share, _seconds(lambda total=total, masks=masks: add_masks(total, masks), 1))
        masks = masks_left(n, share * n // 100, "complete")
        panel.add(OURS, share, _seconds(lambda total=total, masks=masks: add_masks(total, masks), 1))
        if not missing(*FLOWER):  # it removes as many masks, between the same hospitals
            one = flower_mask(parameters)
            panel.add(FLOWERS, share, _seconds(lambda one=one, masks=masks: _repeat(one, len(masks)), 1))
    return panel


def masks_left(hospitals: int, dropped: int, graph: MaskGraph) -> Any:
    """The masks that a real round leaves to be removed when so many drop out after the commit."""
    world = crowd(hospitals, params_of(16, 21, cohort=hospitals), graph=graph)
    with SharedWork():
        world.run(dict.fromkeys(range(1, dropped + 1), NEVER // 2))
        return server.masks_to_remove(world.server)


def draw(panels: Sequence[Panel], file: Path) -> None:
    """All panels in one picture."""
    with matplotlib.style.context(["default", SETTINGS]):
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(9.5, 3.7 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).flatten()
        for panel, ax in zip(panels, axes, strict=False):
            _draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, metadata=nothing if file.suffix == ".svg" else None)


def _draw_panel(ax: Any, panel: Panel) -> None:
    for label, points in panel.lines.items():
        colour, marker = STYLES[label]
        ax.plot(*zip(*points, strict=True), marker=marker, color=colour, label=label, markersize=4.5)
    if panel.logarithmic:
        ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title(panel.title, fontsize=10, loc="left")
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.legend(fontsize=9)


def as_json(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """The figures behind the picture."""
    return [asdict(panel) for panel in panels]


def _seconds(case: Callable[[], object], repeats: int) -> float:
    return median(interleaved({"": case}, repeats)[""])


def _millions(parameters: int) -> str:
    return f"{parameters / 10**6:g} M" if parameters >= 10**6 else f"{parameters:,}"


def _repeat(case: Callable[[], object], times: int) -> None:
    for _ in range(times):  # no list of results: thousands of vectors would not fit into memory
        case()
