"""How good a model is on one hospital's patients, as sums that can be added over hospitals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
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
from privacy.dp.grid import figure_deviation, is_discrete
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import round_event
from privacy.metric_limits import STEP


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
    noise in float64; the encoding rounds it to the grid of the metrics before it is masked. With discrete
    noise every patient's contribution is rounded to that grid, towards zero, so that it gets no longer;
    noise and sums are whole steps of it, and so is what the masked sums of all hospitals add up to.

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
    if charge.event != round_event(study, charge.split, charge.round):
        raise NoCharge(problem="the charge is for other noise")
    charge.begin()
    multiplier, scales, whole = charge.event.noise_multiplier, noise_scales(study), is_discrete(study)
    total = {
        name: _noise(noise, size, multiplier * scales[name], whole) for name, size in released(study).items()
    }
    for sums in contributions(study, vector, patients, device=device, cache=cache, build=build):
        for name, value in bounded(study, sums).items():
            total[name] += np.trunc(value / STEP) * STEP if whole else value
    return total


def _noise(source: NoiseSource, size: int, scale: float, whole: bool) -> NDArray[np.float64]:
    """Noise for one sum; of discrete noise whole steps, in which figures travel."""
    if whole:
        return source.discrete(size, figure_deviation(scale)).astype(np.float64) * np.float64(STEP)
    return source.gaussian(size, scale)


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
