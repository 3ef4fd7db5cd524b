"""Which images of a prediction or an evaluation are shown, and what stands beneath them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from torch import nn

from medveil.errors import BadOption
from medveil.profiles import PROFILES
from medveil.progress import tell
from medveil.readings import with_unit
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.patches import by_windows
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.manifest import MANIFEST, Row, settled_rows
from medveil_imaging.sources.one_row import RowShape, Shaped
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.readers import Readers
from medveil_imaging.sources.workers import workers
from medveil_research.explanation.maps import Method, NoGradCam, grad_cam, last_convolution, occlusion
from medveil_research.explanation.pictures import (
    address,
    as_seen,
    axial,
    plain_picture,
    with_map,
    with_outlines,
)
from medveil_research.prediction.cases import Case
from medveil_research.prediction.findings import check_finite
from medveil_research.prediction.shaping import Shaper

CPU = torch.device("cpu")
OF_EACH = 3
"""Cases shown of the best, the median and the worst."""


@dataclass(frozen=True)
class Shown:
    """One picture of the page."""

    number: int
    """Of the case; no name of a file is on the page."""
    picture: Markup = field(repr=False)
    words: str
    weak: bool = False
    """Whether the map is empty: nothing in the image speaks for the answer."""


@dataclass(frozen=True)
class Gallery:
    """What the page shows."""

    method: str
    groups: tuple[tuple[str, tuple[Shown, ...]], ...]
    """Title and pictures."""
    refused: tuple[tuple[int, str], ...]
    """Number and reason of images that could not be used."""
    images: int
    """Seen in all."""


@dataclass(frozen=True)
class Asked:
    """What is to be explained."""

    method: Method | None = None
    """None: Grad-CAM where the network has convolutions, else occlusion."""
    answer: str = ""
    """Name of the class or finding; empty: the most probable one, or the one of two that is found."""


def explained(
    study: Study, network: nn.Module, cases: Sequence[Case], asked: Asked, *, readers: Readers | None = None
) -> Gallery:
    """A map of every case.

    Raises: NoGradCam: asked for, and the network has none. BadOption: there is no such class.
    """
    names = _answers(study)
    if asked.answer and asked.answer not in names:
        raise BadOption(problem=f"--answer: the study has {', '.join(names)}")
    shaper, shown, refused, method = Shaper(study), [], [], asked.method
    refused += [(case.number, case.problem.what) for case in cases if case.problem is not None]
    wanted = [case for case in cases if case.problem is None]
    for done, (case, read) in enumerate((readers or workers())(wanted, shaper.wanted), start=1):
        tell("images explained", done, len(wanted))
        try:
            if isinstance(read, Unusable):
                raise read
            images = shaper.seen(read).images
            image = images[len(images) // 2][None]  # of a volume in slices the middle one
            layer = None if method == "occlusion" else last_convolution(network, image)
            if layer is None and method not in (None, "occlusion"):
                raise NoGradCam(name=study.model.name)
            method = method or ("occlusion" if layer is None else "gradcam")
            shown.append(_map_of(study, network, case.number, image, method, layer or "", asked.answer))
        except Unusable as error:
            refused.append((case.number, error.what))
    words = {"gradcam": "Grad-CAM", "gradcampp": "Grad-CAM++", "occlusion": "Occlusion"}
    title = words[method or "occlusion"]
    return Gallery(title, (("", tuple(shown)),), tuple(sorted(refused)), len(cases))


def _answers(study: Study) -> tuple[str, ...]:
    if study.target is not None:
        return (study.target.column,)
    one = study.task != "findings" and TASKS[study.task].outputs(study.classes) == 1
    return study.classes[1:] if one else study.classes


def _reading(study: Study) -> Callable[[torch.Tensor], torch.Tensor]:
    if study.target is not None:
        low, width = study.target.low, study.target.high - study.target.low
        return lambda logits: low + width * ((logits + 1) / 2).clamp(0, 1)
    if study.task == "findings" or TASKS[study.task].outputs(study.classes) == 1:
        return torch.sigmoid
    return lambda logits: logits.softmax(1)


def _map_of(
    study: Study,
    network: nn.Module,
    number: int,
    image: torch.Tensor,
    method: Method,
    layer: str,
    answer: str,
) -> Shown:
    read = _reading(study)
    with torch.no_grad():
        logits = network(image)
    check_finite(logits)
    said, names = read(logits)[0], _answers(study)
    output = names.index(answer) if answer else int(said.argmax())
    if method == "occlusion":
        found = occlusion(network, image, output, read).numpy()
    else:
        found = grad_cam(network, image, output, layer=layer, plus=method == "gradcampp").numpy()
    words = f"{names[output]} {_words(study, float(said[output]))}"
    sliced = PROFILES[study.transforms.profile].sliced
    picture = address(_pictures(image[0].numpy(), np.asarray(found, np.float32), sliced))
    return Shown(number, picture, words, weak=not bool((found > 0).any()))


def _words(study: Study, value: float) -> str:
    if study.target is not None:
        return with_unit(value, study.target.unit)
    if not 0.001 <= value <= 0.999:
        return "below 0.001" if value < 0.5 else "above 0.999"
    return f"{value:.3f}"


def _pictures(image: np.ndarray, found: np.ndarray, sliced: bool) -> list[np.ndarray]:
    """Image and map side by side; of a volume the axial slice through the map's strongest place."""
    grey, most = image.mean(0), float(found.max())
    if grey.ndim == 3:
        place = int(np.unravel_index(int(found.argmax()), found.shape)[2])
        grey, found = axial(grey, place), axial(found, place)
    elif sliced:
        grey, found = as_seen(grey), as_seen(found)
    return [plain_picture(grey), with_map(grey, found, most)]


