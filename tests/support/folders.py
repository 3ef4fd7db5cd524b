"""Images folders of a hospital: small films, each with a content of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = (("train", 12), ("val", 4), ("test", 4))
Line = tuple[str, str, str, int]
"""File, pseudonym, split, label."""


def film(path: Path, seed: int, size: int = 32) -> None:
    """A PNG that no other seed makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_manifest(folder: Path, lines: Iterable[Line]) -> None:
    """``manifest.csv`` with these lines."""
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "patient_id", "split", "label"))
        writer.writerows(lines)


def lines_of(splits: Sequence[tuple[str, int]] = SPLITS, *, images: int = 1) -> list[Line]:
    """Patients ``train-0`` and so on, each with that many films, labels in turn."""
    return [
        (f"{split}-{number}-{image}.png", f"{split}-{number}", split, number % 2)
        for split, count in splits
        for number in range(count)
        for image in range(images)
    ]


def write_folder(folder: Path, lines: Sequence[Line] | None = None) -> Path:
    """A folder with the films of these lines and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = lines_of() if lines is None else list(lines)
    for file, *_ in chosen:
        if not (folder / file).exists():
            film(folder / file, hash_of(file))
    write_manifest(folder, chosen)
    return folder


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    value = 0
    for byte in text.encode():
        value = (value * 257 + byte) % (2**61 - 1)
    return value
