"""Two ranks on two cores against one rank on one core: seconds a step, and whether the update is the same.

Run it on a quiet machine with two cores or more: ``python tests/benchmarks/ranks.py`` (about two minutes).
Every process is held to the cores of its line. Starting a job (torch, self-check) is told apart from steps.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hospital_node.ranks.job import Card, OpenJob, opened
from hospital_node.ranks.settings import RanksSettings
from hospital_node.training import TrainingRound
from hospital_node.training.run import STEPS, train_unchecked
from hospital_node.training.unbooked import unbooked_charge
from medveil.progress import Done, listening
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split

STEPS_EACH = 6
LOCAL = {
    "kind": "local",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
}


Case = tuple[Study, Float32, tuple[PatientImages, ...]]


def case(model: str, size: tuple[int, ...], patients: int) -> Case:
    """A private study on made-up images, one a patient, all of whom are in every step."""
    film = len(size) == 2
    task = "classification" if film else "segmentation"
    classes = ("a", "b") if film else ("background", "front", "back")
    spec, vector = initial_vector(model, ModelShape(size, outputs_for(task, classes)), {}, seed=3)
    content: dict[str, Any] = {
        "name": "ranks",
        "task": task,
        "classes": classes,
        "model": {"name": model, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": size,
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 4, "local_steps": STEPS_EACH, "learning_rate": 1.0},
        "privacy": LOCAL,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    g = torch.Generator().manual_seed(1)
    found = []
    for i in range(patients):
        labels = torch.tensor([i % 2]) if film else torch.randint(3, (1, *size), generator=g)
        found.append(PatientImages(f"p{i}", torch.randn(1, 1, *size, generator=g), labels))
    return Study.model_validate(content), vector, tuple(found)


def timed(made: Case, open_job: OpenJob | None) -> tuple[Float32, float, float]:
    """The update, seconds a step after the first, and seconds before the end of the first."""
    study, vector, patients = made
    ends: list[float] = []

    def heard(now: Done) -> None:
        if now.part == STEPS:
            ends.append(time.perf_counter())

    began = time.perf_counter()
    with listening(heard):
        update = train_unchecked(
            TrainingRound(
                study,
                vector,
                patients,
                number=1,
                declared_patients=len(patients),
                noise=NoiseSource(bytes(32)),
                charge=unbooked_charge(study, round_number=1, split=Split.TRAIN),
                device=torch.device("cpu"),
                open_job=open_job,
            )
        )
    return update.values, (ends[-1] - ends[0]) / (len(ends) - 1), ends[0] - began


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """This process and all that it starts use so many cores."""
    before = os.sched_getaffinity(0)
    if len(before) < count:
        sys.exit(f"this machine has fewer than {count} cores")
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    for name, made in (
        ("unet3d, 32 volumes of 32 x 32 x 32", case("unet3d", (32, 32, 32), 32)),
        ("densenet121, 16 films of 64 x 64", case("densenet121", (64, 64), 16)),
    ):
        print(f"\n{name}, {made[1].size:,} weights; every patient in every step")
        found = []
        for words, ranks, cores in (("no ranks", 0, 1), ("1 rank", 1, 1), ("2 ranks", 2, 2)):
            with tempfile.TemporaryDirectory() as folder, on_cores(cores):
                job: OpenJob | None = None
                if ranks:
                    job = partial(opened, RanksSettings(count=ranks), Path(folder), Card())
                found.append(timed(made, job))
            _, step_s, first_s = found[-1]
            print(
                f"{words:>10}, {cores} core(s): {step_s:7.3f} s a step; the first ends after {first_s:.1f} s"
            )
        (alone, _, _), (one, one_s, _), (two, two_s, _) = found
        print(f"2 ranks on 2 cores are {one_s / two_s:.2f} x as fast as 1 rank on 1 core")
        print(f"their updates are the same, bit for bit: {np.array_equal(one, two)}")
        print(f"largest difference to an update without ranks: {np.abs(alone - one).max():.2g}")


if __name__ == "__main__":
    main()
