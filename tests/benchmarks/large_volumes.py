"""What a volume of 240 x 240 x 155 voxels and four channels takes in memory.

A made-up one, written as a file, is read, trained on by patches and judged through windows by the product's
own functions, in a process of its own for each kind of privacy. The largest resident memory of that process
counts, Python and torch included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.training import TrainingRound, evaluate
from hospital_node.training.run import train_unchecked
from hospital_node.training.unbooked import unbooked_charge
from medveil.study import Study
from medveil_imaging.models import ModelShape, initial_vector
from medveil_imaging.sources.site import read_site
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from rows import Row, arguments, publish

SHAPE, CHANNELS, PATCH = (240, 240, 155), ("flair", "t1", "t1ce", "t2"), (64, 64, 64)
CLASSES = ("background", "core", "oedema", "enhancing")
PATIENTS, MOST_GB = 1, 3.0
NOISE = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90.0,
}


def make_study(privacy: dict[str, Any]) -> tuple[Study, Any]:
    """The usual network, patches of 64 voxels, two of each volume a step."""
    spec, vector = initial_vector("unet3d", ModelShape(PATCH, len(CLASSES), len(CHANNELS)), {}, seed=0)
    content = {
        "name": "large-volumes",
        "task": "segmentation",
        "classes": CLASSES,
        "model": {"name": "unet3d", "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "mri",
            "size": PATCH,
            "spacing_mm": (1.0, 1.0, 1.0),
            "channels": CHANNELS,
            "patches": 2,
        },
        "training": {"rounds": 1, "local_steps": 2, "learning_rate": 0.01, "batch_images": 2},
        "privacy": privacy,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content), vector


def write_site(folder: Path) -> None:
    """A head of noise in air, with three nested balls outlined in it, for each patient."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, edge) for edge in SHAPE), indexing="ij"))
    radius = np.linalg.norm(place, axis=0).astype(np.float32)
    labels = np.digitize(-radius, (-0.3, -0.2, -0.1)).astype(np.uint8)
    lines = ["image,label_map,patient_id,split"]
    for number in range(PATIENTS):
        noise = np.random.default_rng(number).normal(100, 20, (*SHAPE, len(CHANNELS))).astype(np.float32)
        voxels = ((noise + 50 * labels[..., None]) * (radius < 0.9)[..., None]).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"v{number}.nii")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / f"l{number}.nii")
        lines.append(f"v{number}.nii,l{number}.nii,patient-{number},train")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def resident_gb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def work(folder: Path, kind: str) -> None:
    """Read, train two steps, judge; print what was held after each, and the seconds."""
    torch.set_num_threads(1)
    study, vector = make_study(NOISE if kind == "local" else {"kind": "none"})
    started = time.process_time()
    site = read_site(folder, study)
    assert len(site.train) == PATIENTS, site.problems
    read, read_s = resident_gb(), time.process_time() - started
    charge = unbooked_charge(study, round_number=1, split=Split.TRAIN) if kind == "local" else None
    given = TrainingRound(
        study,
        vector,
        site.train,
        number=1,
        declared_patients=10,
        noise=NoiseSource.fresh() if kind == "local" else None,
        charge=charge,
        device=torch.device("cpu"),
    )
    started = time.process_time()
    update = train_unchecked(given)
    trained, train_s = resident_gb(), time.process_time() - started
    started = time.process_time()
    evaluate(study, vector + update.values, site.train, device=torch.device("cpu"))
    print(read, trained, resident_gb(), read_s, train_s, time.process_time() - started)


def measure(folder: Path) -> list[Row]:
    """Both kinds of training, each in a fresh process."""
    rows = []
    for kind in ("none", "local"):
        command = [sys.executable, __file__, "--work", kind, str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        *held, read_s, train_s, judge_s = map(float, done.stdout.split()[-6:])
        for stage, gb in zip(("read", "trained", "judged"), held, strict=True):
            rows.append(Row(f"{kind}: resident after it is {stage}", gb, "GB", f"<= {MOST_GB}"))
        rows.append(Row(f"{kind}: reading", read_s, "s of CPU"))
        rows.append(Row(f"{kind}: two steps", train_s, "s of CPU"))
        rows.append(Row(f"{kind}: judging", judge_s, "s of CPU"))
    return rows


def main() -> None:
    """Make the files, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--work", nargs=2, metavar=("KIND", "FOLDER"), help="one process's part")
    given = parser.parse_args()
    if given.work:
        return work(Path(given.work[1]), given.work[0])
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder))
        publish(measure(Path(folder)), given.json)


if __name__ == "__main__":
    main()
