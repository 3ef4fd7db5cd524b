"""A page with a handful of images as the network will see them: pixels, classes, counts, and nothing else.

It holds no name of a file, no header, no pseudonym and no line number. It holds pixels, so it is for this
hospital's eyes: one file of mode 0600 that loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from hospital_node.profile_check import ProfileCheck, by_split, classes_of, number_of
from medveil import look
from medveil.errors import BadFile
from medveil.files import replace_durably
from medveil.profiles import PROFILES
from medveil.shown import plain
from medveil.tasks import TASKS
from medveil_imaging.patients import Patient

OWN_STYLE = "preview.css"
POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
EACH = 5
"""Patients that are shown of each class in each split."""
MOST = 90
"""Pictures on the page."""
CHANNELS = 4
"""Channels of an image that are shown."""
LEAST_EDGE = 96
"""Pixels of a picture's shorter edge; smaller ones are enlarged without smoothing."""
BETWEEN = 4
ENDS = (0.5, 99.5)
"""Per cent of the pixels between which the grey scale runs."""
OUTLINE = (0, 158, 115)
"""Colour of what is outlined: a green of Okabe and Ito that also the colour-blind tell from grey."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One image on the page."""

    data: Markup = field(repr=False)
    """A ``data:`` address of a PNG."""
    words: str


@dataclass(frozen=True)
class Part:
    """What is shown of one class in one split."""

    split: str
    name: str
    patients: int
    pictures: tuple[Picture, ...]


def parts_of(check: ProfileCheck) -> tuple[Part, ...]:
    """A few patients of each class and split, drawn anew each time, one image of each."""
    found, shown = [], 0
    for split, patients in by_split(check.site).items():
        counted = check.counts.classes.get(split, {}) if _by_class(check) else {}
        wanted = dict(counted) or ({"": len(patients)} if patients else {})
        drawn = _drawn_for(wanted, patients, check)
        for name, count in sorted(wanted.items()):
            pictures = tuple(drawn[name][: max(0, MOST - shown)])
            shown += len(pictures)
            found.append(Part(split, name, count, pictures))
    return tuple(found)


def _by_class(check: ProfileCheck) -> bool:
    return not TASKS[check.question.study.task].outlines


def _drawn_for(
    wanted: Mapping[str, int], patients: Sequence[Patient], check: ProfileCheck
) -> dict[str, list[Picture]]:
    """Pictures of each class; patients are looked at only until there are enough."""
    order = list(patients)
    secrets.SystemRandom().shuffle(order)
    drawn: dict[str, list[Picture]] = {name: [] for name in wanted}
    for one in order:
        missing = {name for name in wanted if len(drawn[name]) < min(EACH, wanted[name])}
        if not missing:
            break
        for k in range(len(one)):
            image, label = one.take([k])
            names = classes_of(label, check.question) if _by_class(check) else frozenset()
            for name in (names or {""}) & missing:
                drawn[name].append(_picture(image[0], label, check))
                missing.discard(name)
            if not missing:
                break
    return drawn


def _picture(image: torch.Tensor, label: torch.Tensor, check: ProfileCheck) -> Picture:
    study = check.question.study
    outlined = label[0].numpy() if TASKS[study.task].outlines else None
    words = ""
    if study.target is not None:
        words = f"{study.target.column} {number_of(label, study.target):.4g}"
    colour = PROFILES[study.transforms.profile].channels == 3
    return Picture(_png(drawn(image, outlined, colour=colour)), words)


def drawn(image: torch.Tensor, outlined: NDArray[np.int64] | None = None, *, colour: bool = False) -> Pixels:
    """One image tensor as a picture, (rows, columns, 3): of a volume its three middle planes side by side.

    Args:
        image: (channels, \\*edges); volumes in RAS axes.
        outlined: a label map of the same edges; planes go through where most of it is.
        colour: whether the channels are red, green and blue.
    """
    values = image.numpy()
    if colour and len(values) == 3:
        return _grown(np.stack([_grey(one) for one in values], -1))
    rows = [_row(one, outlined) for one in values[:CHANNELS]]
    return _joined(rows, axis=0)


def _row(values: NDArray[np.float32], outlined: NDArray[np.int64] | None) -> Pixels:
    grey = _grey(values)
    if grey.ndim == 2:
        return _grown(_coloured(grey, outlined))
    planes = []
    for axis in (2, 1, 0):
        there = None if outlined is None else (outlined > 0).sum(tuple({0, 1, 2} - {axis}))
        place = grey.shape[axis] // 2 if there is None or not there.any() else int(there.argmax())
        cut = None if outlined is None else _seen(outlined, axis, place)
        planes.append(_grown(_coloured(_seen(grey, axis, place), cut)))
    return _joined(planes, axis=1)


def _seen(volume: NDArray[np.generic], axis: int, place: int) -> NDArray[np.generic]:
    """A plane as films are hung: the patient's right on the left, front or head up."""
    plane: NDArray[np.generic] = np.take(volume, place, axis)
    turned: NDArray[np.generic] = (plane[::-1, ::-1] if axis else plane[:, ::-1]).T
    return turned


def _grey(values: NDArray[np.float32]) -> Pixels:
    low, high = np.percentile(values, ENDS)
    return np.asarray(np.rint(255 * np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)), np.uint8)


def _coloured(grey: NDArray[np.generic], outlined: NDArray[np.generic] | None) -> Pixels:
    """Grey as colour, with the borders of what is outlined drawn in."""
    picture = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, -1)
    if outlined is not None:
        labels = np.asarray(outlined)
        edge = np.zeros(labels.shape, bool)
        edge[:-1] |= labels[:-1] != labels[1:]
        edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        picture[edge] = OUTLINE
    return picture


def _grown(picture: Pixels) -> Pixels:
    times = max(1, -(-LEAST_EDGE // min(picture.shape[:2])))
    return np.asarray(picture.repeat(times, 0).repeat(times, 1), np.uint8)


def _joined(pictures: Sequence[Pixels], axis: int) -> Pixels:
    """Pictures beside or under each other, on black."""
    most = max(one.shape[1 - axis] for one in pictures)
    parts: list[Pixels] = []
    for one in pictures:
        missing = [(0, 0), (0, 0), (0, 0)]
        missing[1 - axis] = (0, most - one.shape[1 - axis])
        missing[axis] = (BETWEEN if parts else 0, 0)
        parts.append(np.pad(one, missing))
    return np.concatenate(parts, axis)


def _png(picture: Pixels) -> Markup:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return Markup("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())


def preview_page(check: ProfileCheck) -> str:
    """The page as HTML text."""
    templates = _templates()
    style = look.style(templates, OWN_STYLE)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    study = check.question.study
    codes = Counter((problem.severity == "error", problem.code) for problem in check.site.problems)
    return templates.get_template("preview.html.j2").render(
        style=Markup(style),
        content_policy=policy,
        version=look.version(),
        check=check,
        parts=parts_of(check),
        outlines=TASKS[study.task].outlines,
        volumes=PROFILES[study.transforms.profile].dims == 3,
        size=" x ".join(map(str, study.transforms.size)),
        problems=sorted(((code, refused, count) for (refused, code), count in codes.items())),
    )


def write_preview(check: ProfileCheck, path: Path) -> Path:
    """Write the page, readable by this user alone. Raises: BadFile: it cannot be written there."""
    try:
        replace_durably(path, preview_page(check).encode(), private=True)
    except OSError as error:
        problem = error.strerror or "it cannot be written"
        raise BadFile(name=plain(path.name), problem=problem) from error
    return path


@functools.cache
def _templates() -> Environment:
    return look.environment("hospital_node", {})
