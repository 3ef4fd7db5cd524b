"""What it gives that weights stay in the hospital: unlike hospitals, each judged as it has the model.

``--data FOLDER`` holds mnist and xray-chest; ``--write FILE`` puts the table into a Markdown page
(docs/results.md). The federation is :func:`medveil_research.comparison.engine.run_federated`, each study what
``medveil study new --personal`` writes, with the recipe's own training; only the weights that stay differ.
*Alone*: every site by itself, as many rounds. Each site is judged on its own test patients, the figure is of
all sites together; noise is in the training where a setting says so, and never in these figures.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from strategies import Sites, shards, sites_in

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.training import FeatureCache
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.engine import judged, run_federated
from medveil_research.studies import StudyOptions, new_study
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

WAYS = {
    "alone": (),
    "all weights are shared": (),
    "`norm` stays": ("norm",),
    "`head` stays": ("head",),
    "`norm` and `head` stay": ("norm", "head"),
}
FILMS = ("guangzhou-a", "guangzhou-b", "guangzhou-c", "bethesda-a", "hannover-a")


@dataclass(frozen=True)
class Setting:
    """Hospitals with unlike patients, and what is learned from them."""

    what: str
    options: dict[str, Any]
    read: Sites
    figure: str


DIGITS: dict[str, Any] = {
    "task": "classification",
    "profile": "xray",
    "classes": [str(k) for k in range(10)],
    "model": "small_cnn",
    "size": (28, 28),
    "hospitals": 5,
    "patients_hint": 600,
}
SETTINGS = {
    "digits": Setting("digits, two label shards a client", DIGITS | {"rounds": 12}, shards, "accuracy"),
    "digits, noised": Setting(
        "digits, two label shards a client, local noise at epsilon 8",
        DIGITS | {"rounds": 12, "privacy": "local", "epsilon": 8.0, "options": {"width": 4}, "anyway": True},
        shards,
        "accuracy",
    ),
    "films": Setting(
        "films of five sites in three hospitals",
        {
            "task": "classification",
            "profile": "xray",
            "classes": ["normal", "abnormal"],
            "model": "small_cnn",
            "size": (64, 64),
            "hospitals": 5,
            "rounds": 12,
            "patients_hint": 400,
        },
        sites_in("xray-chest", *FILMS),
        "auroc",
    ),
}


def study_of(name: str, way: str, seed: int) -> tuple[Study, Float32]:
    """As ``medveil study new`` writes it."""
    settings = {"privacy": "none", **SETTINGS[name].options}
    study, initial = new_study(StudyOptions(name="personal", seed=seed, personal=WAYS[way], **settings))
    return study, from_safetensors(initial, study.model.tensors)


def run(name: str, way: str, sites: Sequence[SiteData], seed: int) -> float:
    """The figure after the last round."""
    study, start = study_of(name, way, seed)
    if way == "alone":
        models = [run_federated(study, start, [site]).model for site in sites]
    else:
        trained = run_federated(study, start, sites)
        models = [trained.own.get(site.name, trained.model) for site in sites]
    found = []
    for site, model in zip(sites, models, strict=True):
        figures = judged(study, model, [site.test], [FeatureCache()])
        if SETTINGS[name].figure in figures:
            found.append(figures[SETTINGS[name].figure])
    value = statistics.mean(found)
    print(
        f"{name}, {way}, seed {seed}: {value:.4f} {[round(v, 3) for v in found]}", file=sys.stderr, flush=True
    )
    return value


def section(name: str, found: dict[str, list[float]]) -> list[str]:
    """One setting's part of the page of results."""
    setting, seeds = SETTINGS[name], len(next(iter(found.values())))
    lines = [
        f"## Weights that stay: {setting.what}",
        "",
        f'Written by `tests/benchmarks/personal.py --data FOLDER --only "{name}" --seeds {seeds} --write',
        f"docs/results.md`. Machine: {cpu()}, no GPU, one thread.",
        "",
        f"Model small_cnn, {setting.options['rounds']} rounds of its recipe. Every site is judged on its",
        f"own test patients by the model as it has it; {setting.figure}, mean of the sites, {seeds} seed(s).",
        "*Alone*: every site by itself.",
        "",
        f"| | {setting.figure} | seeds |",
        "|---|---|---|",
    ]
    for way, values in found.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {way} | **{statistics.mean(values):.3f}** | {each} |")
    return lines


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="settings, separated by semicolons; all without it")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows = []
    for name in given.only.split(";") if given.only else SETTINGS:
        sites = SETTINGS[name].read(given.data, study_of(name, "alone", 0)[0])
        found = {way: [run(name, way, sites, seed) for seed in range(given.seeds)] for way in WAYS}
        rows += [Row(f"{name}: {way}", statistics.mean(values), "") for way, values in found.items()]
        if given.write is not None:
            put_section(given.write, f"personal, {name}", "\n".join(section(name, found)))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
