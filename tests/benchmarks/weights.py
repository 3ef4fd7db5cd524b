"""Weights that fit local noise: by the square of a hospital's patients instead of by their number.

``--data FOLDER`` holds xray-chest, mri-hippocampus and mri-brain; ``--write FILE`` puts the tables into a
Markdown page (docs/results.md). The first table needs no training: noise and mixture follow from how many
training patients there are. With ``--train`` federations of films under local noise are judged on
*validation* patients, site by site, with both weights and the same noise; nothing is chosen on test patients.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from utility import federate, films, study_of

from hospital_node.training import FeatureCache
from medveil.values import Weights
from medveil_research.comparison.engine import judged
from medveil_research.evaluate import patients_of
from medveil_research.mixture import Mixture
from results_page import put_section
from rows import Row, arguments, publish, with_data

CONSORTIA = {
    "films, three sites": ("xray-chest", ("guangzhou-a", "guangzhou-b", "guangzhou-c")),
    "films, five sites": (
        "xray-chest",
        ("guangzhou-a", "guangzhou-b", "guangzhou-c", "bethesda-a", "hannover-a"),
    ),
    "hippocampus": ("mri-hippocampus", ("hippo-a", "hippo-b", "hippo-c", "hippo-d")),
    "brain age": ("mri-brain", ("brain-a", "brain-b", "brain-c")),
}
KINDS: tuple[Weights, ...] = ("declared", "squared")
FIRST_SEED = 100


def mixture(data: Path, pack: str, sites: tuple[str, ...]) -> Mixture:
    """From the training patients of the manifests."""
    counts = []
    for site in sites:
        with (data / pack / site / "manifest.csv").open(encoding="utf-8", newline="") as lines:
            counts.append(len({r["patient_id"] for r in csv.DictReader(lines) if r["split"] == "train"}))
    return Mixture(tuple(counts))


def trained(data: Path, epsilon: float, seeds: int) -> dict[Weights, list[list[float]]]:
    """Validation AUROC of the whole and of each site, by weights and seed."""
    found: dict[Weights, list[list[float]]] = {}
    sites = films(data, study_of("films", "local", epsilon)[0])
    caches = [FeatureCache() for _ in sites]
    for weights in KINDS:
        study, initial = study_of("films", "local", epsilon, weights=weights)
        found[weights] = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            out = federate(study, initial, sites, seed=seed, split="val", caches=caches)
            each = [
                judged(study, out.model, [patients_of(site, "val")], [cache])["auroc"]
                for site, cache in zip(sites, caches, strict=True)
            ]
            found[weights].append([out.figures["auroc"], *each])
            print(epsilon, weights, found[weights][-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs with different noise per setting")
    parser.add_argument("--train", action="store_true", help="train films under local noise with both")
    parser.add_argument("--write", type=Path, help="put the tables into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows, table = [], []
    for name, (pack, sites) in CONSORTIA.items():
        one = mixture(given.data, pack, sites)
        noise, shift = one.noise("squared"), one.shift("squared")
        rows += [Row(f"{name}: noise, squared over declared", noise, ""), Row(f"{name}: shift", shift, "")]
        largest, smallest = one.shares("squared")[max_at(one)], min(one.shares("squared"))
        counts = ", ".join(map(str, one.patients))
        table.append(f"| {name} | {counts} | {noise:.3f} | {shift:.1%} | {smallest:.1%}–{largest:.1%} |")
    if given.write is not None:
        put_section(given.write, "weights", "\n".join(section(table)))
    if given.train:
        lines = []
        for epsilon in (3.0, 1.0):
            for weights, values in trained(given.data, epsilon, given.seeds).items():
                means = [statistics.mean(column) for column in zip(*values, strict=True)]
                rows.append(Row(f"films, local, eps {epsilon:g}, {weights}: validation AUROC", means[0], ""))
                lines.append(f"| {epsilon:g} | {weights} | " + " | ".join(f"{m:.4f}" for m in means) + " |")
        if given.write is not None:
            put_section(given.write, "weights, trained", "\n".join(trained_section(lines, given.seeds)))
    publish(rows, given.json)


def max_at(one: Mixture) -> int:
    """Which hospital has most patients."""
    return max(range(len(one.patients)), key=one.patients.__getitem__)


def section(table: list[str]) -> list[str]:
    """The first table as a part of the page of results."""
    return [
        "# Weights that fit local noise",
        "",
        "Written by `tests/benchmarks/weights.py --data FOLDER --write docs/results.md`.",
        "Hospitals that count by the square of their patients instead of by their number",
        "([decision 71](decisions/0071-weights-that-fit-the-noise.md)): noise of the mean beside that of the",
        "usual weights, and the share of the model that comes from other hospitals than then. No training,",
        "and of patients nothing but how many there are.",
        "",
        "| consortium | training patients | noise | shift | smallest and largest share |",
        "|---|---|---|---|---|",
        *table,
    ]


def trained_section(lines: list[str], seeds: int) -> list[str]:
    """The second table."""
    return [
        "## Films under local noise, by weights",
        "",
        "Written by the same with `--train`. AUROC on the *validation* patients of all three sites together",
        f"and of each, shipped recipe, mean of {seeds} noise seeds.",
        "",
        "| eps | weights | all | guangzhou-a | guangzhou-b | guangzhou-c |",
        "|---|---|---|---|---|---|",
        *lines,
    ]


if __name__ == "__main__":
    main()
