"""One patient's images as tensors: the unit in which training, privacy and evaluation count."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class PatientImages:
    """All images of one patient in one split, already transformed.

    The pseudonym is the hospital's own and never leaves the node; neither it nor a voxel shows in ``repr``.
    """

    patient: str = field(repr=False)
    """The pseudonym in the spelling that counts (:func:`medveil.pseudonyms.one_spelling`)."""
    images: torch.Tensor = field(repr=False)
    """float32, shape (k, 1, \\*size); xray: (row, column), mri: RAS axes; each normalised by itself."""
    labels: torch.Tensor = field(repr=False)
    """int64; classification (k,), segmentation (k, \\*size)."""

    def __len__(self) -> int:
        return len(self.images)
