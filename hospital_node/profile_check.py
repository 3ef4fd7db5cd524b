"""The images folder held against a kind of image, before there is a study, a plan, or even a node.

As :mod:`hospital_node.operator`: values for a command and a page to show. Nothing is kept: images that are
too many for memory lie sealed in a folder that goes when the check is over.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from hospital_node.demand import BYTES_PER_KEPT_IMAGE, PROGRAM_BYTES, images_in
from hospital_node.images import read_once
from hospital_node.settings import Node
from medveil.cells import numbers_in
from medveil.errors import BadFile, BadOption
from medveil.noise_policies import NoPrivacy
from medveil.profiles import PROFILES
from medveil.shown import plain
from medveil.study import ModelChoice, SecureAggregation, Study, Target, Training, Transforms
from medveil.tasks import TASKS
from medveil.tensors import ModelSpec, TensorSpec
from medveil_imaging.cache import in_memory
from medveil_imaging.models import build, shape_of
from medveil_imaging.models.small_cnn import NAME as NETWORK
from medveil_imaging.patients import Patient
from medveil_imaging.sources.balance import doubts
from medveil_imaging.sources.lists import Listed, read_list
from medveil_imaging.sources.manifest import MANIFEST, SPLITS
from medveil_imaging.sources.site import SiteData

MOST_CLASSES = 64
BATCH = 8
"""Films that a step is timed with; of volumes one."""
MOST_PATIENTS = 2**20
FIXED = frozenset({"image", "patient_id", "split", "label", "label_map"})


@dataclass(frozen=True)
class Question:
    """What a folder is held against: a study that nobody has made, of the kind that the manifest allows."""

    study: Study
    labelled: bool
    """Whether the manifest says what the images show."""


@dataclass(frozen=True)
class Counts:
    """How patients are spread."""

    patients: Mapping[str, int]
    """By split."""
    images: Mapping[str, int]
    """By split."""
    classes: Mapping[str, Mapping[str, int]]
    """Patients by split and class; empty where a number is learned, or nothing."""
    numbers: Mapping[str, tuple[float, float, float]]
    """By split the least, median and largest of the number that is learned."""


@dataclass(frozen=True)
class Effort:
    """What the images take of this machine."""

    reading_s: float
    """As it was measured."""
    memory_bytes: int
    """Of a node with these images, without a network."""
    disk_bytes: int
    """Of sealed copies; 0 where all fit into memory."""
    pass_s: float
    """One pass of a small network over the training images, by one step that was timed; 0 without any."""


@dataclass(frozen=True)
class ProfileCheck:
    """What came out."""

    question: Question
    site: SiteData
    counts: Counts
    doubts: tuple[str, ...]
    effort: Effort


def question_for(folder: Path, profile: str, target: str = "") -> Question:
    """The study that a manifest could be for: label maps are outlined, labels told apart, a number learned.

    Args:
        target: a column whose number is learned.
    Raises: UnknownName: no such profile; BadOption: no such column, no numbers, or too many classes. A
        manifest that cannot be read at all is told by the reading.
    """
    kind = PROFILES[profile]
    listed = _manifest(folder)
    images = () if listed.place("image") is not None else _channels(folder, listed)
    transforms = Transforms(profile=profile, size=kind.size, spacing_mm=kind.spacing_mm, channels=images)
    if target:
        return Question(_study("regression", transforms, target=_range(listed, target)), True)
    if listed.place("label_map") is not None and listed.place("label") is None:
        classes = ("background", *(f"structure {k}" for k in range(1, MOST_CLASSES)))
        return Question(_study("segmentation", transforms, classes=classes), True)
    classes, labelled = _classes(listed)
    return Question(_study("classification", transforms, classes=classes), labelled)


def _manifest(folder: Path) -> Listed:
    try:
        return read_list(folder / MANIFEST)
    except BadFile:
        return Listed(MANIFEST, ("image", "label"), ())


def _channels(folder: Path, listed: Listed) -> tuple[str, ...]:
    """The columns whose first cell names a file."""
    first = dict(zip(listed.columns, listed.rows[0], strict=True)) if listed.rows else {}
    named = [c for c, cell in first.items() if c not in FIXED and cell and (folder / cell).exists()]
    return tuple("".join(letter if letter.isalnum() else "-" for letter in c.lower()) for c in named)


def _range(listed: Listed, column: str) -> Target:
    place = listed.wanted(column)
    found = sorted({min(numbers) for row in listed.rows if (numbers := numbers_in(row[place]))})
    if len(found) < 2:
        raise BadOption(problem=f"the column '{plain(column, 60)}' holds no two numbers that differ")
    return Target(column=column, low=found[0], high=found[-1])


def _classes(listed: Listed) -> tuple[tuple[str, ...], bool]:
    """The classes of the label column, and whether there is one that says anything."""
    place = listed.place("label")
    words = sorted({row[place] for row in listed.rows} - {""}) if place is not None else []
    numbers = [numbers_in(word) for word in words]
    if words and all(len(one) == 1 and min(one).is_integer() and min(one) >= 0 for one in numbers):
        count = int(max(min(one) for one in numbers)) + 1
        found = [str(k) for k in range(max(2, count))]
    else:
        found = list({word.casefold(): word for word in words}.values())
        found += ["another class"] * (len(found) == 1)
    if len(found) > MOST_CLASSES:
        raise BadOption(
            problem=f"the column label holds {len(found):,} classes; a study has {MOST_CLASSES} at most. "
            "A number that is learned is named with --target"
        )
    return tuple(found) if words else ("not known", "another class"), bool(words)


def _study(
    task: str, transforms: Transforms, *, classes: tuple[str, ...] = (), target: Target | None = None
) -> Study:
    return Study(
        name="check",
        task=task,
        classes=classes,
        target=target,
        model=ModelChoice(
            name=NETWORK, tensors=ModelSpec((TensorSpec(name="any", shape=(1,)),)), initial_model="0" * 64
        ),
        transforms=transforms,
        training=Training(rounds=1, local_steps=1, learning_rate=0.1),
        privacy=NoPrivacy(),
        secure_aggregation=SecureAggregation(update_clip=1.0, max_weight=MOST_PATIENTS),
    )


@contextmanager
def checked(folder: Path, question: Question, node: Node | None = None) -> Iterator[ProfileCheck]:
    """Read every image as a study of this kind would; the images may be looked at until the end.

    Args:
        node: whose keys open what was fetched from a PACS.
    Raises: Stopped, ReadersMissing.
    """
    study, began = question.study, time.monotonic()
    with read_once(folder, study, node, labelled=question.labelled) as site:
        reading = time.monotonic() - began
        counts = _counted(site, question)
        found = doubts(counts.classes, counts.patients)
        yield ProfileCheck(question, site, counts, tuple(found), _effort(site, study, folder, reading))


def by_split(site: SiteData) -> dict[str, tuple[Patient, ...]]:
    """A site's patients by split."""
    return dict(zip(SPLITS, (site.train, site.val, site.test), strict=True))


