"""Regression: one number for each image, such as an age, within a range that the study declares.

The range is public and bounds everything. A label is where its number lies in it, from -1 (the low end) to 1;
so is the model's output, and 0 is the middle, which is what a model says that has learned nothing. Outputs
beyond an end count as that end. Sums are in shares of the range, figures in the target's own unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medveil import intervals
from medveil.cells import BLANK, numbers_in
from medveil.intervals import Arms, Estimate, Moments
from medveil.tasks import (
    MAX_LOSS,
    TASKS,
    BadLabel,
    Given,
    Label,
    Range,
    StudyView,
    Subject,
    Sums,
    added,
    at_most,
    whole,
    zeros,
)

if TYPE_CHECKING:
    import torch

CUT = 0.5
"""Share of the range: in noised sums a larger error counts as this. It halves the noise of all others."""
CENTRES = {"absolute": CUT / 2, "squared": CUT**2 / 2, "target": 0.5, "spread": 0.125}
"""Taken off a value before it is summed with noise: the middle of what it can be."""
WEIGHTS = {"absolute": 1.0, "error": 0.25, "squared": 0.7, "target": 0.2, "spread": 0.7, "cases": 0.2}
"""What each takes of a patient's bound; most for the headline, and for the count that it is divided by."""
REACH = {"absolute": CUT / 2, "error": CUT, "squared": CUT**2 / 2, "target": 0.5, "spread": 0.125, "cases": 1}
"""How far from its centre each can be."""


