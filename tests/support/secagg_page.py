"""The page of the secure aggregation benchmark: targets, figures, pictures, and what a lying server gets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import cryptography
import numpy as np

from lying_server import ATTACKS, seed_bits
from lying_server_flower import FlowerRound
from lying_server_medveil import MedVeilRound
from peers import FLOWER, missing
from privacy.secagg.kernel import passes_in_use
from privacy.secagg.keystream import call_in_use
from rows import Row, Skipped, cpu

PART_COMMAND = "python tests/benchmarks/secagg.py --only {} --write docs/secagg-benchmarks.md"
KEPT = "## Of an earlier run"
COMMAND = "python tests/benchmarks/secagg.py --simulation --plots docs --write docs/secagg-benchmarks.md"


VECTOR = re.compile(r"(?!.*(one core|worker|event loop))(((\d|12) )?\d+M\b|6 \dx\d\d|12 )")
"""Beginnings of the names of rows about the vector work."""
HEADS = {
    4: ["| target | measured | wanted | met |", "|---|---|---|---|"],
    2: ["| what | measured |", "|---|---|"],
}


def _kept(before: str, only: str | None, measured: set[str]) -> list[str]:
    """What a run of one part leaves of the page before, with the machine that it is from."""
    tables, _, earlier = before.partition("## Targets")[2].partition("## Growth")[0].partition(KEPT)
    rows: dict[int, list[str]] = {4: [], 2: []}
    for line in (tables + earlier).splitlines():
        name, *cells = line.strip("| ").split(" | ")
        old = cells and name not in ("target", "what") and name not in measured
        gone = only == "vector" and VECTOR.match(name)
        if line.startswith("| ") and old and not gone:
            rows[len(cells) + 1].append(line)
    found = []
    if any(rows.values()):
        machine = (earlier or before).partition("Machine: ")[2].partition("\n\n")[0]
        found = ["", KEPT, "", *f"Machine: {machine}".splitlines()]
    for columns, lines in rows.items():
        found += ["", *HEADS[columns], *lines] if lines else []
    return found


def page(
    found: Sequence[Row | Skipped], *, method: str, load: float, only: str | None = None, before: str = ""
) -> str:
    """The targets, what was measured and what the lying server got, as Markdown.

    Args:
        only: the part that was measured, if not the whole.
        before: the page before, whose other rows are kept then.
    """
    rows = [r for r in found if isinstance(r, Row)]
    numbered = sorted((r for r in rows if r.target), key=lambda r: int(r.name.split()[0]))
    lines = [
        "# Secure aggregation, measured",
        "",
        f"Written by `{PART_COMMAND.format(only) if only else COMMAND}`",
        "after `make kernel`; nothing here is typed by hand.",
        f"Machine: {cpu()}, {os.cpu_count()} cores, load {load:.1f} at the start;",
        f"cryptography {cryptography.__version__}, NumPy {np.__version__}, one thread, medians.",
        f"Keystreams by the {call_in_use()} call; passes over the vector: {passes_in_use()}.",
        "",
        *method.split("\n\n")[2].strip().splitlines(),
        "",
        "## Targets",
        "",
        "| target | measured | wanted | met |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.value:.4g} {r.unit} | {r.target} | {'yes' if r.ok else 'no'} |" for r in numbered
    ]
    lines += ["", "## Beside them", "", "| what | measured |", "|---|---|"]
    lines += [f"| {r.name.strip()} | {r.value:.4g} {r.unit} |" for r in rows if not r.target]
    skipped = [f"* {s.name}: {s.reason}" for s in found if isinstance(s, Skipped)]
    lines += ["", "## Not measured in this run", "", *skipped] if skipped else []
    lines += _kept(before, only, {r.name.strip() for r in rows})
    lines += [
        "",
        "## Growth",
        "",
        "![CPU seconds over neighbours, hospitals, parameters and dropouts](secagg-growth.svg)",
        "",
        "Ours with lanes of 21 bits. All times are measured; how many neighbours the hidden graph gives is",
        "computed. The aggregator's masks are those that a real round of 200 hospitals leaves; Flower takes",
        "off as many as ours with the complete graph.",
        "",
        "In the simulation every hospital runs the real code. What they share, as one core plays them all: a",
        "signature or public key that one has checked counts for all, a pair secret that one side has made",
        "counts for the other, and the hash of all keys is taken once (`tests/support/crowd.py`).",
        "",
        "## What a lying server gets",
        "",
        "One script (`tests/support/lying_server.py`) drives our hospitals and Flower's own client functions",
        "behind their own checks. The tests are in `tests/privacy/test_secagg_contrast.py`.",
        "",
        "| the server tries | MedVeil | Flower SecAgg+ |",
        "|---|---|---|",
        *contrast(),
        "",
    ]
    return "\n".join(lines)


def contrast() -> list[str]:
    """One line per script of the lying server, run now."""
    makers: list[Callable[[], Any]] = [MedVeilRound] + ([] if missing(*FLOWER) else [FlowerRound])
    lines = []
    for name, attack in ATTACKS.items():
        cells = ["nothing" if attack(make, 2) is None else "the update" for make in makers]
        lines.append(f"| {name} | {' | '.join([*cells, 'not installed'][:2])} |")
    bits = [str(seed_bits(make())) for make in makers]
    return [*lines, f"| bits of a mask's seed to guess | {' | '.join([*bits, 'not installed'][:2])} |"]
