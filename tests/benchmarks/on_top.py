"""What a network of each hospital's own on top of a private model is worth, hospital by hospital.

``--data FOLDER`` holds mri-hippocampus; ``--write FILE`` puts the table into a Markdown page
(docs/results.md). The shared model is that of :mod:`utility` at the stated noise and epsilon, one noise
seed. Each hospital then does what ``medveil research evaluate --adapt STEPS --on-top`` does, on its own
training patients, and is judged on its own test patients; *alone* is the same U-Net with nothing below,
trained there for as many steps. STEPS was set before anything was measured.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from utility import JOBS, federate, study_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.training import FeatureCache
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.recipes import recipe
from medveil_imaging.sources.site import SiteData
from medveil_research.adapting import on_top_of, trained_here, trained_on_top
from medveil_research.comparison.engine import judged
from medveil_research.evaluate import Split, patients_of
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

JOB = "hippocampus"


@dataclass(frozen=True)
class Found:
    """One hospital's figures on its own patients: Dice."""

    site: str
    patients: int
    shared: float
    on_top: float
    alone: float


def measure(folder: Path, *, noise: str, epsilon: float, steps: int, split: Split, names: str) -> list[Found]:
    """The shared model once, and each hospital's own on top of it."""
    kind = "joint" if noise == "joint" else "local"
    study, initial = study_of(JOB, kind, epsilon)
    sites = JOBS[JOB].read(folder, study)
    shared = federate(study, initial, sites, seed=0).model
    return [one_site(study, shared, site, steps, split) for site in sites if site.name[-1] in names]


def one_site(study: Study, shared: Float32, site: SiteData, steps: int, split: Split) -> Found:
    """See the module."""
    patients, house = patients_of(site, split), on_top_of(study, shared)
    mine = trained_on_top(house, site, steps=steps)
    plain, start = study_of(JOB, "none", None, model="unet3d")
    usual = recipe(model="unet3d", task="segmentation", profile="mri", privacy="none", hospitals=1).training
    changes = {"rounds": 1, "local_steps": steps, "local_epochs": None, "schedule": "linear"}
    begun = from_safetensors(start, plain.model.tensors)
    own = trained_here(plain, begun, site, usual.model_copy(update=changes))

    def dice(which: Study, weights: Float32) -> float:
        return judged(which, weights, [patients], [FeatureCache()])["dice"]

    found = Found(
        site.name,
        len(site.train),
        shared=dice(study, shared),
        on_top=dice(house.study, mine),
        alone=dice(plain, own),
    )
    print(found, file=sys.stderr, flush=True)
    return found


def section(found: list[Found], noise: str, epsilon: float, steps: int) -> str:
    """The figures as a part of the page of results."""
    lines = [
        "# A network of a hospital's own on a private model",
        "",
        f"Written by `tests/benchmarks/on_top.py --data FOLDER --noise {noise} --epsilon {epsilon:g} "
        f"--steps {steps} --write docs/results.md`.",
        f"Machine: {cpu()}, no GPU, one thread.",
        "",
        f"Hippocampus, {noise} noise at epsilon {epsilon:g}, one noise seed: mean Dice on each hospital's",
        "own test patients. *On top*: with the U-Net that the hospital has trained on its own training",
        f"patients, for {steps} steps, without noise and without anything sent (`medveil research evaluate",
        f"--adapt {steps} --on-top`). *Alone*: the same U-Net with nothing below, trained there for as",
        "many steps. The number of steps was set before anything was measured. One run each: the last",
        "digit is chance.",
        "",
        "| hospital | training patients | shared model | on top | alone |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        figures = f"{one.shared:.3f} | **{one.on_top:.3f}** | {one.alone:.3f}"
        lines.append(f"| {one.site} | {one.patients} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--noise", choices=("joint", "local"), default="joint")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--sites", default="abcd")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    found = measure(
        given.data,
        noise=given.noise,
        epsilon=given.epsilon,
        steps=given.steps,
        split=given.split,
        names=given.sites,
    )
    rows = [
        Row(f"{name} ({one.site})", value, "")
        for one in found
        for name, value in (("shared", one.shared), ("on top", one.on_top), ("alone", one.alone))
    ]
    gained = statistics.mean(one.on_top - one.shared for one in found)
    rows.append(Row("gain over the shared model, mean", gained, ""))
    publish(rows, given.json)
    if given.write is not None:
        put_section(given.write, "on top", section(found, given.noise, given.epsilon, given.steps))


if __name__ == "__main__":
    main()
