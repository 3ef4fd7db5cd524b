"""Age from an MR volume of the brain: three hospitals together, with and without noise, and each alone.

``--data FOLDER`` holds mri-brain; ``--write FILE`` puts the table into a Markdown page (docs/results.md). The
study is the shipped one (model ``depth_head``, profile ``brain``); training, ledger, noise, strategy and
evaluation are the product's own, as in ``utility.py``. The three sites are one hospital's patients, cut by
age, so each alone has seen mostly young or mostly old people. Figures are those of all sites' test patients.

The recipe was chosen by cross-validation on the training patients, which a hospital could not do for free.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from utility import Kind, federate

from hospital_node.training import FeatureCache, choose_device, evaluate
from medveil.metrics import summarise
from medveil.study import Study, Target
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.evaluate import add
from medveil_research.studies import StudyOptions, new_study
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data
from spread import half_interval

SITES = ("brain-a", "brain-b", "brain-c")
LOW, HIGH = 18, 90
TARGETS: dict[tuple[Kind, float], tuple[float, float]] = {
    ("none", 0.0): (8.5, 7.2),
    ("joint", 8.0): (8.0, 7.0),
    ("joint", 3.0): (9.0, 7.7),
    ("joint", 1.0): (11.5, 10.5),
    ("local", 8.0): (8.5, 7.4),
    ("local", 3.0): (10.0, 8.5),
}
"""By noise and epsilon: the error in years that is accepted, and the one that is aimed at."""


def study_of(kind: Kind, epsilon: float = 8.0) -> tuple[Study, bytes]:
    """The shipped study of brain age."""
    return new_study(
        StudyOptions(
            name="brain-age",
            task="regression",
            profile="brain",
            target=Target(column="age", low=LOW, high=HIGH, unit="years"),
            privacy=kind,
            epsilon=epsilon or 8.0,
            hospitals=len(SITES),
            patients_hint=36,
            seed=0,
            anyway=True,
        )
    )


def guessing(sites: list[SiteData]) -> float:
    """The error of saying every test patient the mean age of all training patients, in years."""
    ages = [np.concatenate([one.take([0])[1].numpy() for s in sites for one in getattr(s, split)])
            for split in ("train", "test")]  # fmt: skip
    return float(np.abs(ages[1] - ages[0].mean()).mean() * (HIGH - LOW) / 2)


def alone(study: Study, initial: bytes, sites: list[SiteData]) -> dict[str, float]:
    """One site's patients train; the test patients of all sites judge."""
    found = {}
    for site in sites:
        others = [SiteData(other.name, (), other.val, other.test, ()) for other in sites if other is not site]
        outcome = federate(study, initial, [site], seed=0)
        sums = [evaluate(study, outcome.model, one.test, device=choose_device()) for one in [site, *others]]
        found[site.name] = summarise(study, add(study, sums))["mae"]
    return found


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs with different noise")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    plain, start = study_of("none")
    sites = [read_site(given.data / "mri-brain" / name, plain) for name in SITES]
    caches = [FeatureCache() for _ in sites]
    rows = [Row("guessing the mean age", guessing(sites), "years")]
    rows += [Row(f"{name} alone, no noise", mae, "years") for name, mae in alone(plain, start, sites).items()]
    table = [f"| {row.name} | | {row.value:.1f} | | | |" for row in rows]
    for (kind, price), (accept, aim) in TARGETS.items():
        study, initial = study_of(kind, price)
        count = 1 if kind == "none" else given.seeds
        found = [federate(study, initial, sites, seed=seed, caches=caches) for seed in range(count)]
        values = [one.figures["mae"] for one in found]
        mean = statistics.mean(values)
        half = half_interval(values)
        epsilon = f"{price:g}" if price else ""
        name = f"together, {kind}" + (f", eps {epsilon}" if epsilon else "")
        rows.append(Row(f"{name} (aim {aim})", mean, "years", f"<= {accept}"))
        spread = "" if half is None else f" ± {half:.2f}"
        mark = "aim" if mean <= aim else "accepted" if mean <= accept else "**missed**"
        goals = f"{accept} | {aim} | {mark}"
        table.append(f"| together, {kind} | {epsilon} | **{mean:.2f}**{spread} | {goals} |")
    publish(rows, given.json)
    if given.write is not None:
        put_section(given.write, "brain-age", "\n".join(page(table, given.seeds)))


def page(table: list[str], seeds: int) -> list[str]:
    """The part of the page of results."""
    return [
        "# Brain age",
        "",
        f"Written by `tests/benchmarks/brain_age.py --data FOLDER --seeds {seeds} --write docs/results.md`.",
        f"Machine: {cpu()}, no GPU, one thread.",
        "",
        "Mean absolute error in years on the test patients of three sites together; the sites are one",
        "hospital's patients cut by age. Model `depth_head` (49 weights), profile `brain`, shipped recipes,",
        "chosen by cross-validation on the training patients. With noise: mean over seeds of the noise and",
        "half its 95 % interval (of the noise alone, not of the choice of patients).",
        "",
        "| | eps | MAE | accept | aim | |",
        "|---|---|---|---|---|---|",
        *table,
    ]


if __name__ == "__main__":
    main()
