"""The page of rounds with training: ours of this run beside those of other projects, measured once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rows import Row, cpu

COMMAND = "python tests/benchmarks/rounds.py --training --data FOLDER --write docs/rounds-benchmarks.md"
SIZES = ("55 k", "1 M", "7 M")
OTHERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, str]]] = {
    "NVFlare 2.9.0, no protection": (("3.9", "5.6", "11.8"), (".253", "4.05", "28.2"), ("408", "425")),
    "NVFlare 2.9.0, homomorphic": (("8.0", "27.6", "> 78"), ("13.9", "69.0", "–"), ("554", "985")),
    "Flower 1.41.0, no protection": (("27.5", "27.2", "42.5"), (".289", "3.32", "28.1"), ("599", "583")),
    "Flower 1.41.0, SecAgg+": (("64.6", "68.3", "91.0"), (".520", "8.08", "56.1"), ("655", "595")),
    "Fed-BioMed 6.4.1, LOM": (("5.8", "8.9", "–"), (".513", "9.03", "–"), ("1,012", "545")),
}
"""Seconds a round, MB up per client and round, resident MB of a client and of the server at 55 k."""


def page(rows: Sequence[Row], *, method: str, load: float) -> str:
    """The comparison and every row, as Markdown."""
    found = {row.name: row.value for row in rows}
    seconds = _cells(found, "seconds per round of", "{:.1f}")
    up = _cells(found, "upload per hospital and round", "{:.3g}")
    memory = (_cell(found, SIZES[0], "one node, resident"), _cell(found, SIZES[0], "workers, resident"))
    lines = [
        "# Rounds with training, measured",
        "",
        f"Written by `{COMMAND}`;",
        f"only the figures of the others are typed by hand. Machine: {cpu()}, one of {os.cpu_count()} cores,",
        f"load {load:.1f} at the start (with a load of 1 or more, others may have used that core too).",
        "",
        *method.split("\n\n")[3].strip().splitlines(),
        "",
        "## Beside the others",
        "",
        "The other projects were measured earlier, with this work and these rules: one core for the server",
        "and five clients, one run per figure, so read ratios and not digits. They start processes per job",
        "(NVFlare) or per message (Flower), which one core shared by all makes dearer than five machines.",
        "",
        "| | s a round, 55 k | 1 M | 7 M | MB up, 55 k | 1 M | 7 M | MB client, 55 k | MB server |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| **MedVeil, masked** | {' | '.join((*seconds, *up, *memory))} |",
    ]
    lines += [f"| {who} | {' | '.join((*s, *u, *m))} |" for who, (s, u, m) in OTHERS.items()]
    lines += ["", "## All rows", "", "| what | measured | wanted | met |", "|---|---|---|---|"]
    for row in rows:
        met = ("yes" if row.ok else "no") if row.target else ""
        lines.append(f"| {row.name} | {row.value:.4g} {row.unit} | {row.target} | {met} |")
    return "\n".join([*lines, ""])


def _cells(found: dict[str, float], words: str, form: str) -> tuple[str, ...]:
    return tuple(_cell(found, size, words, form) for size in SIZES)


def _cell(found: dict[str, float], size: str, words: str, form: str = "{:.0f}") -> str:
    matching = [v for name, v in found.items() if name.startswith(f"{size}:") and words in name]
    return form.format(matching[0]) if matching else "–"
