"""The demonstration as a newcomer runs it: seconds in all, seconds per phase of a round, and what it learned.

``--data FOLDER`` also runs the real sites in ``FOLDER/xray-chest`` and ``FOLDER/mri-hippocampus``;
``--write FILE`` writes the figures as a Markdown page (docs/results.md is made like this).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from medveil_research.demo import demo
from medveil_research.options import DemoOptions
from medveil_research.results import Result, read_result
from results_page import put_section
from rows import Row, arguments, cpu, publish

PHASES = ("advertise", "share", "commit", "upload", "agree", "unmask", "aggregate")
RUNS: dict[str, dict[str, Any]] = {
    "phantom X-rays, eps 8": {},
    "phantom X-rays, eps 8, one killed": {"kill": ["hospital-3@2"]},
    "phantom MRI, no privacy": {"task": "segmentation"},
}
REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "chest films, eps 8": ("xray-chest", {}),
    "chest films, no privacy": ("xray-chest", {"privacy": "none", "model": "small_cnn"}),
    "chest films, joint noise, eps 8": ("xray-chest", {"privacy": "joint"}),
    "hippocampus, no privacy": ("mri-hippocampus", {"task": "segmentation"}),
    "hippocampus, joint noise, eps 8": ("mri-hippocampus", {"task": "segmentation", "privacy": "joint"}),
}
MARGIN = {"classification": 0.05, "segmentation": 0.01}
"""How far phantoms trained together must lie above those trained alone; the U-Net's are easy for anyone."""
LIMIT_S = {"phantom": 120, "real": 480}
REACH = {
    "chest films, eps 8": 0.96,
    "chest films, no privacy": 0.98,
    "chest films, joint noise, eps 8": 0.97,
    "hippocampus, no privacy": 0.82,
    "hippocampus, joint noise, eps 8": 0.73,
}


def run(options: dict[str, Any]) -> Result:
    """One demonstration in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="medveil-bench-") as folder:
        demo(DemoOptions(**options, folder=Path(folder), quiet=True))
        return read_result(Path(folder) / "result.json")


def judged(result: Result) -> float:
    """The headline figure; where sites of one source stand out (guangzhou), theirs."""
    exact = result.federated.exact
    groups = exact.groups if exact else {}
    found = next(iter(groups.values())).get(result.headline) if groups else result.metric
    return float("nan") if found is None else found


def rows_of(name: str, result: Result) -> list[Row]:
    """The figures of one run."""
    trained = [r for r in result.rounds if r.kind == "train" and r.outcome == "done"]
    steady = [r for r in trained if r.round > 1 and len(r.survivors) == len(result.hospitals)]
    alone = result.local_only_mean or 0.0
    rows = [
        Row(f"{name}: seconds in all", result.seconds["total"], "s", f"<= {LIMIT_S[result.data]}"),
        Row(
            f"{name}: {result.headline_name}",
            judged(result),
            "",
            f">= {REACH.get(name, alone + MARGIN[result.task]):.3g}",
        ),
        Row(f"{name}: mean trained alone", alone, ""),
        Row(f"{name}: one round", statistics.median(r.seconds for r in steady or trained), "s"),
        Row(f"{name}: up per hospital and round", _median_bytes(steady or trained) / 1000, "kB"),
    ]
    for phase in PHASES:
        spent = [r.phases[phase] for r in steady or trained if phase in r.phases]
        if spent:
            rows.append(Row(f"{name}: phase {phase}", statistics.median(spent), "s"))
    return rows


def _median_bytes(rounds: list[Any]) -> float:
    return statistics.median(count for r in rounds for count in r.bytes_up.values())


def page(results: dict[str, Result]) -> str:
    """The results as Markdown."""
    columns = "run model weights hospitals rounds figure together alone interval seconds".split()
    lines = [
        "# Measured results",
        "",
        "Written by `python tests/benchmarks/demo.py --data FOLDER --write docs/results.md`; nothing here is",
        f"typed by hand. Machine: {cpu()}, two cores, no GPU. One run each, so the last digit is noise.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, r in results.items():
        shared = r.compared
        together, between = (shared.value, shared.interval) if shared else (None, None)
        interval = f"{between[0]:.3f}–{between[1]:.3f}" if between else "—"
        lines.append(
            f"| {name} | {r.model} | {r.parameters:,} | {len(r.hospitals)} | "
            f"{sum(x.kind == 'train' for x in r.rounds)} | {r.headline_name} | {together or 0:.3f} | "
            f"{r.local_only_mean or 0:.3f} | {interval} | {r.seconds['total']:.0f} |"
        )
    lines += [
        "",
        "Figures of this page are exact, counted by the owner of all images; what leaves a private study has",
        "noise besides. The interval is a 95 % bootstrap over test patients, for the shared model.",
        "",
    ]
    for name, r in results.items():
        exact = r.federated.exact
        if exact is None:
            continue
        lines += [
            f"## {name}",
            "",
            "| test patients of | together | trained there alone, all patients |",
            "|---|---|---|",
        ]
        alone = {a.hospital: a.metric for a in r.local_only}
        for who, figures in [*exact.sites.items(), *((f"all {k} sites", v) for k, v in exact.groups.items())]:
            here, other = figures.get(r.headline), alone.get(who)
            lines.append(f"| {who} | {_cell(here)} | {_cell(other)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--write", type=Path, help="write the results as Markdown to this file")
    given = parser.parse_args()
    results = {name: run(options) for name, options in RUNS.items()}
    if given.data is not None:
        for name, (folder, options) in REAL.items():
            results[name] = run({**options, "data": given.data / folder})
    publish([row for name, r in results.items() for row in rows_of(name, r)], given.json)
    if given.write is not None:
        put_section(given.write, "demo", page(results))


if __name__ == "__main__":
    main()
