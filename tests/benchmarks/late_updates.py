"""What late updates with a staleness weight would give: simulated, for docs/decisions/0041-late-updates.md.

``--data FOLDER`` holds mnist and xray-chest; ``--write FILE`` puts the table into a Markdown page. The node
has no late updates: this plays them beside it, with the product's own training, strategy and evaluation,
encoding and masks left out. In each round each hospital misses the sum with a probability, drawn anew ("now
and then"), or one of them always needs two rounds ("one is slow"). An update that missed its sum is

* forgotten, as the product does;
* added, times w, to the next update that is in time;
* mixed with it: (next + w late) / (1 + w), which is no longer than one update is;
* of the slow hospital sent instead of the next, times w, and it trains in every second round only; against
  that, all wait for it in each of half as many rounds, which takes as long.

w = (1 + rounds late)^-1/2 (Xie, Koyejo, Gupta 2019). An update is cut to the study's clip after the weight.
Only the newest late update is kept, and for one round.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategies import CLIENTS, Sites, shards, sites_in

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.governance import declared_patients
from hospital_node.training import FeatureCache, TrainingRound, train
from hospital_node.training.unbooked import unbooked_charge
from medveil.strategies import State, advance
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.engine import judged
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

WEIGHT = np.float32(2**-0.5)
OFTEN = 0.3
"""Probability of a missed sum."""
NOW_AND_THEN = ("nobody is late", "forgotten", "added", "mixed")
WAITED = "waited for, half the rounds"
SLOW = (WAITED, "forgotten", "sent instead")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """Hospitals, and what is learned from them."""

    what: str
    options: dict[str, Any]
    read: Sites
    figure: str
    training: dict[str, Any]


FILMS: dict[str, Any] = {
    "task": "classification",
    "profile": "xray",
    "classes": ["normal", "abnormal"],
    "hospitals": 5,
    "patients_hint": 400,
}
DIGITS: dict[str, Any] = {
    "task": "classification",
    "profile": "xray",
    "classes": [str(k) for k in range(10)],
    "model": "wavelet_head",
    "size": (28, 28),
    "options": {"scales": 2, "grid": 7},
    "hospitals": CLIENTS,
    "rounds": 30,
}
NAMES = ("guangzhou-a", "guangzhou-b", "guangzhou-c", "bethesda-a", "hannover-a")
SETTINGS = {
    "films": Setting(
        "films, no noise, AUROC", FILMS | {"rounds": 12}, sites_in("xray-chest", *NAMES), "auroc", {}
    ),
    "films, noised": Setting(
        "films, local noise at epsilon 8, AUROC",
        FILMS | {"privacy": "local", "epsilon": 8.0, "anyway": True},
        sites_in("xray-chest", *NAMES),
        "auroc",
        {},
    ),
    "digits": Setting(
        "digits, two label shards a client, accuracy",
        DIGITS,
        shards,
        "accuracy",
        {"batch_images": 64, "learning_rate": 30.0, "schedule": "constant"},
    ),
}


def study_of(name: str) -> tuple[Study, Float32]:
    """As ``medveil study new`` writes it, without a private mean."""
    settings = {"privacy": "none", "seed": 0, **SETTINGS[name].options}
    study, initial = new_study(StudyOptions(name="late", **settings))
    if study.centred:
        plain = settings | {"options": {"centred": False, **settings.get("options", {})}}
        study, initial = new_study(StudyOptions(name="late", **plain))
    training = study.training.model_copy(update=SETTINGS[name].training)
    return study.model_copy(update={"training": training}), from_safetensors(initial, study.model.tensors)


def trained(study: Study, model: Float32, site: SiteData, cache: FeatureCache, number: int) -> Float32:
    """One hospital's update, paid for by nobody: these are figures, not models."""
    noised = study.privacy.kind != "none"
    given = TrainingRound(
        study,
        model,
        site.train,
        number=number,
        declared_patients=declared_patients(len(site.train), study.secure_aggregation.max_weight),
        noise=NoiseSource.fresh() if noised else None,
        charge=unbooked_charge(study, round_number=number, split=Split.TRAIN) if noised else None,
        device=CPU,
        cache=cache,
    )
    return train(given).values


