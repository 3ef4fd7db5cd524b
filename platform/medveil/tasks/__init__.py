"""What a study learns, by name: one file each, found through :data:`TASKS`.

A task says which bounded sums leave a hospital, which figures follow from their total, and what one image's
loss is. Node and researcher train and evaluate with it, the aggregator lays out and reads the sums. It must
start without torch; so a task imports torch inside ``loss`` and ``sums`` only, which the aggregator never
calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medveil.intervals import Estimate
from medveil.registry import Registry

if TYPE_CHECKING:
    import torch

Label = int | float | tuple[float | None, ...]
"""What a line says of its image: a class, a number, or one number for each of several findings (None: not
known). A label map is no such thing: it is a file."""
Sums = dict[str, NDArray[np.float64]]
"""Named counts of one patient, one hospital or all."""
Given = Mapping[str, NDArray[Any]]
MAX_LOSS = 20.0
"""An image's loss counts for at most this much, so that one image cannot dominate the sum."""


PLACES = ("image", "patient_id", "split")
"""Columns of a manifest that are never a label."""


class BadLabel(ValueError):
    """A line's label cannot be read; the text says what to write instead."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class Counting(Protocol):
    """How a study counts (:class:`medveil.evaluation.Evaluation`)."""

    @property
    def bins(self) -> int: ...
    @property
    def images_per_patient(self) -> int: ...
    @property
    def lesions(self) -> bool: ...
    @property
    def blended(self) -> bool: ...


class Range(Protocol):
    """A number that is learned, and between what it lies (:class:`medveil.study.Target`)."""

    @property
    def column(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Subject(Protocol):
    """What is learned: of a study, or of its result."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> Range | None: ...


class StudyView(Subject, Protocol):
    """What a task sees of a study, which in turn looks up its task here."""

    @property
    def evaluation(self) -> Counting: ...


