"""A model that a study has published, as it was fetched: weights, study and card, held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from medveil.handed import read_json, read_whole
from medveil.parent import CARD, STUDY, WEIGHTS, Parent
from medveil.study import Study, read_study
from medveil.tensors import from_safetensors, largest_file, model_hash, unflatten
from medveil.values import PositiveFloat, Sha256


@dataclass(frozen=True)
class Published:
    """What is known of a published model besides its weights."""

    study: Study
    parent: Parent | None
    """None of an initial model that nobody has trained."""


class _Spent(BaseModel):
    epsilon_spent: PositiveFloat | None = None


class _Card(BaseModel):
    """Of a card what a next study must know; it says more."""

    study_hash: Sha256
    plan: Sha256
    number: int
    model: Sha256
    privacy: _Spent


def is_published(path: Path) -> bool:
    """Whether a folder, or the one around a file of weights, is that of a published model."""
    folder = path if path.is_dir() else path.parent if path.name == WEIGHTS else None
    return folder is not None and (folder / CARD).is_file() and (folder / STUDY).is_file()


def read_published(path: Path) -> tuple[Mapping[str, torch.Tensor], Published]:
    """The weights by name, and what they are.

    Raises:
        BadFile, BadModelFile: a file is damaged. ValueError: the three files do not belong together.
    """
    folder = path if path.is_dir() else path.parent
    study, card = read_study(folder / STUDY), read_json(folder / CARD, _Card)
    spec = study.model.tensors
    vector = from_safetensors(read_whole(folder / WEIGHTS, largest_file(spec)), spec)
    if study.hash.hex() != card.study_hash:
        raise ValueError(f"its {STUDY} is not the study that its {CARD} names")
    if model_hash(vector, spec).hex() != card.model:
        raise ValueError(f"its weights are not those of the version that its {CARD} names")
    spent = card.privacy.epsilon_spent
    if card.number and (spent is None) != (study.privacy.kind == "none"):
        raise ValueError(f"its {CARD} and its {STUDY} do not agree on whether it was noised")
    parent = study.model.parent
    if card.number:
        delta = None if study.privacy.kind == "none" else study.privacy.delta
        parent = Parent(
            study=study.name, plan=card.plan, number=card.number, model=card.model, epsilon=spent, delta=delta
        )
    tensors = {name: torch.from_numpy(value.copy()) for name, value in unflatten(vector, spec).items()}
    return tensors, Published(study, parent)
