"""Dice without privacy on real volumes: whole crops, and volumes by patches, in one place and federated.

``--data FOLDER`` holds mri-brain (seven structures, three sites, patches of 48 voxels at 2 mm) and
mri-hippocampus (two structures, four sites, whole crops). Training and evaluation are the product's own, with
the shipped recipe for networks with residual units; only encoding and masks are left out, which change no
sum. "In one place" is one hospital with everybody's patients, one round and as many steps as take the given
time on one core; its seconds are those of the CPU's clock for training alone. Settings were chosen on
validation patients; the figures are of test patients.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from utility import federate

from hospital_node.training import TrainingRound, evaluate, train
from medveil.metrics import summarise
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.studies import StudyOptions, new_study
from results_page import put_section, table
from rows import Row, arguments, publish, with_data

NETWORK = {"channels": "16-32-64-128"}


@dataclass(frozen=True)
class Job:
    """A data set, and what is to be reached on it."""

    folder: str
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    size: tuple[int, int, int]
    spacing_mm: float
    patches: int
    units: int
    central: tuple[tuple[int, float, float], ...]
    """Steps, seconds that they may take, Dice to reach."""
    federated: float


JOBS = {
    "brain": Job(
        "mri-brain",
        ("brain-a", "brain-b", "brain-c"),
        (
            "background",
            "cortex",
            "white matter",
            "ventricles",
            "deep grey",
            "hippocampus",
            "brain stem",
            "cerebellum",
        ),
        (48, 48, 48),
        2.0,
        patches=1,
        units=1,
        central=((380, 90, 0.78), (1750, 420, 0.90)),
        federated=0.85,
    ),
    "hippocampus": Job(
        "mri-hippocampus",
        ("hippo-a", "hippo-b", "hippo-c", "hippo-d"),
        ("background", "anterior", "posterior"),
        (48, 64, 48),
        1.0,
        patches=0,
        units=2,
        central=((1500, 420, 0.87),),
        federated=0.845,
    ),
}


def study_of(job: Job) -> tuple[Study, bytes]:
    """The shipped study, at the job's voxel size."""
    study, initial = new_study(
        StudyOptions(
            name="volumes",
            task="segmentation",
            profile="mri",
            classes=job.classes,
            hospitals=len(job.sites),
            privacy="none",
            model="unet3d",
            options=NETWORK | {"units": job.units},
            size=job.size,
            patches=job.patches,
            seed=0,
        )
    )
    content = study.model_dump(mode="json")
    content["transforms"]["spacing_mm"] = (job.spacing_mm,) * 3
    return Study.model_validate(content), initial


def central(study: Study, initial: bytes, sites: Sequence[SiteData], steps: int) -> tuple[float, float]:
    """Test Dice of one hospital with all patients, and the seconds of CPU that training took."""
    content = study.model_dump(mode="json")
    content["training"] |= {"rounds": 1, "local_steps": steps, "local_epochs": None}
    content["secure_aggregation"]["update_clip"] = 1e6
    alone, cpu = Study.model_validate(content), torch.device("cpu")
    vector: Float32 = from_safetensors(initial, study.model.tensors)
    patients = [patient for site in sites for patient in site.train]
    started = time.process_time()
    given = TrainingRound(
        alone, vector, patients, number=1, declared_patients=10, noise=None, charge=None, device=cpu
    )
    trained = vector + train(given).values
    seconds = time.process_time() - started
    tests = [patient for site in sites for patient in site.test]
    return summarise(alone, evaluate(alone, trained, tests, device=cpu))["dice"], seconds


def measure_central(name: str, study: Study, initial: bytes, sites: Sequence[SiteData]) -> Iterator[Row]:
    """In one place, for each length of training."""
    for steps, most_s, least in JOBS[name].central:
        dice, seconds = central(study, initial, sites, steps)
        yield Row(f"{name}, in one place, {steps} steps: Dice", dice, "", f">= {least}")
        yield Row(f"{name}, in one place, {steps} steps: training", seconds, "s of CPU", f"<= {most_s}")


def measure_federated(name: str, study: Study, initial: bytes, sites: Sequence[SiteData]) -> Iterator[Row]:
    """The shipped recipe, hospital after hospital."""
    started = time.process_time()
    outcome = federate(study, initial, sites, seed=0)
    rounds = study.training.rounds
    yield Row(f"{name}, {rounds} rounds: Dice", outcome.figures["dice"], "", f">= {JOBS[name].federated}")
    yield Row(f"{name}, all rounds and the evaluation", time.process_time() - started, "s of CPU")


COMMAND = "tests/benchmarks/volumes.py --data FOLDER --jobs {} --parts {} --write PAGE"
CONDITIONS = "one thread, other work beside it. Test patients; settings chosen before on others"
PARTS = {"central": measure_central, "federated": measure_federated}


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", type=Path, help="put the figures into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    every = []
    for name in given.jobs:
        study, initial = study_of(JOBS[name])
        sites = [read_site(given.data / JOBS[name].folder / site, study) for site in JOBS[name].sites]
        for part in given.parts:
            rows = list(PARTS[part](name, study, initial, sites))
            print(*((row.name, row.value, row.unit) for row in rows), sep="\n", file=sys.stderr, flush=True)
            if given.write is not None:
                title = f"## {name} without privacy, {part}"
                text = table(title, COMMAND.format(name, part), CONDITIONS, rows)
                put_section(given.write, f"volumes {name} {part}", text)
            every += rows
    publish(every, given.json)


if __name__ == "__main__":
    main()
