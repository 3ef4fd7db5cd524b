"""Classification of whole images."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from medveil.metrics import MAX_LOSS, Sums, empty, score_bins, scored_classes
from medveil.study import Study
from medveil_imaging.tasks import TASKS


class Classification:
    """Logits (k, 1) for two classes or (k, classes) for more; labels int64 (k,)."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each image, shape (k,)."""
        if logits.shape[1] == 1:
            return functional.binary_cross_entropy_with_logits(
                logits[:, 0], labels.to(logits.dtype), reduction="none"
            )
        return functional.cross_entropy(logits, labels, reduction="none")

    def sums(self, study: Study, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """Histograms of the predicted log odds per true class, hits, losses and counts of one patient.

        A model that has diverged (logits not finite) counts as probability 0 and the largest loss.
        """
        limit = study.evaluation.images_per_patient
        scores, truth = logits[:limit].detach().double().cpu(), labels[:limit].cpu()
        losses = self.loss(scores, truth).nan_to_num(nan=MAX_LOSS).clamp(0.0, MAX_LOSS)
        if scores.shape[1] == 1:
            probabilities = torch.sigmoid(scores)
            hits = (probabilities[:, 0] > 0.5).long() == truth
        else:
            probabilities = scores.softmax(1)
            hits = probabilities.argmax(1) == truth
        sums = empty(study)
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


TASKS.register("classification")(Classification())
