"""Classification of whole images, judged by histograms of the scores."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medveil import blending, intervals
from medveil.histograms import auroc, calibration_error, middles, score_bins
from medveil.intervals import Estimate
from medveil.tasks import (
    MAX_LOSS,
    TASKS,
    BadLabel,
    Given,
    Label,
    StudyView,
    Subject,
    Sums,
    added,
    at_most,
    wants_classes,
    whole,
    with_mean,
    zeros,
)

if TYPE_CHECKING:
    import torch

NOISED_BINS = 20
"""Bins of a histogram that gets noise: many bins cost accuracy by their noise, few by their ties."""
NOISED_EDGES = np.linspace(-7.2, 7.2, NOISED_BINS - 1)
"""Log odds between these bins, evenly, for there the scores differ; some models are surer than others."""

TOLD = 8
"""Classes that the self-check tries."""


class Classification:
    """Logits (k, 1) for two classes or (k, classes) for more; labels int64 (k,)."""

    headline = "auroc"
    headline_name = "AUROC"
    headline_meaning = (
        "AUROC is the chance that the model gives a case with the finding a higher score than one without: "
        "1 is perfect, 0.5 is guessing."
    )
    higher_is_better = True
    classes: tuple[str, ...] = ("negative", "positive")
    profile = "xray"
    outlines = False
    recipes_of = "classification"

    def problem(self, study: StudyView) -> str | None:
        """It wants classes and no target."""
        return wants_classes(study)

    def aim(self, study: Subject) -> str:
        """See :class:`medveil.tasks.Task`."""
        classes = study.classes
        return f"tell {' from '.join(classes)}" if len(classes) == 2 else f"tell apart {', '.join(classes)}"

    def outputs(self, classes: Sequence[str]) -> int:
        """One for two classes, else one per class."""
        return 1 if len(classes) == 2 else len(classes)

    def unit(self, study: Subject, figure: str) -> str:
        """None."""
        return ""

    def columns(self, study: StudyView) -> tuple[str, ...]:
        """One column with the number of a class."""
        return ("label",)

    def read_label(self, study: StudyView, cells: Mapping[str, str]) -> Label:
        """The number of a class; it may be written with zeros for decimals, or as the class's name.

        Raises: BadLabel.
        """
        text = unicodedata.normalize("NFKC", cells["label"]).strip()
        number = re.fullmatch(r"0*([0-9]{1,4})([.,]0*)?", text)
        if number is not None and int(number[1]) < len(study.classes):
            return int(number[1])
        if not text:
            raise BadLabel("The line has no label.", "Fill the cell, or remove the line.")
        named = [place for place, name in enumerate(study.classes) if name.casefold() == text.casefold()]
        if len(named) != 1:
            remedy = f"Write a whole number from 0 to {len(study.classes) - 1}, or the name of the class."
            raise BadLabel("The label is not the number of a class.", remedy)
        return named[0]

    def layout(self, study: StudyView) -> dict[str, int]:
        """Two histograms of the scores for each scored class, hits, loss and counts."""
        histograms: dict[str, int] = {}
        for name in scored_classes(study):
            bins = study.evaluation.bins
            histograms |= {f"positives/{name}": bins, f"negatives/{name}": bins}
        return histograms | {"correct": 1, "loss": 1, "images": 1, "patients": 1}

    def released(self, study: StudyView) -> dict[str, int]:
        """The histograms, in few bins, or as blends of these (:mod:`medveil.blending`). Every patient counts
        once, and what follows from them is not sent."""
        sides = (f"{side}/{name}" for name in scored_classes(study) for side in ("positives", "negatives"))
        return dict.fromkeys(sides, NOISED_BINS)

    def bounded(self, study: StudyView, patient: Given) -> Sums:
        """See :class:`medveil.tasks.Task`.

        Proof: a patient with k images puts 1/k into one bin each, so the two histograms of a class are not
        negative and sum to 1, and are no longer than 1; with C classes, sqrt(C). Blends are no longer.
        """
        images = max(float(patient["images"][0]), 1.0)
        return {name: sent(study, noised_bins(patient[name]) / images) for name in self.released(study)}

    def noise_scales(self, study: StudyView) -> dict[str, float]:
        """The root of the number of scored classes; see :meth:`bounded`."""
        return dict.fromkeys(self.released(study), float(np.sqrt(len(scored_classes(study)))))

    def limits(self, study: Subject, figure: str) -> tuple[float, float]:
        """Shares."""
        return 0.0, 1.0

    def figures(self, study: StudyView, sums: Given) -> dict[str, float]:
        """``auroc`` (mean over scored classes, from histograms, ties count half), ``accuracy``, ``ece``
        (expected calibration error, 16 equal bins, two classes only), ``loss``, ``images``, ``patients``.
        """
        images, figures = float(sums["images"][0]), _areas(study, sums)
        if images > 0:
            figures["accuracy"] = float(sums["correct"][0]) / images
            if len(study.classes) == 2:
                name = study.classes[1]
                figures["ece"] = calibration_error(sums[f"positives/{name}"], sums[f"negatives/{name}"])
            figures["loss"] = float(sums["loss"][0]) / images
        return figures | {"images": images, "patients": float(sums["patients"][0])}

    def estimates(self, study: StudyView, sums: Given) -> dict[str, Estimate]:
        """``auroc``, each class's, ``accuracy``."""
        images, patients = float(sums["images"][0]), max(float(sums["patients"][0]), 1.0)
        found = exact_areas(scored_classes(study), sums, images / patients)
        right = intervals.exact_share(float(sums["correct"][0]), images, images / patients)
        return found | ({"accuracy": right} if right else {})

    def noised_estimates(self, study: StudyView, sums: Given, noise: float) -> dict[str, Estimate | None]:
        """``auroc``, each class's; ``accuracy`` of two classes."""
        sums, names = arrived(study, sums), scored_classes(study)
        found = noised_areas(study, names, sums, noise, all_count=True)
        if len(names) == 1:
            half, covariance = NOISED_BINS // 2, noise**2 * noise_shape(study)
            positives, negatives = sums[f"positives/{names[0]}"], sums[f"negatives/{names[0]}"]
            right = float(negatives[:half].sum() + positives[half:].sum())
            wrong = float(negatives[half:].sum() + positives[:half].sum())
            each = float(covariance[:half, :half].sum() + covariance[half:, half:].sum())
            common = 2 * float(covariance[:half, half:].sum())
            found["accuracy"] = (
                intervals.share(right, wrong, (each, each), common=common, patients=True)
                if noise > 0
                else intervals.exact_share(right, right + wrong)
            )
        return found

    def noised_counts(self, study: StudyView, sums: Given, noise: float) -> dict[str, float]:
        """``patients``: each counts once."""
        cells = arrived(study, sums)
        total = sum(float(values.sum()) for values in cells.values()) / len(scored_classes(study))
        return {"patients": float(max(0, round(total)))}

    def can_add_up(self, study: StudyView, sums: Given, slack: float) -> bool:
        """A class's histograms hold each image once; no more hits than images, no loss above its bound."""
        images, patients = float(sums["images"][0]), float(sums["patients"][0])
        positives = [float(sums[f"positives/{name}"].sum()) for name in scored_classes(study)]
        negatives = [float(sums[f"negatives/{name}"].sum()) for name in scored_classes(study)]
        return (
            all(whole(values) for name, values in sums.items() if name != "loss")
            and all(p + n == images for p, n in zip(positives, negatives, strict=True))
            and (len(positives) == 1 or sum(positives) == images)
            and float(sums["correct"][0]) <= images
            and patients <= images <= patients * study.evaluation.images_per_patient
            and at_most(sums["loss"], MAX_LOSS * images, slack)
        )

    def noised_can_add_up(self, study: StudyView, sums: Given, noise: Mapping[str, float]) -> bool:
        """No bin is further below zero than noise can carry it."""
        return no_cell_is_missing(study, sums, noise)

    def made_up_labels(
        self, study: StudyView, count: int, size: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """See :class:`medveil.tasks.Task`."""
        import torch

        return torch.randint(len(study.classes), (count,), generator=generator)

    def telling_labels(self, study: StudyView, logits: torch.Tensor) -> list[torch.Tensor]:
        """One class and only that; of many classes the first ones."""
        import torch

        return [torch.full((len(logits),), label) for label in range(min(len(study.classes), TOLD))]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each image, shape (k,)."""
        from torch.nn import functional

        if logits.shape[1] == 1:
            return functional.binary_cross_entropy_with_logits(
                logits[:, 0], labels.to(logits.dtype), reduction="none"
            )
        return functional.cross_entropy(logits, labels, reduction="none")

    def sums(self, study: StudyView, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Histograms of the predicted log odds per true class, hits, losses and counts of one patient.

        A model that has diverged (logits not finite) counts as probability 0 and the largest loss.
        """
        import torch

        limit = study.evaluation.images_per_patient
        scores, truth = logits[:limit].detach().double().cpu(), labels[:limit].cpu()
        losses = self.loss(scores, truth).nan_to_num(nan=MAX_LOSS).clamp(0.0, MAX_LOSS)
        if scores.shape[1] == 1:
            probabilities = torch.sigmoid(scores)
            hits = (probabilities[:, 0] > 0.5).long() == truth
        else:
            probabilities = scores.softmax(1)
            hits = probabilities.argmax(1) == truth
        sums = zeros(self.layout(study))
        bins = study.evaluation.bins
        place = score_bins(torch.logit(probabilities.nan_to_num(nan=0.0), eps=1e-15).numpy(), bins)
        for name, column in zip(scored_classes(study), place.T, strict=True):
            positive = truth.numpy() == study.classes.index(name)
            sums[f"positives/{name}"] += np.bincount(column[positive], minlength=bins)
            sums[f"negatives/{name}"] += np.bincount(column[~positive], minlength=bins)
        sums["correct"][0] = float(hits.sum())
        sums["loss"][0] = float(losses.sum())
        sums["images"][0] = float(len(truth))
        sums["patients"][0] = 1.0
        return sums

    def of_images(self, study: StudyView, images: Sequence[Sums]) -> Sums:
        """See :class:`medveil.tasks.Task`."""
        return added(images)


TASKS.register("classification")(Classification())


def scored_classes(study: StudyView) -> tuple[str, ...]:
    """Classes that have a score histogram: the second of two, or each of several."""
    return study.classes[1:] if len(study.classes) == 2 else study.classes


def noised_bins(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """An exact histogram of scores in the few bins of one that gets noise."""
    place = np.searchsorted(NOISED_EDGES, middles(len(histogram)))
    return np.bincount(place, histogram, NOISED_BINS).astype(np.float64)


def sent(study: StudyView, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """What of a patient's few bins enters a noised sum."""
    return blending.blended(cells) if study.evaluation.blended else cells


def arrived(study: StudyView, sums: Given) -> Sums:
    """The few bins again, of noised sums."""
    if not study.evaluation.blended:
        return dict(sums)
    return {name: blending.cells_of(values) for name, values in sums.items()}


def noise_shape(study: StudyView) -> NDArray[np.float64]:
    """Covariance of the noise in the few bins of a histogram, where each number has a variance of 1."""
    return blending.covariance(NOISED_BINS, blends=study.evaluation.blended)


def no_cell_is_missing(study: StudyView, sums: Given, noise: Mapping[str, float]) -> bool:
    """Whether no bin is further below zero than noise can carry it.

    Args:
        noise: the most that noise can be in a number of each sum.
    """
    reach = blending.reach(NOISED_BINS, blends=study.evaluation.blended)
    return all((values >= -noise[name] * reach).all() for name, values in arrived(study, sums).items())


def noised_areas(
    study: StudyView,
    names: Sequence[str],
    sums: Given,
    noise: float,
    *,
    all_count: bool,
    doubt: float = -math.inf,
) -> dict[str, Estimate | None]:
    """``auroc``, the mean over the named classes, and of several each class's, from noised histograms.

    Args:
        sums: as :func:`arrived` gives them.
        noise: multiplier of the noise in them as they were sent.
        all_count: see :func:`medveil.intervals.mean_of`.
        doubt: at which a count of cases is no more than noise might make it.
    """
    if noise <= 0:
        found = exact_areas(names, sums)
        return {"auroc": None, **found}
    positives = np.stack([sums[f"positives/{name}"] for name in names])
    negatives = np.stack([sums[f"negatives/{name}"] for name in names])
    parts = intervals.areas(positives, negatives, noise**2 * len(names) * noise_shape(study))
    fewest = np.minimum(positives.sum(1), negatives.sum(1)).tolist()
    parts = [part if few > doubt else None for part, few in zip(parts, fewest, strict=True)]
    each = {f"auroc/{name}": part for name, part in zip(names, parts, strict=True)}
    return {"auroc": intervals.mean_of(parts, all_count=all_count), **(each if len(names) > 1 else {})}


def exact_areas(names: Sequence[str], sums: Given, images_per_patient: float = 1.0) -> dict[str, Estimate]:
    """The same from exact histograms, of and over the classes that have cases of both kinds."""
    each = {
        f"auroc/{name}": part
        for name in names
        if (
            part := intervals.exact_area(
                sums[f"positives/{name}"], sums[f"negatives/{name}"], images_per_patient
            )
        )
    }
    whole = intervals.mean_of(list(each.values()), all_count=False)
    return ({"auroc": whole} if whole else {}) | (each if len(names) > 1 else {})


def _areas(study: StudyView, sums: Given) -> dict[str, float]:
    areas = {}
    for name in scored_classes(study):
        area = auroc(sums[f"positives/{name}"], sums[f"negatives/{name}"])
        if area is not None:
            areas[f"auroc/{name}"] = area
    figures = with_mean(areas, "auroc")
    return figures if len(areas) > 1 else {k: v for k, v in figures.items() if k == "auroc"}