def outlined(study: Study, network: nn.Module, folder: Path, *, readers: Readers | None = None) -> Gallery:
    """The best, median and worst cases of a site's folder by Dice, with both outlines.

    Raises: BadOption: the folder has no manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise BadOption(problem="outlines are compared with an expert's: name a folder with a manifest.csv")
    findings = Findings()
    rows = settled_rows(folder, study, findings)
    cases, refused = [], [(p.row or 0, p.reason) for p in findings.sorted(MANIFEST) if p.severity == "error"]
    shape = RowShape(study, secrets.token_bytes(32))
    for done, (row, read) in enumerate((readers or workers())(rows, shape.wanted), start=1):
        tell("images outlined", done, len(rows))
        try:
            if isinstance(read, Unusable):
                raise read
            cases += [*_compared(study, network, row, shape.shaped(row, read))]
        except Unusable as error:
            refused.append((row.number, error.what))
    cases.sort(key=lambda case: -case.dice)
    return Gallery("Outlines", tuple(_groups(cases)), tuple(sorted(refused)), len(rows))


@dataclass(frozen=True)
class _Compared:
    number: int
    dice: float
    grey: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)
    found: np.ndarray = field(repr=False)

    def shown(self) -> Shown:
        picture = address([plain_picture(self.grey), with_outlines(self.grey, self.truth, self.found)])
        return Shown(self.number, picture, f"Dice {self.dice:.3f}")


def _compared(study: Study, network: nn.Module, row: Row, shaped: Shaped) -> Iterator[_Compared]:
    """A line's images in which something was outlined; of a volume the axial slice that shows most."""
    for image, labels in zip(shaped.images, shaped.labels, strict=True):
        with torch.no_grad():
            if study.transforms.patches:
                logits = by_windows(network, image[None], study.transforms.size, CPU)
            else:
                logits = network(image[None])
        check_finite(logits)
        sums = TASKS[study.task].sums(study, logits, labels[None])
        each = [float(sums[f"dice/{n}"][0]) for n in study.classes[1:] if sums[f"cases/{n}"][0]]
        if not each:
            continue
        grey, truth, found = image.mean(0).numpy(), labels.numpy(), logits[0].argmax(0).numpy()
        if grey.ndim == 3:
            most = int(((truth > 0) | (found > 0)).sum((0, 1)).argmax())
            grey, truth, found = (axial(one, most) for one in (grey, truth, found))
        elif PROFILES[study.transforms.profile].sliced:
            grey, truth, found = (as_seen(one) for one in (grey, truth, found))
        yield _Compared(row.number, float(np.mean(each)), grey, truth, found)


def _groups(cases: Sequence[_Compared]) -> Iterator[tuple[str, tuple[Shown, ...]]]:
    """Args: cases: from the best to the worst. Every case is in one group at most."""
    count = min(OF_EACH, max(1, len(cases) // 3))
    best, rest = list(cases[:count]), list(cases[count:])
    worst = rest[-count:] if rest else []
    between = rest[: len(rest) - len(worst)]
    start = max(0, (len(cases) - count) // 2 - count)
    for title, part in (("Best", best), ("Median", between[start : start + count]), ("Worst", worst)):
        if part:
            yield title, tuple(case.shown() for case in part)
