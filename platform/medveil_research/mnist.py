"""The four files of MNIST, or of a set in its form → one folder for each hospital, as a study reads them.

Nobody is behind a digit: each picture counts as a patient of its own, so that the plain examples of federated
learning run through the same doors as patients do.
Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017, section 3, for the two ways to cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.errors import Error
from medveil.private_files import private_folder
from medveil_imaging.sources.formats.idx import idx_bytes, read_idx
from medveil_imaging.sources.manifest import MANIFEST
from medveil_imaging.sources.raw import Unusable, read_bytes

VAL_EVERY = 20
"""One in so many training pictures of a hospital is for validation."""
BLOCKS = 2
"""Blocks of pictures of like labels that a hospital gets, so that it sees about two digits."""
Bytes = NDArray[np.uint8]


class BadIdx(Error):
    """The files are not what they should be."""

    code = "bad-idx"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The file {name} {problem}.",
            meaning="No folder of a hospital was written.",
            remedy="Give the folder with the four IDX files as they are handed out, packed or not.",
        )


@dataclass(frozen=True)
class Cut:
    """One hospital's folder."""

    folder: Path
    train: int
    val: int
    test: int
    labels: tuple[int, ...]
    """Which its training pictures have."""


def write_mnist_sites(
    source: Path, output: Path, *, hospitals: int, by_label: bool, images: int | None = None
) -> tuple[Cut, ...]:
    """Cut training and test pictures among hospitals, each picture a patient of its own.

    Args:
        source: has ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``, with
            or without ``.gz``.
        output: gets a folder for each hospital, which must not be there yet.
        hospitals: how many.
        by_label: the pictures in the order of their labels, in blocks, two for each hospital. Else hospital k
            gets every picture whose number leaves k when divided by the number of hospitals.
        images: the first so many training pictures, and test pictures in proportion; all without it.
    Raises: BadIdx; OpenFolder; FileExistsError.
    """
    train, train_labels = _pair(source, "train")
    test, test_labels = _pair(source, "t10k")
    if images is not None:
        tests = -(-images * len(test) // max(1, len(train)))
        train, train_labels = train[:images], train_labels[:images]
        test, test_labels = test[:tests], test_labels[:tests]
    private_folder(output)
    cuts = []
    for place in range(hospitals):
        folder = output / f"hospital-{place + 1}"
        mine = _share(train_labels, place, hospitals, by_label)
        tested = _share(test_labels, place, hospitals, by_label)
        (folder / "images").mkdir(parents=True)
        lines = ["image,patient_id,split,label"]
        for rank, index in enumerate(mine):
            split = "val" if rank % VAL_EVERY == VAL_EVERY - 1 else "train"
            lines.append(_write(folder, f"train-{index:05d}", train[index], split, train_labels[index]))
        for index in tested:
            lines.append(_write(folder, f"test-{index:05d}", test[index], "test", test_labels[index]))
        (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
        val = len(mine) // VAL_EVERY
        seen = tuple(sorted({int(label) for label in train_labels[mine]}))
        cuts.append(Cut(folder, len(mine) - val, val, len(tested), seen))
    return tuple(cuts)


def _write(folder: Path, name: str, picture: Bytes, split: str, label: Any) -> str:
    """Write one picture; its line of the manifest."""
    (folder / "images" / f"{name}.idx").write_bytes(idx_bytes(picture))
    return f"images/{name}.idx,{name},{split},{label}"


def _share(labels: Bytes, place: int, hospitals: int, by_label: bool) -> NDArray[np.intp]:
    """Numbers of the pictures that a hospital gets."""
    if not by_label:
        return np.arange(place, len(labels), hospitals)
    blocks = np.array_split(np.argsort(labels, kind="stable"), BLOCKS * hospitals)
    return np.concatenate(blocks[place::hospitals])


def _pair(source: Path, which: str) -> tuple[Bytes, Bytes]:
    """Pictures (n, rows, columns) and labels (n,)."""
    pictures, labels = _read(source, f"{which}-images", 3), _read(source, f"{which}-labels", 1)
    if len(pictures) != len(labels):
        raise BadIdx(name=f"{which}-labels", problem=f"has {len(labels)} labels for {len(pictures)} pictures")
    return pictures, labels


def _read(source: Path, name: str, edges: int) -> Bytes:
    found = sorted(source.glob(f"{name}[-.]idx{edges}-ubyte*"))
    if not found:
        raise BadIdx(name=f"{name}-idx{edges}-ubyte", problem="is not there")
    try:
        values = read_idx(read_bytes(found[0]))
    except Unusable as error:
        raise BadIdx(name=found[0].name, problem=f"cannot be read: {error.what}".rstrip(".")) from error
    if values.ndim != edges or values.dtype != np.uint8:
        raise BadIdx(name=found[0].name, problem="holds something else than its name says")
    return values
