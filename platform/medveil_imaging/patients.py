"""One patient's images as tensors: the unit in which training, privacy and evaluation count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch


class Patient(Protocol):
    """One patient's images in one split, already transformed, wherever they are kept."""

    @property
    def patient(self) -> str:
        """The pseudonym in the spelling that counts (:func:`medveil.pseudonyms.one_spelling`)."""
        ...

    @property
    def groups(self) -> Mapping[str, str]:
        """By column of ``study.evaluation.groups``: the one group that the patient is in; absent if none."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def take(self, which: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some images (k, channels, \\*size) and their labels (k, …); as :class:`PatientImages` has them.

        Volumes that keep their own extent (``transforms.patches``) are taken one at a time.
        """
        ...


@dataclass(frozen=True)
class PatientImages:
    """A :class:`Patient` in memory.

    The pseudonym is the hospital's own and never leaves the node; neither it nor a voxel shows in ``repr``.
    """

    patient: str = field(repr=False)
    images: torch.Tensor = field(repr=False)
    """float32, shape (k, channels, \\*size); xray: (row, column), mri: RAS axes; each normalised alone."""
    labels: torch.Tensor = field(repr=False)
    """A class: int64 (k,). A number: float32 (k,). Several findings: float32 (k, findings), NaN where not
    known. A label map: int64 (k, \\*size)."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, which: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Patient`."""
        if len(which) == 1:  # a part of what is there: picking a batch image by image costs next to nothing
            first = which[0]
            return self.images[first : first + 1], self.labels[first : first + 1]
        chosen = torch.as_tensor(list(which), dtype=torch.int64)
        return self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class PatientVolumes:
    """A :class:`Patient` in memory whose volumes have shapes of their own."""

    patient: str = field(repr=False)
    images: tuple[torch.Tensor, ...] = field(repr=False)
    """float32, each (channels, \\*shape)."""
    labels: tuple[torch.Tensor, ...] = field(repr=False)
    """int64, each (\\*shape)."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, which: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Patient`. Raises: RuntimeError: volumes of different shapes at once."""
        if len(which) == 1:  # no copy of a large volume
            return self.images[which[0]][None], self.labels[which[0]][None]
        return torch.stack([self.images[k] for k in which]), torch.stack([self.labels[k] for k in which])
