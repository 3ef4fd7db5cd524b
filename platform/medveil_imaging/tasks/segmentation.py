"""Segmentation: a class for every voxel."""

from __future__ import annotations

import torch

from medveil.metrics import MAX_LOSS, Sums, empty
from medveil.study import Study
from medveil_imaging.tasks import TASKS

SMOOTH = 1.0
"""Voxels added above and below the fraction: a structure absent from truth and prediction costs nothing."""


class Segmentation:
    """Logits (k, classes, \\*size), class 0 the background; labels int64 (k, \\*size)."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean voxel cross-entropy plus one minus mean soft Dice of the structures, shape (k,).

        Sums run over one image's own voxels (never over the batch), so a patient's gradient is its own.
        """
        classes = torch.arange(logits.shape[1], device=logits.device)
        truth = (labels.unsqueeze(-1) == classes).movedim(-1, 1).to(logits.dtype).flatten(2)
        log_probabilities = logits.flatten(2).log_softmax(1)
        cross_entropy = -(truth * log_probabilities).sum(1).mean(1)
        probabilities, structures = log_probabilities[:, 1:].exp(), truth[:, 1:]
        overlap = (probabilities * structures).sum(2)
        dice = (2 * overlap + SMOOTH) / (probabilities.sum(2) + structures.sum(2) + SMOOTH)
        return cross_entropy + 1 - dice.mean(1)

    def sums(self, study: Study, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Dice per structure, mean over this patient's volumes in which it was outlined, and mean loss.

        A structure outlined in none of the volumes is not counted, so an empty label map never scores 1.
        """
        limit = study.evaluation.images_per_patient
        scores, truth = logits[:limit].detach().cpu(), labels[:limit].cpu()
        sums = empty(study)
        if not len(truth):
            return sums
        predicted = scores.argmax(1)
        for index, name in enumerate(study.classes[1:], start=1):
            outlined, found = (truth == index).flatten(1), (predicted == index).flatten(1)
            present = outlined.any(1)
            if present.any():
                total = outlined.sum(1) + found.sum(1)
                dice = 2 * (outlined & found).sum(1)[present].double() / total[present]
                sums[f"dice/{name}"][0] = float(dice.mean())
                sums[f"cases/{name}"][0] = 1.0
        loss = self.loss(scores, truth).double().nan_to_num(nan=MAX_LOSS).mean()
        sums["loss"][0] = float(loss.clamp(0.0, MAX_LOSS))
        sums["patients"][0] = 1.0
        return sums


TASKS.register("segmentation")(Segmentation())