class Task(Protocol):
    """A kind of learning."""

    headline: str
    """The one figure a study is judged by; among :meth:`figures` where there are cases enough."""
    headline_name: str
    """The same, as people write it."""
    headline_meaning: str
    """A sentence for the report."""
    higher_is_better: bool
    """Of the headline."""
    classes: tuple[str, ...]
    """Of a new study that names none."""
    profile: str
    """Kind of image of a new study that names none."""
    outlines: bool
    """Whether a label is a map, one class for every pixel or voxel; else it is one class for the image."""
    recipes_of: str
    """Task whose shipped settings and usual models suit it, mostly itself."""

    def problem(self, study: StudyView) -> str | None:
        """Why no study of this task can be so, led by the field's name; None if it can."""
        ...

    def aim(self, study: Subject) -> str:
        """What the model learns to do, after "to"."""
        ...

    def unit(self, study: Subject, figure: str) -> str:
        """What a figure is counted in; empty for shares and counts."""
        ...

    def columns(self, study: StudyView) -> tuple[str, ...]:
        """Columns of the manifest that hold a line's label; of a task that outlines, the label map's path."""
        ...

    def read_label(self, study: StudyView, cells: Mapping[str, str]) -> Label:
        """The label of a line; never asked for by a task that outlines.

        Raises: BadLabel.
        """
        ...

    def outputs(self, classes: Sequence[str]) -> int:
        """Logits that a model gives for an image or voxel."""
        ...

    # ---- the sums, and what follows from them; numpy only ----

    def layout(self, study: StudyView) -> dict[str, int]:
        """Names and lengths of the exact sums, in wire order; ``patients`` is one of them, of length 1."""
        ...

    def released(self, study: StudyView) -> dict[str, int]:
        """The same of what gets noise. Few numbers: each has noise of its own. No ``patients``."""
        ...

    def bounded(self, study: StudyView, patient: Given) -> Sums:
        """One patient's exact sums as they enter a noised total.

        Guarantees: divided by :meth:`noise_scales`, the whole has length 1 at most, whatever the images show
            and however many there are. The self-check before training holds it against this.
        """
        ...

    def noise_scales(self, study: StudyView) -> dict[str, float]:
        """Standard deviation of each released sum's noise at a multiplier of 1."""
        ...

    def limits(self, study: Subject, figure: str) -> tuple[float, float]:
        """Between what a figure lies, whatever the noise; not asked of ``patients``."""
        ...

    def figures(self, study: StudyView, sums: Given) -> dict[str, float]:
        """From exact totals; a figure without the cases it needs is left out, never guessed."""
        ...

    def estimates(self, study: StudyView, sums: Given) -> dict[str, Estimate]:
        """Those of :meth:`figures` of which exact totals tell what other patients might give."""
        ...

    def noised_estimates(self, study: StudyView, sums: Given, noise: float) -> dict[str, Estimate | None]:
        """Figures from noised totals before they are cut to their range; None for one that the noise drowns.

        Args:
            noise: multiplier of the noise in them.
        """
        ...

    def noised_counts(self, study: StudyView, sums: Given, noise: float) -> dict[str, float]:
        """``patients`` and other counts, from noised totals."""
        ...

    def can_add_up(self, study: StudyView, sums: Given, slack: float) -> bool:
        """Whether honest patients can have added up to these exact totals, none of which is negative.

        Args:
            slack: rounding error of a total.
        """
        ...

    def noised_can_add_up(self, study: StudyView, sums: Given, noise: Mapping[str, float]) -> bool:
        """The same of noised totals.

        Args:
            noise: the most that noise can be in an entry of each.
        """
        ...

    # ---- one patient's images and nothing else; torch, imported inside ----

    def made_up_labels(
        self, study: StudyView, count: int, size: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Labels (k, ...) of every kind, by chance, for images of ``size``; each gives its image a gradient.

        Where some of an image's labels may be unknown, some are, but never the last.
        """
        ...

    def telling_labels(self, study: StudyView, logits: torch.Tensor) -> list[torch.Tensor]:
        """Labels (k, ...) with which a patient of these outputs has as large a share of the released sums as
        can be, among them; the self-check tries all."""
        ...

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One loss an image, shape (k,); entry i depends on image i only. Safe under ``torch.func.vmap``."""
        ...

    def sums(self, study: StudyView, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """One patient's contribution to :meth:`layout`, from at most ``study.evaluation.images_per_patient``
        images (the first ones); every entry finite and bounded."""
        ...

    def of_images(self, study: StudyView, images: Sequence[Sums]) -> Sums:
        """One patient's :meth:`sums` from those of single images: the same as of all of them at once.

        For volumes too large to be judged together.
        """
        ...


TASKS: Registry[Task] = Registry("task", __name__)


def column_problem(names: Sequence[str]) -> str | None:
    """Why these cannot be columns of labels: capitals and signs do not tell a manifest's columns apart."""
    plain = ["".join(filter(str.isalnum, name.casefold())) for name in names]
    if set(plain) & {"".join(filter(str.isalnum, name)) for name in PLACES} or "" in plain:
        return f"a column of labels cannot be called {', '.join(PLACES)}"
    return "two columns differ in signs or capitals only" if len(set(plain)) < len(plain) else None


def wants_classes(study: StudyView, least: int = 2) -> str | None:
    """The problem of a study whose labels are classes."""
    if len(study.classes) < least:
        return f"classes: at least {least} are needed"
    return "target: it is for a regression" if study.target else None


def has_scores(task: Task) -> bool:
    """Whether a task's sums are histograms of scores."""
    return task.headline == "auroc"


def zeros(lengths: Mapping[str, int]) -> Sums:
    """All sums at zero."""
    return {name: np.zeros(length) for name, length in lengths.items()}


def added(images: Sequence[Sums]) -> Sums:
    """One patient's sums where those of single images add up."""
    total = {name: np.sum([one[name] for one in images], axis=0) for name in images[0]}
    return total | {"patients": np.ones(1)}


def with_mean(parts: Mapping[str, float], name: str) -> dict[str, float]:
    """The parts and, before them, their mean under ``name``; nothing without parts."""
    return {name: float(np.mean(list(parts.values()))), **parts} if parts else {}


def at_most(values: NDArray[Any], limit: float | NDArray[Any], slack: float) -> bool:
    """Whether no entry exceeds its limit by more than rounding may."""
    return bool((values <= limit * (1 + 1e-9) + slack).all())


def whole(values: NDArray[Any]) -> bool:
    """Whether all entries are whole numbers."""
    return bool((values == np.rint(values)).all())
