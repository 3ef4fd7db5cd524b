"""What a local study would gain if its hospitals shared the noise of the released mean (decision 74).

``--data FOLDER`` holds mri-brain and pneumonia28; ``--write FILE`` puts the table into a Markdown page (the
decision's). Brain age is the task whose mean has the most noise beside what it should show; films are those
of small sites. Both are judged by cross-validation on training patients; no test patient is looked at.
Training, ledger, strategy and evaluation are the product's own, as in ``utility.py``; only the noise of the
mean is another one than the study's. Every fold and seed has noise of its own, the same in each way, so that
the ways meet the same training.

* own: the mean has the hospital's own noise, as the product does it.
* shared: it has the noise of as many hospitals as a sum can count on; patients pay more against everybody.
* dearer: own noise, in a study at the epsilon that *shared* has against everybody.
* exact: the mean without noise, which no epsilon allows: what there is to be won at most.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import brain_age
import pytest
import torch
import utility
from torch import nn

from hospital_node.training import FeatureCache, checked
from hospital_node.training import mean as released_mean
from hospital_node.training.features import with_features
from medveil.noise_policies import GaussianNoise
from medveil.study import Study
from medveil_imaging.models import build_model
from medveil_imaging.patients import Patient, PatientImages
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.shared_figures import most_sharers
from medveil_research.studies import StudyOptions, new_study
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.policy import mean_policy, policy_of
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data
from spread import half_interval

FOLDS, EPSILONS, FILMS = 5, (8.0, 3.0), 200
SHARERS = most_sharers(len(brain_age.SITES), 1)
WAYS = {"own": 1.0, "shared": 1 / math.sqrt(SHARERS), "dearer": 1.0, "exact": 1e-6}
"""By what the noise of the mean is multiplied."""


class Ready(FeatureCache):
    """Patients who have features in place of images already."""

    def get(
        self, study: Study, module: nn.Module, patients: Sequence[Patient], device: torch.device
    ) -> tuple[PatientImages, ...]:
        """They themselves."""
        return tuple(one for one in patients if isinstance(one, PatientImages))


def price_alone(study: Study) -> float:
    """Epsilon against everybody of training patients, if ``SHARERS`` hospitals shared the mean's noise."""
    policy, steps = policy_of(study), study.training.local_steps or 1
    rounds = study.training.rounds + (SHARERS - 1) * study.mean_rounds
    return accounting.epsilon([Event(policy.noise_multiplier, 1.0, steps * rounds)], policy.delta)


@contextmanager
def noise_of_the_mean(factor: float) -> Iterator[None]:
    """So much of the study's own; the self-check, which would refuse it, is not asked."""

    def changed(study: Study) -> GaussianNoise:
        policy = mean_policy(study)
        return policy.model_copy(update={"noise_multiplier": policy.noise_multiplier * factor})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released_mean, "mean_policy", changed)
        patch.setattr(checked, "require_safe", lambda *_: None)
        yield


def brain_sites(data: Path, study: Study) -> list[tuple[str, Sequence[Patient]]]:
    """Three sites, cut by age."""
    return [(name, read_site(data / "mri-brain" / name, study).train) for name in brain_age.SITES]


def film_sites(data: Path, study: Study) -> list[tuple[str, Sequence[Patient]]]:
    """Three small sites."""
    return [(site.name, site.train[:FILMS]) for site in utility.small_films(data, study)]


def film_study(kind: utility.Kind, epsilon: float = 8.0) -> tuple[Study, bytes]:
    """The shipped study of so many films."""
    settings = utility.JOBS["pneumonia28"].settings | {"privacy": kind, "epsilon": epsilon}
    return new_study(StudyOptions(name="small-sites", patients_hint=FILMS, seed=0, anyway=True, **settings))


TASKS = {
    "brain age": ("mae", brain_age.study_of, brain_sites),
    "films": ("auroc", film_study, film_sites),
}


def folded(sites: Sequence[tuple[str, Sequence[Patient]]], study: Study) -> list[list[SiteData]]:
    """The patients of all sites with their features, each held out (``val``) once."""
    module, found = build_model(study), [list[SiteData]() for _ in range(FOLDS)]
    for name, of in sites:
        people = with_features(module, of, torch.device("cpu"))
        for fold, into in enumerate(found):
            rest = tuple(one for place, one in enumerate(people) if place % FOLDS != fold)
            into.append(SiteData(name, rest, people[fold::FOLDS], (), ()))
    return found


def measured(task: str, folds: list[list[SiteData]], epsilon: float, seeds: int) -> dict[str, list[float]]:
    """By way: the figure on those held out, one for each seed and fold."""
    figure, study_of, _ = TASKS[task]
    usual = study_of("local", epsilon)
    dearer = study_of("local", price_alone(usual[0]))
    found: dict[str, list[float]] = {}
    for way, factor in WAYS.items():
        study, initial = dearer if way == "dearer" else usual
        with noise_of_the_mean(factor):
            found[way] = [
                utility.federate(
                    study,
                    initial,
                    sites,
                    seed=FOLDS * seed + fold,
                    split="val",
                    caches=[Ready()] * len(sites),
                ).figures[figure]
                for seed in range(seeds)
                for fold, sites in enumerate(folds)
            ]
        print(task, epsilon, way, *(f"{v:.4f}" for v in found[way]), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs of each fold with different noise")
    parser.add_argument("--only", choices=TASKS, help="one of them")
    parser.add_argument("--epsilon", type=float, help="one epsilon")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows, table = [], []
    for task in [given.only] if given.only else TASKS:
        figure, study_of, sites_of = TASKS[task]
        study = study_of("local")[0]
        folds = folded(sites_of(given.data, study), study)
        for epsilon in [given.epsilon] if given.epsilon else EPSILONS:
            found = measured(task, folds, epsilon, given.seeds)
            price = price_alone(study_of("local", epsilon)[0])
            cells = [f"{task} ({figure})", f"{epsilon:g}", f"{price:.2f}"]
            for way, values in found.items():
                rows.append(Row(f"{task}, epsilon {epsilon:g}, {way}", statistics.mean(values), figure))
                cells.append(f"{statistics.mean(values):.4g}{beside_own(values, found['own'])}")
            table.append("| " + " | ".join(cells) + " |")
            if given.write is not None:
                put_section(given.write, "shared-mean", "\n".join(page(table, given.seeds)))
    publish(rows, given.json)


def beside_own(values: list[float], own: list[float]) -> str:
    """The difference to the product's way, run by run, and half its 95 % interval."""
    apart = [a - b for a, b in zip(values, own, strict=True)]
    if not any(apart):
        return ""
    half = half_interval(apart)
    return f" ({statistics.mean(apart):+.2g}" + ("" if half is None else f" ± {half:.2g}") + ")"


def page(table: list[str], seeds: int) -> list[str]:
    """The part of a page."""
    return [
        f"By `tests/benchmarks/shared_mean.py --data FOLDER --seeds {seeds} --write FILE`, {cpu()}.",
        f"Mean over {FOLDS} folds, {seeds} noises each; in brackets the difference to *own*,",
        f"run by run, and half its 95 % interval. Three hospitals, of which {SHARERS} are counted on.",
        "",
        "| task | eps | against everybody, shared | own | shared | own, at that price | exact |",
        "|---|---|---|---|---|---|---|",
        *table,
    ]


if __name__ == "__main__":
    main()
