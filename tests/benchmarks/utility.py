"""What privacy costs on real images: federations in one process, through the product's own engine and ledger.

``--data FOLDER`` holds xray-chest, mri-hippocampus and pneumonia28. Every hospital trains with
:func:`hospital_node.training.train` under the shipped recipe, its ledger pays for every round, and the
aggregator's own strategy turns the weighted mean update into the next model. Only encoding and masks are left
out: they change no sum. Noise comes from keys made of the seed, so a figure can be measured again.

The recipes' settings were chosen on the validation patients of these very data sets, which a hospital could
not do for free; the figures are those of the test patients.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.governance import declared_patients
from hospital_node.ledger import Ledger
from hospital_node.training import FeatureCache, choose_device, evaluate, train
from medveil.metrics import headline, summarise
from medveil.strategies import State, advance
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.manifest import SiteData, read_site
from medveil_imaging.transforms import z_score
from medveil_research.evaluate import add
from medveil_research.studies import new_study
from privacy.dp.noise import NoiseSource
from rows import Row, arguments, publish

EPSILONS = (None, 8.0, 3.0, 1.0)
Split = Literal["val", "test"]


@dataclass(frozen=True)
class Job:
    """One data set, what is learned from it, and the figure LocalNoise must reach per epsilon."""

    settings: dict[str, Any]
    read: Callable[[Path, Study], list[SiteData]]
    targets: dict[float, float]


@dataclass(frozen=True)
class Outcome:
    """What one federation came to."""

    figures: dict[str, float]
    round_s: float
    """Longest time of one hospital's part in a round, the first round (features, self-check) left out."""


def films(folder: Path, study: Study) -> list[SiteData]:
    """The three sites of one hospital."""
    return [read_site(folder / "xray-chest" / f"guangzhou-{name}", study) for name in "abc"]


def volumes(folder: Path, study: Study) -> list[SiteData]:
    """Four sites, by what their scanners' export left in the files."""
    return [read_site(folder / "mri-hippocampus" / f"hippo-{name}", study) for name in "abcd"]


def small_films(folder: Path, study: Study) -> list[SiteData]:
    """pneumonia28.npz, one site per ``site``; films of a patient belong together."""
    with np.load(folder / "pneumonia28" / "pneumonia28.npz", allow_pickle=False) as stored:
        pack = dict(stored)
    return [
        SiteData(str(site), *(_patients(pack, split, site) for split in ("train", "val", "test")), ())
        for site in np.unique(pack["train_site"])
    ]


def _patients(pack: dict[str, Any], split: str, site: str) -> tuple[PatientImages, ...]:
    here = pack[f"{split}_site"] == site
    names, images = pack[f"{split}_patient"][here], torch.from_numpy(pack[f"{split}_images"][here])
    labels = torch.from_numpy(pack[f"{split}_labels"][here].astype(np.int64).ravel())
    scored = torch.stack([z_score(image[None].float()) for image in images])
    return tuple(
        PatientImages(str(name), scored[names == name], labels[names == name]) for name in np.unique(names)
    )


FILM = {"task": "classification", "profile": "xray", "classes": ("normal", "abnormal"), "hospitals": 3}
JOBS = {
    "pneumonia28": Job(
        FILM | {"size": (28, 28), "options": {"scales": 2, "grid": 7}},
        small_films,
        {8.0: 0.965, 3.0: 0.960, 1.0: 0.940},
    ),
    "films": Job(FILM, films, {8.0: 0.970, 3.0: 0.965, 1.0: 0.950}),
    "hippocampus": Job(
        {
            "task": "segmentation",
            "profile": "mri",
            "classes": ("background", "anterior", "posterior"),
            "hospitals": 4,
            "model": "position_head",
        },
        volumes,
        {8.0: 0.68},
    ),
}


def study_of(name: str, epsilon: float | None) -> tuple[Study, bytes]:
    """The shipped study of a job; without an epsilon without privacy."""
    private = {"privacy": "none"} if epsilon is None else {"privacy": "local", "epsilon": epsilon}
    return new_study(name=f"utility-{name}", patients_hint=600, **JOBS[name].settings, **private)


def federate(
    study: Study, initial: bytes, sites: Sequence[SiteData], *, seed: int, split: Split = "test"
) -> Outcome:
    """All rounds of a study, hospital after hospital, and the final model's figures over all sites."""
    device, slowest = choose_device(), 0.0
    model, state = from_safetensors(initial, study.model.tensors), State()
    weights = [declared_patients(len(s.train), study.secure_aggregation.max_weight) for s in sites]
    caches = [FeatureCache() for _ in sites]
    with tempfile.TemporaryDirectory(prefix="medveil-utility-") as folder:
        ledgers = [_ledger(study, Path(folder) / site.name, site.name) for site in sites]
        for number in range(1, study.training.rounds + 1):
            updates = []
            for site, weight, ledger, cache in zip(sites, weights, ledgers, caches, strict=True):
                started = time.perf_counter()
                noise = NoiseSource(hashlib.sha256(f"{seed} {site.name} {number}".encode()).digest())
                charge = ledger and ledger.charge(study, plan_id="p", round_number=number, attempt=1)
                updates.append(
                    train(
                        study,
                        model,
                        site.train,
                        round_number=number,
                        declared_patients=weight,
                        noise=noise,
                        device=device,
                        charge=charge,
                        cache=cache,
                    ).values
                )
                slowest = max(slowest, (time.perf_counter() - started) * (number > 1))
            mean: Float32 = np.average(updates, axis=0, weights=weights).astype(np.float32)
            model, state = advance(study, model, mean, state, number=number)
        for ledger in filter(None, ledgers):
            ledger.close()
    sums = [evaluate(study, model, getattr(site, split), device=device) for site in sites]
    return Outcome(summarise(study, add(study, sums)), slowest)


def _ledger(study: Study, path: Path, dataset: str) -> Ledger | None:
    if study.privacy.kind == "none":
        return None
    ledger = Ledger.open(path)
    ledger.register(study, plan_id="p", dataset=dataset, cap=study.privacy.epsilon)
    return ledger


def measure(name: str, folder: Path, seeds: int) -> list[Row]:
    """One job at every epsilon: mean and scatter over the noise seeds, and the time of a round."""
    rows, sites = [], JOBS[name].read(folder, study_of(name, None)[0])
    for epsilon in EPSILONS:
        study, initial = study_of(name, epsilon)
        found = [federate(study, initial, sites, seed=seed) for seed in range(seeds)]
        values = [outcome.figures[headline(study)] for outcome in found]
        title = f"{name}, {study.model.name}, " + ("no privacy" if epsilon is None else f"eps {epsilon:g}")
        target = JOBS[name].targets.get(epsilon or 0.0)
        rows.append(
            Row(f"{title}: {headline(study)}", statistics.mean(values), "", f">= {target}" if target else "")
        )
        if seeds > 1:
            rows.append(Row(f"{title}: deviation of {seeds} seeds", statistics.stdev(values), ""))
        rows.append(Row(f"{title}: slowest hospital, one round", max(o.round_s for o in found), "s"))
    return rows


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="runs with different noise per setting")
    parser.add_argument("--only", choices=JOBS, help="one data set instead of all")
    given = parser.parse_args()
    if given.data is None:
        parser.exit(message="This benchmark needs the real data sets: --data FOLDER\n")
    torch.set_num_threads(1)
    names = [given.only] if given.only else list(JOBS)
    publish([row for name in names for row in measure(name, given.data, given.seeds)], given.json)


if __name__ == "__main__":
    main()
