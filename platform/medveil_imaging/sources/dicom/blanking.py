"""Rectangles of films that hold writing, by device: a hospital says where, and reading makes them black.

The banner of a workstation or a scanner stands at one place in all of its pictures. A rule names the device
by what the header says of it and the size of the picture as it is stored, so nothing is cut where another
device has anatomy.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydicom.dataset import Dataset

from medveil.errors import BadFile
from medveil.handed import problem_of
from medveil_imaging.sources.dicom.header import text
from medveil_imaging.sources.raw import Float32, Note

MOST_EDGE, MOST_RULES, MOST_RECTANGLES = 20_000, 100, 16
MOST_BYTES = 100_000
Edge = Annotated[int, Field(ge=1, le=MOST_EDGE)]
Place = Annotated[int, Field(ge=0, lt=MOST_EDGE)]
Words = Annotated[str, Field(max_length=64)]
BLANKED = Note(
    "blanked",
    "Rectangles of the film were made black, as this hospital says of its device.",
    "Look at it: medveil node check --preview.",
)
_RULES: list[Device] = []
"""Of this process, if it was given some."""


class Device(BaseModel):
    """Where one device writes. What is left out fits every device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Words = ""
    manufacturer: Words = ""
    model: Words = ""
    rows: Edge
    columns: Edge
    rectangles: Annotated[
        tuple[tuple[Place, Place, Edge, Edge], ...], Field(min_length=1, max_length=MOST_RECTANGLES)
    ]
    """Left, top, width, height, in pixels of the picture as it is stored."""

    @model_validator(mode="after")
    def _inside(self) -> Device:
        for left, top, width, height in self.rectangles:
            if left + width > self.columns or top + height > self.rows:
                raise ValueError("a rectangle reaches beyond the picture")
        if sum(width * height for _, _, width, height in self.rectangles) > self.rows * self.columns // 2:
            raise ValueError("the rectangles take more than half of the picture")
        return self

    def fits(self, header: Dataset) -> bool:
        """Whether a film is of this device."""
        told = (
            (self.modality, "Modality"),
            (self.manufacturer, "Manufacturer"),
            (self.model, "ManufacturerModelName"),
        )
        return all(_same(wanted, text(header, name)) for wanted, name in told if wanted)


def read_rectangles(path: Path) -> tuple[Device, ...]:
    """The rules of a TOML file: a table ``[[device]]`` for each. Raises: BadFile."""
    try:
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            raise BadFile(name=path.name, problem="it is too large")
        told = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError as error:
        raise BadFile(
            name=path.name, problem="it is not there; it says which rectangles are made black"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFile(name=path.name, problem="it cannot be read as TOML") from error
    devices = told.get("device")
    if set(told) != {"device"} or not isinstance(devices, list) or len(devices) > MOST_RULES:
        raise BadFile(name=path.name, problem="it needs a table [[device]] for each device, and nothing else")
    try:
        return tuple(Device.model_validate(one) for one in devices)
    except ValidationError as error:
        raise BadFile(name=path.name, problem=problem_of(error)) from error


def blank_with(rules: Sequence[Device]) -> None:
    """From now on this process, and the readers that it asks, make these rectangles black."""
    _RULES[:] = rules


def rules_in_use() -> str:
    """The rules as JSON, for a reader's process and for the name of what was read by them."""
    return json.dumps([one.model_dump(mode="json") for one in _RULES], sort_keys=True) if _RULES else ""


def take_rules(told: str) -> None:
    """In a reader: go by rules that :func:`rules_in_use` has told."""
    blank_with([Device.model_validate(one) for one in json.loads(told)] if told else [])


def rules_for(header: Dataset, shape: tuple[int, int]) -> tuple[Device, ...]:
    """The rules that a film falls under.

    Args:
        shape: rows and columns, as it is stored.
    """
    return tuple(one for one in _RULES if (one.rows, one.columns) == shape and one.fits(header))


def blanked(pixels: Float32, rules: Sequence[Device]) -> Float32:
    """The film with its rectangles as dark as the darkest pixel of the rest.

    Args:
        pixels: shape (rows, columns), as stored, larger is brighter.
    """
    covered = np.zeros(pixels.shape, bool)
    for rule in rules:
        for left, top, width, height in rule.rectangles:
            covered[top : top + height, left : left + width] = True
    made = pixels.copy()
    made[covered] = pixels[~covered].min() if not covered.all() else 0.0
    return made


def _same(one: str, other: str) -> bool:
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())
