"""How good a model is on one hospital's patients, as sums that can be added over hospitals."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hospital_node.training.features import FeatureCache, batches, has_features
from medveil.metrics import Sums, empty
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import build_model, load_vector
from medveil_imaging.patients import PatientImages
from medveil_imaging.tasks import TASKS

VALUES_AT_ONCE = 2**21


def evaluate(
    study: Study,
    vector: Float32,
    patients: Sequence[PatientImages],
    *,
    device: torch.device,
    cache: FeatureCache | None = None,
) -> Sums:
    """Each patient's bounded contribution, added up; images of several patients share one forward pass.

    Args:
        vector: the model, float32 (d,).
        patients: what to evaluate on; of each at most ``study.evaluation.images_per_patient`` images count.
        cache: keeps a model's fixed features from round to round.

    Returns: float64 arrays as :func:`medveil.metrics.layout` lists them; zeros without patients.
    """
    module = build_model(study).to(device)
    load_vector(module, vector)
    module.eval()
    task, total, limit = TASKS[study.task], empty(study), study.evaluation.images_per_patient
    if cache is not None and has_features(module):
        patients = cache.get(study, module, patients, device)
    largest = max((p.images[0].numel() for p in patients if len(p)), default=1)
    for group in batches(patients, max(1, VALUES_AT_ONCE // largest)):
        images = torch.cat([p.images[:limit] for p in group])
        with torch.no_grad():
            logits = module(images.to(device)).float().cpu()
        counts = [min(len(p), limit) for p in group]
        for patient, own in zip(group, logits.split(counts), strict=True):
            sums = task.sums(study, own, patient.labels[:limit])
            for name, value in sums.items():
                total[name] += value
    return total