class Regression:
    """Logits (k, 1); labels float32 (k,), from -1 to 1: where in the declared range the number lies."""

    headline = "mae"
    headline_name = "MAE"
    headline_meaning = (
        "MAE, the mean absolute error, is by how much the model is off on average: 0 is perfect. R² is the "
        "share of the differences between patients that it explains: 0 for one that always says the same."
    )
    higher_is_better = False
    classes: tuple[str, ...] = ()
    profile = "mri"
    outlines = False
    recipes_of = "regression"

    def problem(self, study: StudyView) -> str | None:
        """It wants a target and no classes."""
        if study.classes:
            return "classes: a regression has none"
        return None if study.target else "target: a regression wants one (column, low and high)"

    def aim(self, study: Subject) -> str:
        """See :class:`medveil.tasks.Task`."""
        if study.target is None:  # a result of an unknown version
            return "estimate a number"
        unit = f" {study.target.unit}" if study.target.unit else ""
        return f"estimate '{study.target.column}' ({study.target.low:g} to {study.target.high:g}{unit})"

    def unit(self, study: Subject, figure: str) -> str:
        """The target's, of errors."""
        return study.target.unit if study.target and figure in ("mae", "rmse", "bias", "noise") else ""

    def columns(self, study: StudyView) -> tuple[str, ...]:
        """The target's."""
        return (_range(study).column,)

    def read_label(self, study: StudyView, cells: Mapping[str, str]) -> Label:
        """Where in the declared range the line's number lies, from -1 to 1. Raises: BadLabel."""
        target = _range(study)
        text, between = cells[target.column].strip(), f"{target.low:g} to {target.high:g}"
        if text.lower() in BLANK:
            raise BadLabel(
                "The line does not say the number that is learned, so it is not used.",
                "Fill the cell if the number is known.",
            )
        found = sorted({value for value in numbers_in(text) if target.low <= value <= target.high})
        if not numbers_in(text):
            raise BadLabel(
                "The number that is learned is not a number.",
                f"Write digits, with a point before decimals, and no unit: {between}.",
            )
        if len(found) > 1:
            raise BadLabel(
                "The number that is learned can be read in two ways.", "Write a point before decimals."
            )
        if not found:
            raise BadLabel(
                "The number that is learned lies outside of the range that the study declares.",
                f"Correct the cell ({between}); if it is right, the study's range is too narrow.",
            )
        return float((found[0] - target.low) / (target.high - target.low) * 2 - 1)

    def outputs(self, classes: Sequence[str]) -> int:
        """One."""
        return 1

    def layout(self, study: StudyView) -> dict[str, int]:
        """Absolute and squared error, mean output and target, the target's square, loss and counts.

        All but ``images`` are sums over patients of the mean over the patient's images.
        """
        names = ("absolute", "squared", "predicted", "target", "target_squared", "loss", "images", "patients")
        return dict.fromkeys(names, 1)

    def released(self, study: StudyView) -> dict[str, int]:
        """Errors, the target's mean and spread about the middle of the range, and the number of patients."""
        return dict.fromkeys(WEIGHTS, 1)

    def bounded(self, study: StudyView, patient: Given) -> Sums:
        """See :class:`medveil.tasks.Task`.

        Proof: of a patient who is there, each value lies within its ``REACH`` of its centre, for it is cut
        there: absolute error in [0, CUT], error in [-CUT, CUT], squared error in [0, CUT^2], target in
        [0, 1], its squared distance from the middle in [0, 1/4]. So with the values weighed, their squares
        sum to sum((WEIGHTS * REACH)^2) at most. Who is not there adds zeros.
        """
        there = min(max(float(patient["patients"][0]), 0.0), 1.0)
        target = float(patient["target"][0])
        values = {
            "absolute": float(patient["absolute"][0]),
            "error": float(patient["predicted"][0]) - target,
            "squared": float(patient["squared"][0]),
            "target": target,
            "spread": float(patient["target_squared"][0]) - target + there / 4,
            "cases": there,
        }
        sums: Sums = {}
        for name, value in values.items():
            centre = CENTRES.get(name, 0.0)
            off = 0.0 if name == "cases" else np.clip(value - centre, -REACH[name], REACH[name])
            sums[name] = np.array([there if name == "cases" else there * off])
        return sums

    def noise_scales(self, study: StudyView) -> dict[str, float]:
        """See :meth:`bounded`."""
        length = math.hypot(*(WEIGHTS[name] * REACH[name] for name in WEIGHTS))
        return {name: length / weight for name, weight in WEIGHTS.items()}

    def limits(self, study: Subject, figure: str) -> tuple[float, float]:
        """Errors: the width of the range. R² is 1 at most."""
        width = _range(study).high - _range(study).low
        if figure == "r2":
            return -1.0, 1.0
        return (-width, width) if figure == "bias" else (0.0, width)

    def figures(self, study: StudyView, sums: Given) -> dict[str, float]:
        """``mae``, ``rmse`` and ``bias`` (predicted less true) in the target's unit, ``r2`` (share of the
        variance explained; absent where all have the same number), ``loss``, ``images``, ``patients``.
        Means over patients, each by the mean over the own images.
        """
        patients, images = float(sums["patients"][0]), float(sums["images"][0])
        figures: dict[str, float] = {}
        if patients > 0:
            mean = {name: float(sums[name][0]) / patients for name in self.layout(study)}
            figures = _errors(
                study,
                absolute=mean["absolute"],
                bias=mean["predicted"] - mean["target"],
                squared=mean["squared"],
                variance=mean["target_squared"] - mean["target"] ** 2,
            ) | {"loss": mean["loss"]}
        return figures | {"images": images, "patients": patients}

    def estimates(self, study: StudyView, sums: Given) -> dict[str, Estimate]:
        """``mae`` and ``bias``: the sum of squared errors tells how patients differ."""
        width = _range(study).high - _range(study).low
        total = {name: float(values[0]) for name, values in sums.items()}
        off = {"mae": total["absolute"], "bias": total["predicted"] - total["target"]}
        found = {
            name: intervals.exact_mean(value, total["patients"], total["squared"])
            for name, value in off.items()
        }
        return {name: one.scaled(width) for name, one in found.items() if one}

    def noised_estimates(self, study: StudyView, sums: Given, noise: float) -> dict[str, Estimate | None]:
        """``mae``, ``rmse``, ``bias``, ``r2``; an error beyond ``CUT`` of the range counts as that.

        How patients differ in ``mae`` and ``bias`` follows from the squared errors; of the others the noise
        alone is known.
        """
        width = _range(study).high - _range(study).low
        total = {name: float(values[0]) for name, values in sums.items()}
        deviation = {name: noise * scale for name, scale in self.noise_scales(study).items()}
        cases = total["cases"]

        def mean(name: str, *, scattered: bool) -> Estimate | None:
            centre = CENTRES.get(name, 0.0)
            squares = _scatter(total, deviation, name) if scattered else None
            found = intervals.mean(
                total[name],
                cases,
                deviations=(deviation[name], deviation["cases"]),
                squares=squares,
                limits=(-REACH[name], REACH[name]),
            )
            return found and found.moved(centre)

        found = {
            "mae": mean("absolute", scattered=True),
            "rmse": _root(mean("squared", scattered=False)),
            "bias": mean("error", scattered=True),
        }
        scaled = {name: one and one.scaled(width) for name, one in found.items()}
        return {**scaled, "r2": _explained(total, deviation)}

    def noised_counts(self, study: StudyView, sums: Given, noise: float) -> dict[str, float]:
        """``patients``."""
        return {"patients": float(max(0, round(float(sums["cases"][0]))))}

    def can_add_up(self, study: StudyView, sums: Given, slack: float) -> bool:
        """No error above the range, no square above its value or below what the mean makes it, no loss above
        its bound; and as many images as the patients can have."""
        total = {name: float(values[0]) for name, values in sums.items()}
        patients, images = total["patients"], total["images"]
        room = slack + 1e-9 * patients
        return (
            whole(sums["patients"])
            and whole(sums["images"])
            and patients <= images <= patients * study.evaluation.images_per_patient
            and total["squared"] <= total["absolute"] + room
            and total["absolute"] <= patients + room
            and total["target_squared"] <= total["target"] + room
            and total["target"] <= patients + room
            and total["predicted"] <= patients + room
            and abs(total["predicted"] - total["target"]) <= total["absolute"] + 3 * room
            and _is_mean_of_squares(total["squared"], total["absolute"], patients, room)
            and _is_mean_of_squares(total["target_squared"], total["target"], patients, room)
            and at_most(sums["loss"], MAX_LOSS * patients, slack)
        )

    def noised_can_add_up(self, study: StudyView, sums: Given, noise: Mapping[str, float]) -> bool:
        """No count below zero, and nothing beyond its reach for so many patients, but for the noise."""
        most = float(sums["cases"][0]) + noise["cases"]
        return most >= 0 and all(
            abs(float(sums[name][0])) <= REACH[name] * most + noise[name] for name in WEIGHTS
        )

    def made_up_labels(
        self, study: StudyView, count: int, size: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """See :class:`medveil.tasks.Task`."""
        import torch

        return torch.rand(count, generator=generator) * 2 - 1

    def telling_labels(self, study: StudyView, logits: torch.Tensor) -> list[torch.Tensor]:
        """Both ends of the range, and between."""
        import torch

        return [torch.full((len(logits),), place) for place in (-1.0, -0.5, 0.0, 0.5, 1.0)]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Half the squared error in units of half the range; linear beyond one of them. Shape (k,).

        The slope is 1 at most, so that one wrong number in a spreadsheet does not outweigh all others.
        Source: Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 1964.
        """
        from torch.nn import functional

        return functional.smooth_l1_loss(logits[:, 0], labels.to(logits.dtype), reduction="none")

    def sums(self, study: StudyView, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Errors and target of one patient in shares of the range, means over the images.

        A model that has diverged (an output that is not finite) is wrong by as much as can be.
        """
        import torch

        limit = study.evaluation.images_per_patient
        scores, truth = logits[:limit].detach().double().cpu(), labels[:limit].double().cpu()
        sums = zeros(self.layout(study))
        if not len(truth):
            return sums
        target = ((truth + 1) / 2).clamp(0, 1)
        farthest = (target < 0.5).double()
        output = (scores[:, 0] + 1) / 2
        predicted = torch.where(output.isfinite(), output.clamp(0, 1), farthest)
        error = (predicted - target).abs()
        loss = self.loss(scores, truth).nan_to_num(nan=MAX_LOSS).clamp(0.0, MAX_LOSS)
        means = {
            "absolute": error,
            "squared": error.square(),
            "predicted": predicted,
            "target": target,
            "target_squared": target.square(),
            "loss": loss,
        }
        for name, values in means.items():
            sums[name][0] = float(values.mean())
        sums["images"][0], sums["patients"][0] = float(len(truth)), 1.0
        return sums

    def of_images(self, study: StudyView, images: Sequence[Sums]) -> Sums:
        """See :class:`medveil.tasks.Task`; means over the images."""
        total = added(images)
        means = {name: values / total["images"] for name, values in total.items()}
        return means | {name: total[name] for name in ("images", "patients")}


TASKS.register("regression")(Regression())


def _range(study: Subject) -> Range:
    if study.target is None:
        raise ValueError("a regression wants a target")
    return study.target


def _errors(
    study: StudyView, *, absolute: float, bias: float, squared: float, variance: float
) -> dict[str, float]:
    """Figures in the target's unit from means in shares of the range."""
    width = _range(study).high - _range(study).low
    found = {"mae": absolute * width, "rmse": math.sqrt(max(squared, 0.0)) * width, "bias": bias * width}
    return found | ({"r2": 1 - squared / variance} if variance > 1e-9 else {})


def _scatter(total: Mapping[str, float], deviation: Mapping[str, float], name: str) -> tuple[float, float]:
    """Sum of the squares of errors about the centre of their range, from the noised sum of squared errors.

    Returns: it, and the standard deviation of the noise in the squares about the mean that follow from it.
    """
    cases, centre = max(total["cases"], 1.0), CENTRES.get(name, 0.0)
    square = total["squared"] + CENTRES["squared"] * total["cases"]
    mean = total[name] / cases + centre
    noise = math.hypot(
        deviation["squared"],
        2 * mean * deviation[name],
        (CENTRES["squared"] - 2 * mean * centre + mean**2) * deviation["cases"],
    )
    return square - 2 * centre * total[name] - centre**2 * total["cases"], noise


def _root(squared: Estimate | None) -> Estimate | None:
    """The root of a mean square: its interval is that of the square, end by end."""
    if squared is None:
        return None
    ends = (squared.value - squared.noise.below, squared.value, squared.value + squared.noise.above)
    low, value, high = (math.sqrt(max(end, 0.0)) for end in ends)
    return Estimate(value, Arms(value - low, high - value), deviation=(high - low) / (2 * intervals.Z))


def _explained(total: Mapping[str, float], deviation: Mapping[str, float]) -> Estimate | None:
    """R², as one less a ratio whose two sides are products of noised sums; variances to first order."""
    cases, place = total["cases"], total["target"]
    square = total["squared"] + CENTRES["squared"] * cases
    spread = total["spread"] + CENTRES["spread"] * cases
    # Of the number of patients: each side is its own sum times it, and the sums have their centres off.
    above, below = square + CENTRES["squared"] * cases, spread + CENTRES["spread"] * cases
    in_cases = deviation["cases"] ** 2
    moments = Moments(
        square * cases,
        spread * cases - place**2,
        (cases * deviation["squared"]) ** 2 + above**2 * in_cases,
        above * below * in_cases,
        (cases * deviation["spread"]) ** 2 + (2 * place * deviation["target"]) ** 2 + below**2 * in_cases,
    )
    rest = intervals.estimate(moments, limits=(0.0, 2.0))
    if rest is None or cases <= 0:
        return None
    noise = Arms(rest.noise.above, rest.noise.below)
    return Estimate(1 - rest.value, noise, deviation=rest.deviation)


def _is_mean_of_squares(squared: float, plain: float, patients: float, room: float) -> bool:
    """Whether a sum of squares is at least what the sum of the values makes it (Jensen)."""
    return max(plain - room, 0.0) ** 2 <= patients * (squared + room)
