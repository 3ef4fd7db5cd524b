"""The films of pneumonia28 as five hospitals' folders, shared out as in the runs of the other projects."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

FILE = "pneumonia28/pneumonia28.npz"
SHARED_OUT = 3
"""The largest site is split by patient into so many hospitals; the other two are whole."""


def write_hospitals(data: Path, folder: Path) -> list[Path]:
    """A folder with PNG files and a manifest for each hospital: all training films, all test films."""
    films = np.load(data / FILE, allow_pickle=False)
    sites = sorted(set(films["train_site"]))
    names = [f"{sites[0]}-{part + 1}" for part in range(SHARED_OUT)] + sites[1:]
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    for split in ("train", "test"):
        patients = {p: i for i, p in enumerate(sorted(set(films[f"{split}_patient"])))}
        for number, image in enumerate(films[f"{split}_images"]):
            site, patient = films[f"{split}_site"][number], films[f"{split}_patient"][number]
            name = f"{site}-{patients[patient] % SHARED_OUT + 1}" if site == sites[0] else str(site)
            file = folder / name / f"{split}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            label = int(films[f"{split}_labels"][number, 0])
            rows[name].append({"image": file.name, "patient_id": patient, "split": split, "label": label})
    for name, lines in rows.items():
        with open(folder / name / "manifest.csv", "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, ["image", "patient_id", "split", "label"])
            writer.writeheader()
            writer.writerows(lines)
    return [folder / name for name in names]
