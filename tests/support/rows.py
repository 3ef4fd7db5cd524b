"""What every benchmark prints and writes: rows of name, value, unit, target, ok."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """One measured figure. ``target`` reads like '<= 1.8'; without one the row is for information."""

    name: str
    value: float
    unit: str
    target: str = ""
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        sign, _, limit = self.target.partition(" ")
        self.ok = {"": True, "<=": self.value <= float(limit or 0), ">=": self.value >= float(limit or 0)}[
            sign
        ]


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be measured here, and what it takes."""

    name: str
    reason: str


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with ``--json FILE`` and ``--data FOLDER``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    data = "folder with the real data sets (xray-chest, mri-hippocampus, pneumonia28), where they are used"
    parser.add_argument("--data", type=Path, help=data)
    return parser


def with_data(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was typed; ends the program with a word where the real data sets are not named."""
    given = parser.parse_args()
    if given.data is None:
        parser.exit(message="This benchmark needs the real data sets: --data FOLDER\n")
    return given


def publish(found: Sequence[Row | Skipped], json_file: Path | None) -> None:
    """Print the table with the CPU's name and what was skipped, and write the rows."""
    rows = [row for row in found if isinstance(row, Row)]
    table = Table("name", "value", "unit", "target", "ok", title=f"on {cpu()}")
    for row in rows:
        table.add_row(row.name, f"{row.value:.4g}", row.unit, row.target, "yes" if row.ok else "NO")
    console = Console(width=110)
    console.print(table)
    for one in found:
        if isinstance(one, Skipped):
            console.print(f"skipped  {one.name}: {one.reason}", markup=False, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


def cpu() -> str:
    """Model name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
