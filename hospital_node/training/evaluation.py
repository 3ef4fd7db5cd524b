"""How good a model is on one hospital's patients, as sums that can be added over hospitals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from hospital_node.ledger import Charge
from hospital_node.training.features import FeatureCache, has_features
from hospital_node.training.run import NoCharge
from medveil.metrics import bounded, empty, noise_scales, released
from medveil.parts import placed
from medveil.stopping import check_stopped
from medveil.study import Study
from medveil.tasks import TASKS, Sums
from medveil.tensors import Float32
from medveil_imaging.models import build_model, load_vector
from medveil_imaging.patches import by_windows
from medveil_imaging.patients import Patient
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import round_event


def evaluate(
    study: Study,
    vector: Float32,
    patients: Sequence[Patient],
    *,
    device: torch.device,
    cache: FeatureCache | None = None,
    build: Callable[[Study], nn.Module] = build_model,
) -> Sums:
    """Each patient's contribution, added up exactly: for the hospital's own eyes.

    Args:
        vector: the model, float32 (d,).
        patients: what to evaluate on; of each at most ``study.evaluation.images_per_patient`` images count.
        cache: keeps a model's fixed features from round to round.
        build: makes the study's network; the self-check brings its own.

    Returns: float64 arrays as :func:`medveil.metrics.layout` lists them; zeros without patients.
    """
    total = empty(study)
    for sums in contributions(study, vector, patients, device=device, cache=cache, build=build):
        for name, value in sums.items():
            total[name] += value
    return total


def release(
    study: Study,
    vector: Float32,
    patients: Sequence[Patient],
    *,
    noise: NoiseSource | None,
    charge: Charge | None,
    device: torch.device,
    cache: FeatureCache | None = None,
    build: Callable[[Study], nn.Module] = build_model,
) -> Sums:
    """What leaves the hospital of an evaluation, as :func:`medveil.metrics.released` lists it.

    Without privacy the exact sums. Otherwise each patient's bounded contribution, added up, with Gaussian
    noise in float64; the encoding rounds it to the grid of the metrics before it is masked.

    Args:
        noise, charge: needed under differential privacy, unused without it. The charge is marked as begun
            before the noise is drawn and pays for one call.

    Guarantees: under differential privacy, adding or removing one patient changes the distribution of the
        sums by no more than :func:`privacy.dp.policy.round_event` says of the charge's split.
    Raises:
        NoCharge: private, but no charge for this noise, or no noise source. ChargeUsed: it has paid before.
    """
    if study.privacy.kind == "none":
        return evaluate(study, vector, patients, device=device, cache=cache, build=build)
    if charge is None:
        raise NoCharge(problem="there is no charge")
    if noise is None:
        raise NoCharge(problem="there is no noise source")
    if charge.event != round_event(study, charge.split):
        raise NoCharge(problem="the charge is for other noise")
    charge.begin()
    multiplier, scales = charge.event.noise_multiplier, noise_scales(study)
    total = {name: noise.gaussian(size, multiplier * scales[name]) for name, size in released(study).items()}
    for sums in contributions(study, vector, patients, device=device, cache=cache, build=build):
        for name, value in bounded(study, sums).items():
            total[name] += value
    return total


def contributions(
    study: Study,
    vector: Float32,
    patients: Sequence[Patient],
    *,
    device: torch.device,
    cache: FeatureCache | None = None,
    build: Callable[[Study], nn.Module] = build_model,
) -> Iterator[Sums]:
    """The exact contribution of each patient, to the parts that it is in (:mod:`medveil.parts`).

    No forward pass sees two of them, whatever the network does.
    """
    module = build(study).to(device)
    load_vector(module, vector)
    module.eval()
    task, limit = TASKS[study.task], study.evaluation.images_per_patient
    if cache is not None and has_features(module) and not study.transforms.patches:
        patients = cache.get(study, module, patients, device)
    for patient in patients:
        check_stopped()
        seen = range(min(limit, len(patient)))
        if not seen:
            continue
        if study.transforms.patches:
            each = [_of_volume(study, module, patient, k, device) for k in seen]
            yield placed(study, task.of_images(study, each), patient.groups)
            continue
        images, labels = patient.take(seen)
        with torch.no_grad():
            logits = module(images.to(device)).float().cpu()
        yield placed(study, task.sums(study, logits, labels), patient.groups)


def _of_volume(study: Study, module: nn.Module, patient: Patient, which: int, device: torch.device) -> Sums:
    """The sums of one volume; it and its logits are gone before the next one comes."""
    check_stopped()
    image, labels = patient.take([which])
    logits = by_windows(module, image, study.transforms.size, device)
    return TASKS[study.task].sums(study, logits, labels)