def classes_of(labels: torch.Tensor, question: Question) -> frozenset[str]:
    """The classes that a patient's labels show."""
    names = question.study.classes
    if not question.labelled or question.study.target is not None:
        return frozenset()
    outlines = TASKS[question.study.task].outlines
    return frozenset(names[k] for k in torch.unique(labels).tolist() if k or not outlines)


def number_of(labels: torch.Tensor, target: Target) -> float:
    """The number that a label of a regression stands for."""
    return target.low + (float(labels.flatten()[0]) + 1) / 2 * (target.high - target.low)


def _counted(site: SiteData, question: Question) -> Counts:
    patients = {split: len(theirs) for split, theirs in by_split(site).items()}
    images = {split: sum(map(len, theirs)) for split, theirs in by_split(site).items()}
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    values: dict[str, list[float]] = defaultdict(list)
    target = question.study.target
    for split, theirs in by_split(site).items():
        for one in theirs if question.labelled else ():
            seen: set[str] = set()
            for k in range(len(one)):
                labels = one.take([k])[1]
                if target is None:
                    seen |= classes_of(labels, question)
                else:
                    values[split].append(number_of(labels, target))
            classes[split].update(seen)
    numbers = {s: (min(v), float(torch.tensor(v).median()), max(v)) for s, v in values.items()}
    return Counts(patients, images, {s: dict(found) for s, found in classes.items() if found}, numbers)


def _effort(site: SiteData, study: Study, folder: Path, reading: float) -> Effort:
    count = sum(len(one) for theirs in by_split(site).values() for one in theirs)
    voxels = math.prod(study.transforms.size)
    each = 4 * voxels * study.transforms.channel_count + 8 * (voxels if TASKS[study.task].outlines else 1)
    fits = in_memory(study, images_in(folder))
    held = count * (each if fits else BYTES_PER_KEPT_IMAGE)
    taught = sum(map(len, site.train))
    return Effort(reading, PROGRAM_BYTES + held, 0 if fits else count * each, _pass_s(study, taught))


def _pass_s(study: Study, images: int) -> float:
    """Seconds for one pass over so many images, by a step of a small network that is timed."""
    if not images:
        return 0.0
    shape = shape_of(study)
    batch = BATCH if shape.dims == 2 else 1
    if TASKS[study.task].outlines:
        return 0.0
    network, pictures = build(NETWORK, shape, {}), torch.zeros(batch, shape.channels, *shape.size)
    for _ in range(2):  # the first one allocates
        began = time.monotonic()
        network(pictures).sum().backward()
        spent = time.monotonic() - began
    return spent * images / batch
