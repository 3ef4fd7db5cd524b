"""Segmentation: a class for every voxel, judged by the overlap with an expert's outline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medveil import intervals, lesions
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
    at_most,
    wants_classes,
    whole,
    with_mean,
    zeros,
)

if TYPE_CHECKING:
    import torch

CENTRE = 0.5
"""Taken off a Dice before it is summed with noise: half the range, half the noise."""
CASE_SHARE = 0.35
"""How much of a patient's bound the count of a structure takes beside its Dice; near the optimum for a Dice
of .75, which the count enters with a quarter of its error."""
PIECE = 2**18
"""Voxels that are counted at once."""
SMOOTH = 1.0
"""Voxels added above and below the fraction: a structure absent from truth and prediction costs nothing."""


class Segmentation:
    """Logits (k, classes, \\*size), class 0 the background; labels int64 (k, \\*size)."""

    headline = "dice"
    headline_name = "Dice"
    headline_meaning = "Dice measures the overlap with the expert's outline: 1 is perfect, 0 is none."
    higher_is_better = True
    classes: tuple[str, ...] = ("background", "structure")
    profile = "mri"
    outlines = True
    recipes_of = "segmentation"

    def problem(self, study: StudyView) -> str | None:
        """It wants classes and no target."""
        return wants_classes(study)

    def aim(self, study: Subject) -> str:
        """See :class:`medveil.tasks.Task`."""
        return f"outline {', '.join(study.classes[1:])}"

    def unit(self, study: Subject, figure: str) -> str:
        """None."""
        return ""

    def outputs(self, classes: Sequence[str]) -> int:
        """One per class, the background included."""
        return len(classes)

    def columns(self, study: StudyView) -> tuple[str, ...]:
        """One column with the path of a label map."""
        return ("label_map",)

    def read_label(self, study: StudyView, cells: Mapping[str, str]) -> Label:
        """Not asked for: the label map is a file."""
        raise BadLabel("A label map is a file.", "Name it in the column label_map.")

    def layout(self, study: StudyView) -> dict[str, int]:
        """Dice and number of cases of each structure, loss and count."""
        return self.released(study) | {"loss": 1, "patients": 1}

    def released(self, study: StudyView) -> dict[str, int]:
        """Dice and number of cases of each structure, and its lesions where the study asks for them."""
        structures = study.classes[1:]
        overlap = {f"dice/{c}": 1 for c in structures} | {f"cases/{c}": 1 for c in structures}
        return overlap | (lesions.names(structures) if study.evaluation.lesions else {})

    def bounded(self, study: StudyView, patient: Given) -> Sums:
        """See :class:`medveil.tasks.Task`.

        Proof: a Dice less its centre lies within 1/2, a count is 0 or 1: with S structures the squares sum to
        S (1/4 + CASE_SHARE^2) at most, the count weighed by CASE_SHARE. With lesions, weighed by
        lesions.SHARE / lesions.FEW, each structure adds lesions.SHARE^2 twice at most: for those that there
        are, found and missed, and for the false ones (:func:`medveil.lesions.bounded`).
        """
        sums: Sums = {}
        for name in study.classes[1:]:
            seen = patient[f"cases/{name}"]
            sums |= {f"dice/{name}": patient[f"dice/{name}"] - CENTRE * seen, f"cases/{name}": seen}
        return sums | (lesions.bounded(study.classes[1:], patient) if study.evaluation.lesions else {})

    def noise_scales(self, study: StudyView) -> dict[str, float]:
        """See :meth:`bounded`."""
        each = CENTRE**2 + CASE_SHARE**2 + (2 * lesions.SHARE**2 if study.evaluation.lesions else 0.0)
        length = math.sqrt((len(study.classes) - 1) * each)
        weights = {"dice": 1.0, "cases": CASE_SHARE}
        lesion = lesions.SHARE / lesions.FEW
        return {n: length / weights.get(n.partition("/")[0], lesion) for n in self.released(study)}

    def limits(self, study: Subject, figure: str) -> tuple[float, float]:
        """Shares, and counts of lesions."""
        return 0.0, (math.inf if figure.startswith("lesions/") else 1.0)

    def figures(self, study: StudyView, sums: Given) -> dict[str, float]:
        """``dice`` (mean over structures), ``dice/<structure>`` (mean over patients in whom it was outlined),
        ``loss``, ``patients``; with lesions :func:`medveil.lesions.figures`.
        """
        found = {}
        for name in study.classes[1:]:
            cases = float(sums[f"cases/{name}"][0])
            if cases > 0:
                found[f"dice/{name}"] = float(sums[f"dice/{name}"][0]) / cases
        figures, patients = with_mean(found, "dice"), float(sums["patients"][0])
        if patients > 0:
            figures["loss"] = float(sums["loss"][0]) / patients
        if study.evaluation.lesions:
            figures |= lesions.figures(study.classes[1:], sums)
        return figures | {"patients": patients}

    def estimates(self, study: StudyView, sums: Given) -> dict[str, Estimate]:
        """None: a sum of Dice does not tell how patients differ."""
        return {}

    def noised_estimates(self, study: StudyView, sums: Given, noise: float) -> dict[str, Estimate | None]:
        """``dice`` and each structure's, and those of lesions; of the noise alone (:meth:`estimates`)."""
        structures, scales = study.classes[1:], self.noise_scales(study)
        each: dict[str, Estimate | None] = {}
        for name in structures:
            deviations = noise * scales[f"dice/{name}"], noise * scales[f"cases/{name}"]
            centred = intervals.mean(
                float(sums[f"dice/{name}"][0]),
                float(sums[f"cases/{name}"][0]),
                deviations=deviations,
                limits=(-CENTRE, CENTRE),
            )
            each[f"dice/{name}"] = centred and centred.moved(CENTRE)
        found = {"dice": intervals.mean_of(list(each.values()), all_count=True), **each}
        if study.evaluation.lesions:
            found |= lesions.estimates(structures, sums, noise * scales[f"found/{structures[0]}"])
        return found

    def noised_counts(self, study: StudyView, sums: Given, noise: float) -> dict[str, float]:
        """``patients``: those of the structure that was outlined most often; lesions that stand clear."""
        structures = study.classes[1:]
        most = max(float(sums[f"cases/{name}"][0]) for name in structures)
        counts = {"patients": float(max(0, round(most)))}
        if study.evaluation.lesions:
            deviation = noise * self.noise_scales(study)[f"found/{structures[0]}"]
            counts |= lesions.noised_counts(structures, sums, deviation)
        return counts

    def can_add_up(self, study: StudyView, sums: Given, slack: float) -> bool:
        """No more cases than patients, no Dice above its cases, no loss above its bound."""
        patients = sums["patients"]
        cases = [sums[f"cases/{name}"] for name in study.classes[1:]]
        return (
            all(whole(values) for values in (patients, *cases))
            and all((values <= patients).all() for values in cases)
            and all(at_most(sums[f"dice/{c}"], sums[f"cases/{c}"], slack) for c in study.classes[1:])
            and at_most(sums["loss"], MAX_LOSS * patients, slack)
            and (
                not study.evaluation.lesions
                or lesions.can_add_up(study.classes[1:], sums, float(patients[0]), slack)
            )
        )

    def noised_can_add_up(self, study: StudyView, sums: Given, noise: Mapping[str, float]) -> bool:
        """No count below zero and no centred Dice beyond half its cases, but for the noise."""
        for name in study.classes[1:]:
            dice, cases = sums[f"dice/{name}"], sums[f"cases/{name}"] + noise[f"cases/{name}"]
            if (cases < 0).any() or (np.abs(dice) > CENTRE * cases + noise[f"dice/{name}"]).any():
                return False
        counts = lesions.names(study.classes[1:]) if study.evaluation.lesions else {}
        return all((sums[name] >= -noise[name]).all() for name in counts)

    def made_up_labels(
        self, study: StudyView, count: int, size: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """See :class:`medveil.tasks.Task`."""
        import torch

        return torch.randint(len(study.classes), (count, *size), generator=generator)

    def telling_labels(self, study: StudyView, logits: torch.Tensor) -> list[torch.Tensor]:
        """Structures outlined where the model is right, where it is wrong everywhere, and in many places."""
        import torch

        found, classes = logits.argmax(1), len(study.classes)
        turn = torch.arange(found[0].numel()).view_as(found[0]) % (classes - 1) + 1
        scattered = torch.zeros_like(found)
        places = (slice(None), *(slice(None, None, 2) for _ in found.shape[1:]))
        scattered[places] = 1  # each voxel a lesion
        return [(found + turn) % classes, found, scattered]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean voxel cross-entropy plus one minus mean soft Dice of the structures, shape (k,).

        Sums run over one image's own voxels (never over the batch), so a patient's gradient is its own.
        """
        import torch

        classes = torch.arange(logits.shape[1], device=logits.device)
        truth = (labels.unsqueeze(-1) == classes).movedim(-1, 1).to(logits.dtype).flatten(2)
        log_probabilities = logits.flatten(2).log_softmax(1)
        cross_entropy = -(truth * log_probabilities).sum(1).mean(1)
        probabilities, structures = log_probabilities[:, 1:].exp(), truth[:, 1:]
        overlap = (probabilities * structures).sum(2)
        dice = (2 * overlap + SMOOTH) / (probabilities.sum(2) + structures.sum(2) + SMOOTH)
        return cross_entropy + 1 - dice.mean(1)

    def sums(self, study: StudyView, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Dice per structure, mean over this patient's volumes in which it was outlined, and mean loss.

        A structure outlined in none of the volumes is not counted, so an empty label map never scores 1.
        """
        limit = study.evaluation.images_per_patient
        pairs = zip(logits[:limit].detach().cpu(), labels[:limit].cpu(), strict=True)
        return self.of_images(study, [self._of_image(study, scores, truth) for scores, truth in pairs])

    def of_images(self, study: StudyView, images: Sequence[Sums]) -> Sums:
        """See :class:`medveil.tasks.Task`; a Dice is the mean over the volumes with that structure."""
        sums = zeros(self.layout(study))
        if not images:
            return sums
        for name in study.classes[1:]:
            cases = sum(float(one[f"cases/{name}"][0]) for one in images)
            if cases:
                sums[f"dice/{name}"][0] = sum(float(one[f"dice/{name}"][0]) for one in images) / cases
                sums[f"cases/{name}"][0] = 1.0
        if study.evaluation.lesions:
            sums |= lesions.mean_of(study.classes[1:], images)
        loss = float(np.mean([one["loss"][0] for one in images]))
        return sums | {"loss": np.array([min(max(loss, 0.0), MAX_LOSS)]), "patients": np.ones(1)}

    def _of_image(self, study: StudyView, scores: torch.Tensor, truth: torch.Tensor) -> Sums:
        """Scores (classes, \\*size) and label map (\\*size) of one volume.

        Read in pieces: a large volume has millions of voxels, and no second array of its scores is made.
        """
        import torch

        classes = len(scores)
        counts, entropy = torch.zeros(classes * classes, dtype=torch.int64), 0.0
        surely, overlap = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
        pieces = zip(
            torch.split(scores.flatten(1), PIECE, 1), torch.split(truth.flatten(), PIECE), strict=True
        )
        for part, here in pieces:
            counts += torch.bincount(here * classes + part.argmax(0), minlength=classes * classes)
            log_probabilities = part.log_softmax(0)
            entropy -= float(log_probabilities.gather(0, here[None]).double().sum())
            probabilities = log_probabilities.exp_()
            surely += probabilities.double().sum(1)
            right = probabilities.gather(0, here[None])[0].double()
            overlap += torch.bincount(here, weights=right, minlength=classes)
        table = counts.view(classes, classes)
        outlined, found = table.sum(1), table.sum(0)
        soft = (2 * overlap + SMOOTH) / (surely + outlined + SMOOTH)
        loss = torch.tensor(entropy / truth.numel()) + 1 - soft[1:].mean()
        sums = zeros(self.layout(study)) | {"loss": np.array([float(loss.nan_to_num(nan=MAX_LOSS))])}
        for index, name in enumerate(study.classes[1:], start=1):
            if outlined[index]:
                total = float(outlined[index] + found[index])
                sums[f"dice/{name}"][0] = 2 * float(table[index, index]) / total
                sums[f"cases/{name}"][0] = 1.0
        if study.evaluation.lesions:
            predicted, labels = scores.argmax(0).numpy(), truth.numpy()
            for index, name in enumerate(study.classes[1:], start=1):
                seen = lesions.counted(labels == index, predicted == index)
                sums |= {f"{k}/{name}": np.array([n]) for k, n in zip(lesions.KINDS, seen, strict=True)}
        return sums


TASKS.register("segmentation")(Segmentation())
