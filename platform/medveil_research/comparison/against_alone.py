"""The shared model against what each hospital could have done alone.

For runs in which one person may see every site's images: a demonstration, or public data. In a real
consortium each hospital can call :func:`train_alone` for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hospital_node.training import FeatureCache, choose_device
from hospital_node.training import evaluate as contribution
from medveil.metrics import headline, summarise
from medveil.noise_policies import LocalNoise
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.engine import run_federated
from medveil_research.evaluate import add, bootstrap_interval, patient_sums
from medveil_research.results import AloneFacts, ExactFacts

Train = Callable[[SiteData], Float32]
Run = Callable[[Train, Sequence[SiteData]], Iterable[Float32]]


@dataclass(frozen=True)
class Comparison:
    """The shared model and the models trained alone, on the same test patients."""

    exact: ExactFacts
    alone: tuple[AloneFacts, ...]

    @property
    def alone_mean(self) -> float | None:
        """Mean headline figure of the models trained alone; None when none has one."""
        found = [a.metric for a in self.alone if a.metric is not None]
        return float(np.mean(found)) if found else None


def alone(study: Study) -> Study:
    """The study as one hospital would run it for the same epsilon: all the noise is its own."""
    study = study.model_copy(update={"model": study.model.model_copy(update={"personal": ()})})
    policy = study.privacy
    if not policy.counts_on_others:
        return study
    values = policy.model_dump(exclude={"kind", "honest_hospitals"})
    return study.model_copy(update={"privacy": LocalNoise(**values)})


def train_alone(study: Study, initial: Float32, site: SiteData) -> Float32:
    """What the hospital reaches without the others: same recipe, rounds, privacy budget and server strategy.

    The budget is charged to a ledger that is thrown away, so the hospital's own ledger knows nothing of this
    run: the model is for comparison in the house and must not be handed on.

    Args:
        initial: where training starts, float32 (d,).
    Returns: the trained model, float32 (d,).
    Raises: as :func:`medveil_research.comparison.engine.run_federated`.
    """
    return run_federated(alone(study), initial, [site]).model


def compare(
    study: Study,
    initial: Float32,
    sites: Sequence[SiteData],
    federated: Float32,
    *,
    run: Run = map,
    alone: bool = True,
    resamples: int = 200,
) -> Comparison:
    """Train at every site alone, and judge all models on the test patients of all sites.

    Args:
        sites: read with :func:`medveil_imaging.sources.site.read_site`; a site without training patients
            is judged but trains no model.
        federated: the shared model, float32 (d,).
        run: how the trainings are spread: ``map`` does one after the other,
            :func:`medveil_research.apart.each_apart` one process per hospital.
        alone: whether anybody trains alone; otherwise the shared model is judged only.
    """
    learners = [site for site in sites if site.train and alone]
    vectors = list(run(functools.partial(train_alone, study, initial), learners))
    device, cache = choose_device(), FeatureCache()
    single = []
    for site, vector in zip(learners, vectors, strict=True):
        found = {s.name: contribution(study, vector, s.test, device=device, cache=cache) for s in sites}
        pooled, own = summarise(study, add(study, list(found.values()))), summarise(study, found[site.name])
        metric = pooled.get(headline(study))
        single.append(AloneFacts(hospital=site.name, pooled=pooled, own=own, metric=metric))
    return Comparison(_exact(study, sites, federated, device, resamples), tuple(single))


def _exact(
    study: Study, sites: Sequence[SiteData], federated: Float32, device: torch.device, resamples: int
) -> ExactFacts:
    """The shared model on each site's test patients, and on all of them."""
    each = {site.name: patient_sums(study, federated, site.test, device=device) for site in sites}
    everybody = [one for patients in each.values() for one in patients]
    intervals = {name: bootstrap_interval(study, parts, resamples=resamples) for name, parts in each.items()}
    return ExactFacts(
        pooled=summarise(study, add(study, everybody)),
        interval=bootstrap_interval(study, everybody, resamples=resamples),
        sites={name: summarise(study, add(study, parts)) for name, parts in each.items()},
        intervals={name: interval for name, interval in intervals.items() if interval},
        groups={
            source: summarise(study, add(study, [one for name in names for one in each[name]]))
            for source, names in _sources(list(each)).items()
        },
    )


def _sources(names: Sequence[str]) -> dict[str, list[str]]:
    """Sites by source, where a source has several sites but not all of them."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition("-")[0], []).append(name)
    return {source: own for source, own in found.items() if 1 < len(own) < len(names)}
