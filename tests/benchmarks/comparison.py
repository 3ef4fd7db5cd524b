"""Federated against centralised and alone, by ``medveil research compare`` itself: real films, three seeds.

``--data FOLDER`` holds xray-chest; ``--write FILE`` puts the table into a Markdown page (docs/results.md);
``--keep FOLDER`` keeps each finished training, so that a run that was stopped goes on. Three sites (guangzhou
a to c). The claim is that federated training stays within .003 of training in one place. Settings are the
shipped recipes; all figures are those of test patients.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from medveil_research.comparison import told
from medveil_research.comparison.arms import ARMS, Arm
from medveil_research.comparison.result import ComparisonResult
from medveil_research.comparison.whole import Request, compare_sites
from medveil_research.sites import find_sites, typical_patients
from medveil_research.studies import StudyOptions
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

SITES = ("guangzhou-a", "guangzhou-b", "guangzhou-c")
WITHIN = -0.003
"""Least difference of the AUROC, federated less in one place."""


@dataclass(frozen=True)
class Job:
    """A model, and which trainings of it are made."""

    model: str
    arms: Sequence[Arm]


JOBS = {
    "small_cnn": Job("small_cnn", ("federated", "central", "alone")),
    "wavelet_head": Job("wavelet_head", ARMS),
}


def measure(job: Job, data: Path, seeds: int, keep: Path, only: Sequence[Arm]) -> ComparisonResult:
    """The comparison of one model."""
    sites = [one for one in find_sites(data / "xray-chest") if one.name in SITES]
    base = StudyOptions(
        name="films",
        task="classification",
        profile="xray",
        model=job.model,
        hospitals=len(sites),
        classes=("normal", "abnormal"),
        patients_hint=typical_patients(sites),
    )
    request = Request(base=base, arms=only or job.arms, seeds=seeds)
    return compare_sites(request, sites, keep, said=lambda line: print(line, file=sys.stderr, flush=True))


def rows_of(name: str, result: ComparisonResult) -> list[Row]:
    """What is to be reached."""
    found = {(one.first, one.second): one for one in told.main_differences(result)}
    rows = [Row(f"films, {name}: {told.name_of(one)}", one.value or 0.0, "") for one in result.arms]
    if ("federated", "central") in found:
        less = found["federated", "central"].value
        rows.append(Row(f"films, {name}: federated less in one place", less, "", f">= {WITHIN}"))
    return rows


def section(name: str, result: ComparisonResult, seeds: int, only: Sequence[Arm]) -> str:
    """The figures as a part of the page of results."""
    chosen = f" --only {' '.join(only)}" if only else ""
    train, test = (sum(getattr(one, split) for one in result.sites) for split in ("train", "test"))
    lines = [
        f"## Films: ways to train compared ({name})",
        "",
        "Written by `tests/benchmarks/comparison.py --data FOLDER "
        f"--jobs {name}{chosen} --seeds {seeds} --write PAGE`,",
        f"on {cpu()}, one thread, other work beside it. Guangzhou a to c, {train:,} training and",
        f"{test} test patients; {seeds} seeds; whoever trains in one place makes as many optimiser steps as",
        "all hospitals together. Intervals are 95 %: over patients (paired bootstrap), over seeds (Student).",
        "",
        "| training | AUROC, 95 % over patients (mean) | rounds | steps | passes | s |",
        "|---|---|---|---|---|---|",
    ]
    for arm in result.arms:
        cells = f"{arm.rounds} | {arm.steps:,} | {arm.passes:.3g} | {arm.seconds:.0f}"
        lines.append(f"| {told.name_of(arm)} | {told.value_of(result, arm)} | {cells} |")
    lines += ["", "| difference | mean | over patients | over seeds |", "|---|---|---|---|"]
    for pair in told.main_differences(result):
        lines.append("| " + " | ".join(told.difference_row(result, pair)) + " |")
    reached = next((row.ok for row in rows_of(name, result) if row.target), None)
    if reached is not None:
        word = "reached" if reached else "**missed**"
        lines += ["", f"Federated within {-WITHIN:g} of one place: {word}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--only", nargs="+", choices=ARMS, help="only these trainings")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--keep", type=Path, help="keep finished trainings in this folder")
    parser.add_argument("--write", type=Path, help="put the figures into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="medveil-comparison-") as scratch:
        for name in given.jobs:
            result = measure(
                JOBS[name], given.data, given.seeds, given.keep or Path(scratch), given.only or ()
            )
            rows += rows_of(name, result)
            if given.write is not None:
                put_section(
                    given.write, f"comparison {name}", section(name, result, given.seeds, given.only or ())
                )
    publish(rows, given.json)


if __name__ == "__main__":
    main()
