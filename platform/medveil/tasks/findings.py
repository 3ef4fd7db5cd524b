"""Several findings of one image, each there or not or not known, judged by histograms of the scores.

The study's classes are the findings, and each is a column of the manifest. A finding that is not known of an
image is left out of that image's loss and of all counts; the others count as ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medveil.histograms import auroc, calibration_error, score_bins
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
    column_problem,
    wants_classes,
    whole,
    with_mean,
    zeros,
)
from medveil.tasks.classification import (
    NOISED_BINS,
    arrived,
    exact_areas,
    no_cell_is_missing,
    noise_shape,
    noised_areas,
    noised_bins,
    sent,
)

if TYPE_CHECKING:
    import torch

THERE, ABSENT = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
UNKNOWN = ("", "-1", "-1.0", "na", "n/a", "nan", "none", "null", "unknown")
"""What a cell may say; -1 is how text-mined labels write that a report is uncertain."""
CLEAR = 3.0
"""Standard deviations of its noise that a noised count of cases has at least where a figure rests on it."""


class Findings:
    """Logits (k, findings); labels float32 (k, findings): 1 there, 0 absent, NaN not known."""

    headline = "auroc"
    headline_name = "AUROC, mean of the findings"
    headline_meaning = (
        "AUROC is the chance that the model gives a case with a finding a higher score than one without: 1 "
        "is perfect, 0.5 is guessing. The mean is over the findings that have cases enough."
    )
    higher_is_better = True
    classes: tuple[str, ...] = ("finding",)
    profile = "xray"
    outlines = False
    recipes_of = "findings"

    def problem(self, study: StudyView) -> str | None:
        """It wants findings that can be columns, and no target."""
        problem = column_problem(study.classes)
        return f"classes: {problem}" if problem else wants_classes(study, least=1)

    def aim(self, study: Subject) -> str:
        """See :class:`medveil.tasks.Task`."""
        return f"find {', '.join(study.classes)}"

    def unit(self, study: Subject, figure: str) -> str:
        """None."""
        return ""

    def columns(self, study: StudyView) -> tuple[str, ...]:
        """One for each finding, by its name."""
        return study.classes

    def read_label(self, study: StudyView, cells: Mapping[str, str]) -> Label:
        """For each finding 1.0, 0.0, or None where it is not known. Raises: BadLabel."""
        label: list[float | None] = []
        for name in study.classes:
            text = cells[name].strip().lower()
            if text not in THERE + ABSENT + UNKNOWN:
                raise BadLabel(
                    "A finding is neither there, nor absent, nor unknown.",
                    "Write 1 where it is there, 0 where it is not, and nothing where nobody knows.",
                )
            label.append(None if text in UNKNOWN else float(text in THERE))
        if all(value is None for value in label):
            raise BadLabel(
                "The line says of no finding whether it is there, so it is not used.",
                "Fill the cells of the findings that are known.",
            )
        return tuple(label)

    def outputs(self, classes: Sequence[str]) -> int:
        """One per finding."""
        return len(classes)

    def layout(self, study: StudyView) -> dict[str, int]:
        """Two histograms of the scores for each finding, of the images of which it is known; loss, counts."""
        bins = study.evaluation.bins
        return dict.fromkeys(_sides(study), bins) | {"loss": 1, "images": 1, "patients": 1}

    def released(self, study: StudyView) -> dict[str, int]:
        """The histograms, in few bins."""
        return dict.fromkeys(_sides(study), NOISED_BINS)

    def bounded(self, study: StudyView, patient: Given) -> Sums:
        """See :class:`medveil.tasks.Task`.

        Proof: of a finding that is known of k of a patient's images each puts 1/k into one bin, so its two
        histograms are not negative and sum to 1 (0 without a known image), and are no longer than that. With
        F findings the whole is no longer than sqrt(F). Blends are no longer.
        """
        sums: Sums = {}
        for name in study.classes:
            sides = (f"positives/{name}", f"negatives/{name}")
            known = max(sum(float(patient[side].sum()) for side in sides), 1.0)
            sums |= {side: sent(study, noised_bins(patient[side]) / known) for side in sides}
        return sums

    def noise_scales(self, study: StudyView) -> dict[str, float]:
        """The root of the number of findings; see :meth:`bounded`."""
        return dict.fromkeys(self.released(study), math.sqrt(len(study.classes)))

    def limits(self, study: Subject, figure: str) -> tuple[float, float]:
        """Shares; counts have no upper end."""
        return 0.0, (math.inf if figure.startswith(("there/", "known/")) else 1.0)

    def figures(self, study: StudyView, sums: Given) -> dict[str, float]:
        """``auroc`` (mean over the findings with cases of both kinds) and ``auroc/<finding>``; ``ece``, the
        mean calibration error of the findings with cases; ``there/<finding>`` and ``known/<finding>``, images
        that have it and images of which it is known; ``loss``, ``images``, ``patients``.
        """
        areas: dict[str, float] = {}
        counts: dict[str, float] = {}
        errors: list[float] = []
        for name in study.classes:
            positives, negatives = sums[f"positives/{name}"], sums[f"negatives/{name}"]
            area, known = auroc(positives, negatives), float(positives.sum() + negatives.sum())
            if area is not None:
                areas[f"auroc/{name}"] = area
            if known > 0:
                errors.append(calibration_error(positives, negatives))
            counts |= {f"there/{name}": float(positives.sum()), f"known/{name}": known}
        figures, images = with_mean(areas, "auroc"), float(sums["images"][0])
        if images > 0:
            figures |= {"ece": float(np.mean(errors))} if errors else {}
            figures["loss"] = float(sums["loss"][0]) / images
        return figures | counts | {"images": images, "patients": float(sums["patients"][0])}

    def estimates(self, study: StudyView, sums: Given) -> dict[str, Estimate]:
        """``auroc`` and each finding's."""
        images, patients = float(sums["images"][0]), max(float(sums["patients"][0]), 1.0)
        return exact_areas(study.classes, sums, images / patients)

    def noised_estimates(self, study: StudyView, sums: Given, noise: float) -> dict[str, Estimate | None]:
        """``auroc`` and ``auroc/<finding>`` of findings whose counts of patients with and without it stand
        clear of their noise.
        """
        doubt = CLEAR * noise * math.sqrt(len(study.classes) * float(noise_shape(study).sum()))
        cells = arrived(study, sums)
        return noised_areas(study, study.classes, cells, noise, all_count=False, doubt=doubt)

    def noised_counts(self, study: StudyView, sums: Given, noise: float) -> dict[str, float]:
        """``there/…``, ``known/…``; ``patients``: of whom a finding is known, on average."""
        counts: dict[str, float] = {}
        sums = arrived(study, sums)
        for name in study.classes:
            there, without = (float(sums[f"{side}/{name}"].sum()) for side in ("positives", "negatives"))
            counts |= {f"there/{name}": there, f"known/{name}": there + without}
        known = [counts[f"known/{name}"] for name in study.classes]
        return counts | {"patients": float(max(0, round(np.mean(known))))}

    def can_add_up(self, study: StudyView, sums: Given, slack: float) -> bool:
        """A finding's histograms hold each image once at most; no loss above its bound."""
        images, patients = float(sums["images"][0]), float(sums["patients"][0])
        return (
            all(whole(values) for name, values in sums.items() if name != "loss")
            and all(
                sums[f"positives/{name}"].sum() + sums[f"negatives/{name}"].sum() <= images
                for name in study.classes
            )
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

        shape = (count, len(study.classes))
        labels = torch.randint(2, shape, generator=generator).float()
        unknown = torch.rand(shape, generator=generator) < 0.3
        unknown[:, -1] = False
        return labels.masked_fill(unknown, math.nan)

    def telling_labels(self, study: StudyView, logits: torch.Tensor) -> list[torch.Tensor]:
        """All findings there, all absent, by turns, and each known of one image only."""
        import torch

        places = torch.arange(logits.numel()).view_as(logits)
        turns = (places % 2).float()
        image, finding = places // logits.shape[1], places % logits.shape[1]
        alone = turns.masked_fill(image != finding % len(logits), math.nan)
        return [torch.ones_like(turns), torch.zeros_like(turns), turns, alone]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy of each image's known findings, shape (k,); 0 where none is known."""
        import torch
        from torch.nn import functional

        known = labels.isfinite()
        truth = torch.where(known, labels, 0.0).to(logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        each = torch.where(known, each, 0.0)
        return each.sum(1) / known.sum(1).clamp(min=1)

    def sums(self, study: StudyView, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Histograms of the predicted log odds of each finding, of the images of which it is known.

        A model that has diverged (logits not finite) counts as probability 0 and the largest loss.
        """
        import torch

        limit, bins = study.evaluation.images_per_patient, study.evaluation.bins
        scores, truth = logits[:limit].detach().double().cpu(), labels[:limit].cpu()
        losses = self.loss(scores, truth).nan_to_num(nan=MAX_LOSS).clamp(0.0, MAX_LOSS)
        probabilities = torch.sigmoid(scores).nan_to_num(nan=0.0)
        place = score_bins(torch.logit(probabilities, eps=1e-15).numpy(), bins)
        sums = zeros(self.layout(study))
        for name, column, label in zip(study.classes, place.T, truth.numpy().T, strict=True):
            sums[f"positives/{name}"] += np.bincount(column[label == 1], minlength=bins)
            sums[f"negatives/{name}"] += np.bincount(column[label == 0], minlength=bins)
        sums["loss"][0] = float(losses.sum())
        sums["images"][0] = float(len(truth))
        sums["patients"][0] = 1.0
        return sums

    def of_images(self, study: StudyView, images: Sequence[Sums]) -> Sums:
        """See :class:`medveil.tasks.Task`."""
        return added(images)


TASKS.register("findings")(Findings())


def _sides(study: StudyView) -> list[str]:
    return [f"{side}/{name}" for name in study.classes for side in ("positives", "negatives")]
