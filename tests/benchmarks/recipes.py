"""What the film recipes rest on: other settings beside the shipped ones, judged on validation patients.

``--data FOLDER`` holds xray-chest; ``--write FILE`` puts the table into a Markdown page (docs/results.md).
The same federations as in utility.py, judged on the validation films of the three guangzhou sites, never on
test films. A hospital cannot do this for free: every row looks at its patients again. That is why recipes are
shipped, and fixed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from utility import federate, films, study_of

from hospital_node.training import FeatureCache
from medveil.study import Study
from medveil_imaging.sources.site import SiteData
from results_page import put_section
from rows import Row, arguments, publish, with_data

Kind = Literal["local", "joint"]
EPSILONS = (8.0, 3.0, 1.0)
FIRST_SEED = 100
"""Other noise than that of utility.py."""


@dataclass(frozen=True)
class Change:
    """One setting that differs from the shipped recipe."""

    name: str
    rate: float = 1.0
    momentum: float | None = None
    options: tuple[tuple[str, bool], ...] = ()
    matched: bool | None = None


CHANGES: dict[Kind, tuple[Change, ...]] = {
    "local": (
        Change("shipped"),
        Change("equal noise in all rounds", matched=False),
        Change("half the rate", rate=0.5),
        Change("twice the rate", rate=2.0),
        Change("no private mean", options=(("centred", False),)),
        Change("features not equalised", options=(("equalised", False),)),
        Change("features equalised", options=(("equalised", True),)),
    ),
    "joint": (
        Change("shipped"),
        Change("equal noise in all rounds", matched=False),
        Change("half the rate", rate=0.5),
        Change("twice the rate", rate=2.0),
        Change("momentum .95", momentum=0.95),
        Change("no private mean", options=(("centred", False),)),
        Change("features not equalised", options=(("equalised", False),)),
        Change("features equalised", options=(("equalised", True),)),
    ),
}


def changed(kind: Kind, epsilon: float, change: Change) -> tuple[Study, bytes]:
    """The shipped study for films with one change; the room for an update grows with the rate."""
    study, initial = study_of("films", kind, epsilon, options=dict(change.options), matched=change.matched)
    content = study.model_dump()
    content["training"]["learning_rate"] *= change.rate
    content["secure_aggregation"]["update_clip"] *= max(1.0, change.rate)
    if change.momentum is not None:
        content["strategy"]["options"]["momentum"] = change.momentum
    return Study.model_validate(content), initial


def measure(sites: Sequence[SiteData], seeds: int) -> Iterator[tuple[Kind, Change, float, list[float]]]:
    """Validation AUROC of every change at every epsilon, one value for each seed of the noise."""
    caches = [FeatureCache() for _ in sites]
    for kind, changes in CHANGES.items():
        for change in changes:
            for epsilon in EPSILONS:
                study, initial = changed(kind, epsilon, change)
                outcomes = (
                    federate(study, initial, sites, seed=FIRST_SEED + k, split="val", caches=caches)
                    for k in range(seeds)
                )
                values = [outcome.figures["auroc"] for outcome in outcomes]
                print(kind, change.name, epsilon, values, file=sys.stderr, flush=True)
                yield kind, change, epsilon, values


def section(found: Sequence[tuple[Kind, Change, float, list[float]]], seeds: int) -> str:
    """The figures as a part of the page of results."""
    lines = [
        "# What the film recipes rest on",
        "",
        f"Written by `tests/benchmarks/recipes.py --data FOLDER --seeds {seeds} --write docs/results.md`.",
        "Pooled AUROC on the *validation* patients of guangzhou a-c, `wavelet_head`: the shipped recipe, and",
        f"the same with one setting changed. Mean of {seeds} noise seeds, smallest to largest in brackets.",
        "",
        "| noise | setting | " + " | ".join(f"eps {epsilon:g}" for epsilon in EPSILONS) + " |",
        "|---|---|" + "---|" * len(EPSILONS),
    ]
    cells: dict[tuple[str, str], list[str]] = {}
    for kind, change, _, values in found:
        text = f"{statistics.mean(values):.4f} ({min(values):.3f}–{max(values):.3f})"
        cells.setdefault((kind, change.name), []).append(text)
    lines += ["| " + " | ".join([*key, *texts]) + " |" for key, texts in cells.items()]
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs with different noise per setting")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    sites = films(given.data, changed("local", 8.0, Change("shipped"))[0])
    found = list(measure(sites, given.seeds))
    publish(
        [Row(f"{k}, eps {e:g}, {c.name}: validation AUROC", statistics.mean(v), "") for k, c, e, v in found],
        given.json,
    )
    if given.write is not None:
        put_section(given.write, "recipes", section(found, given.seeds))


if __name__ == "__main__":
    main()
