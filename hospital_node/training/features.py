"""Models with fixed features: compute them once, train the head on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medveil.ids import canonical
from medveil.stopping import check_stopped
from medveil.study import Study
from medveil_imaging.patients import Patient, PatientImages

IMAGES_AT_ONCE = 512


class FeatureCache:
    """Features of the patients one node trains and evaluates on, kept from round to round in memory.

    Valid for the very same patients object, model and kind of image; anything else is computed afresh.
    Holds one entry per patients object, so give it the same training and validation tuples every round.
    """

    def __init__(self) -> None:
        self._made_by = b""
        self._entries: dict[int, tuple[Sequence[Patient], tuple[PatientImages, ...]]] = {}

    def get(
        self, study: Study, module: nn.Module, patients: Sequence[Patient], device: torch.device
    ) -> tuple[PatientImages, ...]:
        """See :func:`with_features`."""
        made_by = canonical([part.model_dump(mode="json") for part in (study.model, study.transforms)])
        if self._made_by != made_by:
            self._made_by, self._entries = made_by, {}
        known = self._entries.get(id(patients))
        if known is None or known[0] is not patients:
            known = (patients, with_features(module, patients, device))
            self._entries[id(patients)] = known
        return known[1]


def has_features(module: nn.Module) -> bool:
    """Whether the module offers ``features(images) → (k, d)``, which no trained weight changes."""
    return bool(getattr(module, "frozen_features", False))


def features(module: nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Fixed features (k, d) of images (k, 1, *size), on the CPU; row i depends on image i only."""
    check_stopped()
    with torch.no_grad():
        parts = [module.features(part.to(device)).cpu() for part in torch.split(images, IMAGES_AT_ONCE)]  # type: ignore[operator]
    return torch.cat(parts)


def with_features(
    module: nn.Module, patients: Sequence[Patient], device: torch.device
) -> tuple[PatientImages, ...]:
    """The same patients with features (k, d) in place of images, without those who have none.

    Guarantees: no forward pass sees two patients, so none can change another's features.
    """
    found = []
    for one in patients:
        if len(one):
            images, labels = one.take(range(len(one)))
            seen = features(module, images, device)
            found.append(PatientImages(one.patient, seen, labels, one.groups))
    return tuple(found)
