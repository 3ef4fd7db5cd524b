"""Trees of images as hospitals keep them, made small: class folders, BIDS, DICOM exports."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from dicom_files import header_of, picture, save
from folders import film
from medveil.identity import Secret
from medveil_imaging.sources.proposals import LAYOUTS, layout_of
from medveil_imaging.sources.proposed import Proposal, Wish, settled
from medveil_imaging.sources.tree import Leavings, Tree, tree_of

KEY = Secret(b"a hospital's key of 32 bytes ...")


def proposal_of(folder: Path | Tree, layout: str = "", **wished: Any) -> Proposal:
    """What is proposed for a folder, settled."""
    leavings = Leavings()
    tree = folder if isinstance(folder, Tree) else tree_of(folder, leavings)
    wish = Wish(KEY, **wished)
    found = LAYOUTS[layout or layout_of(tree)].propose(tree, wish, leavings)
    return settled(found, KEY, leavings, {})


def left_out(proposal: Proposal) -> dict[str, int]:
    """Reason → how many."""
    return {one.reason.what: one.count for one in proposal.left_out}


def films(folder: Path, *names: str) -> Path:
    """A film of its own content for each path."""
    for name in names:
        film(folder / name, zlib.crc32(name.encode()), 16)
    return folder


def volume(path: Path, seed: int = 1, *, labels: bool = False) -> Path:
    """A small NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    voxels = draw.integers(0, 2 if labels else 200, (8, 8, 8)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def dicom(path: Path, patient: str, **tags: Any) -> Path:
    """A DICOM film of a patient."""
    header = header_of(
        picture(16, 16), PatientID=patient, SOPInstanceUID=f"1.2.{zlib.crc32(bytes(path))}", **tags
    )
    return save(path, header)