def play(name: str, way: str, slow: bool, sites: Sequence[SiteData], caches: Any, seed: int) -> float:
    """The figure on all test patients after the last round."""
    (study, model), draw = study_of(name), random.Random(seed)
    state, late = State(), dict[int, Float32]()
    if way == WAITED:
        rounds = study.training.rounds // 2
        study = study.model_copy(update={"training": study.training.model_copy(update={"rounds": rounds})})
    limit = np.float32(study.secure_aggregation.update_clip)
    for number in range(1, study.training.rounds + 1):
        updates, weights, missed = [], [], dict[int, Float32]()
        for place, site in enumerate(sites):
            misses = draw.random() < OFTEN if not slow else place == seed % len(sites)
            if slow and misses and place in late:  # it comes a round late, and has trained nothing meanwhile
                update, misses = WEIGHT * late[place], False
            else:
                update = trained(study, model, site, caches[place], number)
            if misses and way not in (NOW_AND_THEN[0], WAITED):
                if way != "forgotten":
                    missed[place] = update
                continue
            if place in late and not slow:
                update = update + WEIGHT * late[place]
                update = update / (1 + WEIGHT) if way == "mixed" else update
            updates.append(np.clip(update, -limit, limit))
            weights.append(len(site.train))
        late = missed
        if updates:
            mean = np.average(updates, axis=0, weights=weights).astype(np.float32)
            model, state = advance(study, model, mean, state, number=number)
    figures = judged(study, model, [site.test for site in sites], caches)
    print(
        f"{name}, {way}, slow {slow}, {seed}: {figures[SETTINGS[name].figure]:.4f}",
        file=sys.stderr,
        flush=True,
    )
    return figures[SETTINGS[name].figure]


def section(name: str, found: dict[bool, dict[str, list[float]]], seeds: int) -> list[str]:
    """One setting's part of the page of results."""
    lines = [
        f"## Late updates, simulated: {SETTINGS[name].what}",
        "",
        f'Written by `tests/benchmarks/late_updates.py --data FOLDER --only "{name}" --seeds {seeds}',
        f"--write docs/results.md`. Machine: {cpu()}, no GPU, one thread. The product has no late updates:",
        "[decision 41](decisions/0041-late-updates.md) says why.",
        "",
        f"*Now and then*: each hospital misses each sum with probability {OFTEN:g}. *One is slow*: one of",
        "five always needs two rounds. Test patients of all sites; mean and range over seeds.",
        "",
        "| who is late | what becomes of a late update | mean | smallest–largest |",
        "|---|---|---|---|",
    ]
    for slow, ways in found.items():
        for way, values in ways.items():
            figures = f"**{statistics.mean(values):.3f}** | {min(values):.3f}–{max(values):.3f}"
            lines.append(f"| {'one is slow' if slow else 'now and then'} | {way} | {figures} |")
    return lines


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="settings, separated by semicolons; all without it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows = []
    for name in given.only.split(";") if given.only else SETTINGS:
        sites = SETTINGS[name].read(given.data, study_of(name)[0])
        caches, seeds = [FeatureCache() for _ in sites], range(given.seeds)
        found = {
            slow: {way: [play(name, way, slow, sites, caches, seed) for seed in seeds] for way in ways}
            for slow, ways in ((True, SLOW), (False, NOW_AND_THEN))
        }
        for slow, ways in found.items():
            who = "slow" if slow else "now and then"
            rows += [
                Row(f"{name}, {who}: {way}", statistics.mean(values), "") for way, values in ways.items()
            ]
        if given.write is not None:
            put_section(given.write, f"late updates, {name}", "\n".join(section(name, found, given.seeds)))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
