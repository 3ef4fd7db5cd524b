"""What a filter for each patient buys on films: its noise fits what patients are expected to use.

``--data FOLDER`` holds xray-chest; ``--write FILE`` puts the table into a Markdown page (docs/results.md).
Federations as in utility.py under the shipped recipe, with and without a filter at the same epsilon and the
same draws of noise, judged on the validation films of the three guangzhou sites. No test film is looked at.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from recipes import FIRST_SEED, Kind
from utility import federate, films, study_of

from hospital_node.training import FeatureCache
from medveil_imaging.sources.site import SiteData
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data
from spread import half_interval

KINDS: tuple[Kind, ...] = ("joint", "local")
Here = tuple[list[SiteData], list[FeatureCache]]
"""The sites and their kept features; the shipped recipes see images alike."""


def values_of(kind: Kind, epsilon: float, use: float | None, seeds: int, here: Here) -> list[float]:
    """Validation AUROC, one for each seed; ``use``: share of the squared clip that patients may need."""
    study, initial = study_of("films", kind, epsilon, patient_use=use)
    sites, caches = here
    return [
        federate(study, initial, sites, seed=FIRST_SEED + k, split="val", caches=caches).figures["auroc"]
        for k in range(seeds)
    ]


def beside(values: list[float], plain: list[float]) -> str:
    """The difference seed by seed, with half its 95 % interval."""
    apart = [a - b for a, b in zip(values, plain, strict=True)]
    half = half_interval(apart)
    return f"{statistics.mean(apart):+.4f}" + ("" if half is None else f" ± {half:.4f}")


def page(lines: list[str], seeds: int, epsilon: float) -> str:
    """The part of the page."""
    return "\n".join(
        [
            f"# A filter for each patient, films at epsilon {epsilon:g}",
            "",
            f"Written by `tests/benchmarks/filtered.py --data FOLDER --seeds {seeds}",
            f"--epsilon {epsilon:g} --write docs/results.md`, {cpu()}. Validation AUROC of guangzhou a-c,",
            "shipped recipe; the noise is made for patients who use such a share of the squared clip, and a",
            "filter stops who needs more ([decision 65](decisions/0065-a-filter-for-each-patient.md)).",
            "Difference: seed by seed, and half its 95 % interval.",
            "",
            "| noise | expected use | AUROC | each seed | less without a filter |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs with different noise")
    parser.add_argument("--epsilon", type=float, default=3.0, help="of the study")
    parser.add_argument("--use", type=float, nargs="+", default=[0.5, 0.3], help="expected uses to try")
    parser.add_argument("--kind", choices=KINDS, help="one kind of noise")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    sites = films(given.data, study_of("films", "local", given.epsilon)[0])
    here: Here = sites, [FeatureCache() for _ in sites]
    rows, lines = [], []
    for kind in [given.kind] if given.kind else KINDS:
        plain: list[float] = []
        for use in (None, *given.use):
            values = values_of(kind, given.epsilon, use, given.seeds, here)
            plain = plain or values
            name = "no filter" if use is None else f"{use:g}"
            print(kind, name, values, file=sys.stderr, flush=True)
            rows.append(Row(f"{kind}, eps {given.epsilon:g}, {name}", statistics.mean(values), "AUROC"))
            each = ", ".join(f"{v:.4f}" for v in values)
            more = "" if use is None else beside(values, plain)
            lines.append(f"| {kind} | {name} | {statistics.mean(values):.4f} | {each} | {more} |")
    publish(rows, given.json)
    if given.write is not None:
        put_section(given.write, "filter", page(lines, given.seeds, given.epsilon))


if __name__ == "__main__":
    main()
