"""A federation in one process: the product's own training, ledger, strategy and evaluation.

For data that its caller holds in one place: public, made-up, or one's own. Every hospital trains with
:func:`hospital_node.training.train`, its ledger pays for each round, :func:`medveil.strategies.advance` makes
the next model of the weighted mean update, and at the end each releases its evaluation as its node would.
Only encoding and masks are left out: masks change no sum, and the encoding rounds each coordinate to the
study's grid, far finer than what training does by chance.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hospital_node.governance import declared_patients
from hospital_node.held_back import parted
from hospital_node.individual import Filters
from hospital_node.ledger import Charge, Ledger
from hospital_node.training import (
    FeatureCache,
    TrainingRound,
    choose_device,
    evaluate,
    release,
    steps_in_round,
    train,
)
from medveil.errors import Error
from medveil.metrics import noise_in_sum, summarise
from medveil.progress import unheard
from medveil.reports import Figures
from medveil.strategies import COMMON, Courses, State, advance, is_steered, own_course, spread
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import Float32
from medveil_imaging.patients import Patient
from medveil_imaging.sources.site import SiteData
from medveil_research.evaluate import Split, add, patients_of
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split as Charged

Noise = Callable[[str, int], NoiseSource]
"""A noise source of its own for each site and round."""
Heard = Callable[[int, Figures], None]
"""Is told after each round its number and the figures of the model that it made."""


class NobodyTrains(Error):
    """No site has a patient to train on."""

    code = "nobody-trains"

    def __init__(self) -> None:
        super().__init__(
            what="None of these sites has a training patient.",
            meaning="There is nothing to learn from, so nothing was trained.",
            remedy="Look at the column 'split' of each manifest.csv: some lines must say 'train'.",
        )


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    model: Float32 = field(repr=False)
    """float32 (d,)."""
    own: Mapping[str, Float32] = field(repr=False)
    """Of a study with personal weights: the model as each site that trained has it, by name, float32 (d,)."""
    curve: tuple[Figures, ...]
    """Exact figures on the watched patients of all sites after each round; empty if nobody watched."""
    released: Figures
    """The final evaluation on test patients as a study publishes it, noise included; exact without noise."""
    steps: int
    """Optimiser steps of all sites together."""
    seconds: float
    slowest_s: float
    """Longest time of one site's part in a round, the first (features, self-check) left out."""


def fresh_noise(site: str, number: int) -> NoiseSource:
    """Noise that nobody can make again."""
    return NoiseSource.fresh()


def run_federated(
    study: Study,
    initial: Float32,
    sites: Sequence[SiteData],
    *,
    watched: Split | Sequence[Patient] = (),
    heard: Heard | None = None,
    noise: Noise = fresh_noise,
    caches: Sequence[FeatureCache] | None = None,
) -> Trained:
    """All rounds of a study, hospital after hospital.

    Args:
        initial: where training starts, float32 (d,).
        sites: those without training patients are judged only. One site is a hospital that trains alone.
        watched: patients whom each round's model judges without noise; a split of a site, the site's own.
        noise: only for whoever must be able to make a figure again; then its noise hides nobody.
        caches: one for each site, to keep fixed features from call to call.
    Guarantees: each site's whole schedule, evaluation included, is charged to a ledger that is thrown away
        afterwards; the model is for comparison and must not be handed on.
    Raises: NobodyTrains; what ``train``, ``advance`` and the ledger raise.
    """
    if not any(site.train for site in sites):
        raise NobodyTrains()
    began = time.monotonic()
    seen = _Watched.of(study, watched, sites)
    model, slowest, curve = initial, 0.0, list[Figures]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medveil-compared-")))
        hospitals = [
            _Hospital(study, site, cache, noise, *_paying(study, folder, site, stack), *_begun(initial))
            for site, cache in zip(sites, caches or [FeatureCache() for _ in sites], strict=True)
            if site.train
        ]
        for number, model, longest in _rounds(study, initial, hospitals):
            slowest = max(slowest, longest * (number > 1))
            if seen:
                curve.append(seen.judged(study, model, hospitals))
            if heard is not None:
                heard(number, curve[-1] if curve else {})
        total = _total([hospital.evaluation(model) for hospital in hospitals])
    return Trained(
        model=model,
        own=_own(model, hospitals) if study.model.personal else {},
        curve=tuple(curve),
        released=summarise(study, total, noise=noise_in_sum(study, hospitals=len(hospitals))),
        steps=steps_of(study, sites),
        seconds=time.monotonic() - began,
        slowest_s=slowest,
    )


def _begun(initial: Float32) -> tuple[Float32, Float32]:
    """What a hospital holds back and where its training has come, before the first round."""
    return np.zeros_like(initial), initial.copy()


@dataclass(frozen=True)
class _Watched:
    """Who is judged by one model: a site's patients if it has one of its own, else all of them."""

    names: tuple[str, ...]
    groups: tuple[Sequence[Patient], ...]
    caches: tuple[FeatureCache, ...]

    @classmethod
    def of(cls, study: Study, watched: Split | Sequence[Patient], sites: Sequence[SiteData]) -> _Watched:
        if not isinstance(watched, str):
            found: list[tuple[str, Sequence[Patient]]] = [("", watched)]
        else:
            found = [(site.name, patients_of(site, watched)) for site in sites]
            if not study.model.personal:
                found = [("", tuple(patient for _, people in found for patient in people))]
        found = [(name, people) for name, people in found if people]
        names, groups = tuple(name for name, _ in found), tuple(people for _, people in found)
        return cls(names, groups, tuple(FeatureCache() for _ in found))

    def __bool__(self) -> bool:
        return bool(self.groups)

    def judged(self, study: Study, model: Float32, hospitals: Sequence[_Hospital]) -> Figures:
        own = _own(model, hospitals)
        return _judged(study, [own.get(name, model) for name in self.names], self.groups, self.caches)


def _own(model: Float32, hospitals: Sequence[_Hospital]) -> dict[str, Float32]:
    return {hospital.site.name: hospital.mine(model) for hospital in hospitals}


def _rounds(
    study: Study, initial: Float32, hospitals: Sequence[_Hospital]
) -> Iterator[tuple[int, Float32, float]]:
    """Each round's number, the model that it made, and the longest time of one hospital in it."""
    model, state = initial, State()
    for number in range(1, study.training.rounds + 1):
        mean, longest = _mean_update(hospitals, model, number, state)
        update = spread(study, mean, number=number)
        model, state = advance(study, model, update, state, number=number)
        yield number, model, longest


def _total(parts: Sequence[Sums]) -> Sums:
    return {name: np.sum([one[name] for one in parts], axis=0) for name in parts[0]}


def _mean_update(
    hospitals: Sequence[_Hospital], model: Float32, number: int, state: State
) -> tuple[Float32, float]:
    """The weighted mean of what a round sends, and the longest time of one hospital."""
    updates, longest = [], 0.0
    for hospital in hospitals:
        started = time.perf_counter()
        updates.append(hospital.update(model, number, state))
        longest = max(longest, time.perf_counter() - started)
    weights = [hospital.weight for hospital in hospitals]
    return np.average(updates, axis=0, weights=weights).astype(np.float32), longest


def judged(
    study: Study, model: Float32, groups: Sequence[Sequence[Patient]], caches: Sequence[FeatureCache]
) -> Figures:
    """Exact figures of a model on these groups of patients together, one cache for each group."""
    return _judged(study, [model] * len(groups), groups, caches)


def _judged(
    study: Study,
    models: Sequence[Float32],
    groups: Sequence[Sequence[Patient]],
    caches: Sequence[FeatureCache],
) -> Figures:
    """The same with a model for each group."""
    device = choose_device()
    sums = [
        evaluate(study, model, group, device=device, cache=cache)
        for model, group, cache in zip(models, groups, caches, strict=True)
    ]
    return summarise(study, add(study, sums))


def steps_of(study: Study, sites: Sequence[SiteData]) -> int:
    """Optimiser steps of a whole study, over all of its hospitals; rounds for a mean have none."""
    each = sum(steps_in_round(study, images_of(site)) for site in sites if site.train)
    return each * (study.training.rounds - study.mean_rounds)


def images_of(site: SiteData) -> int:
    """Training images of a site."""
    return sum(len(patient) for patient in site.train)


@dataclass(frozen=True)
class _Hospital:
    study: Study
    site: SiteData
    cache: FeatureCache
    noise: Noise
    ledger: Ledger | None
    filters: Filters | None
    """What its patients may still add to a study with a filter."""
    held: Float32
    """What a compressed study has not yet sent of its training, float32 (d,)."""
    own: Float32
    """Where its training has come, float32 (d,): its personal weights are of it."""
    device: torch.device = field(default_factory=choose_device)
    course: State = field(default_factory=dict)
    """Of a steered study: its own."""

    @property
    def declared(self) -> int:
        """Patients that it has told the others, as the product proposes it to an operator."""
        return declared_patients(len(self.site.train), self.study.secure_aggregation.max_weight)

    @property
    def weight(self) -> int:
        """What it counts in the mean."""
        return self.study.secure_aggregation.weight_of(self.declared)

    def update(self, model: Float32, number: int, state: State) -> Float32:
        """Trained minus given weights, paid for; of a compressed study what the round sends of it."""
        charge, courses = self._charge(number, Charged.TRAIN), None
        if is_steered(self.study, number):
            still = np.zeros_like(model)
            courses = Courses(common=state.get(COMMON, still), own=self.course.get(COMMON, still))
        given = TrainingRound(
            self.study,
            self.mine(model) + self.held,
            self.site.train,
            number=number,
            declared_patients=self.declared,
            noise=None if charge is None else self.noise(self.site.name, number),
            charge=charge,
            device=self.device,
            cache=self.cache,
            courses=courses,
            filter=self._filter(charge),
        )
        try:
            with unheard():
                values = train(given).values
            if charge is not None and self.filters is not None:
                charge.end()
                self.filters.settle(charge, given.filter)
            if courses is not None:
                self.course[COMMON] = own_course(self.study, courses, values)
            if self.study.shared is not None:
                self.own[:] = given.start + values
                return self.study.shared.forward(values)
            sent, self.held[:] = parted(self.study, number, self.held + values)
            return sent.values
        finally:
            if charge is not None:
                charge.end()

    def _filter(self, charge: Charge | None) -> PatientFilter | None:
        return None if charge is None or self.filters is None else self.filters.of(charge, self.payers)

    @property
    def payers(self) -> dict[str, str]:
        """Each patient pays under the own name: nobody else knows them here."""
        return {one.patient: one.patient for one in self.site.train}

    def mine(self, model: Float32) -> Float32:
        """A version as this hospital has it."""
        shared = self.study.shared
        return model if shared is None else np.where(shared.stays(0, len(model)), self.own, model)

    def evaluation(self, model: Float32) -> Sums:
        """What the node would send of the final round."""
        last = self.study.training.rounds + 1
        charge = self._charge(last, Charged.TEST)
        source = None if charge is None else self.noise(self.site.name, last)
        return release(
            self.study,
            self.mine(model),
            self.site.test,
            noise=source,
            charge=charge,
            device=self.device,
            cache=self.cache,
        )

    def _charge(self, number: int, split: Charged) -> Charge | None:
        if self.ledger is None:
            return None
        plan = self.study.hash.hex()
        return self.ledger.charge(self.study, plan_id=plan, round_number=number, attempt=1, split=split)


def _paying(
    study: Study, folder: Path, site: SiteData, stack: ExitStack
) -> tuple[Ledger | None, Filters | None]:
    if study.privacy.kind == "none":
        return None, None
    ledger = stack.enter_context(Ledger.open(folder / site.name / "ledger.jsonl"))
    ledger.register(
        study,
        plan_id=study.hash.hex(),
        dataset=site.name,
        cap=study.privacy.epsilon,
        count_joint_noise=study.privacy.counts_on_others,
    )
    return ledger, Filters(ledger, folder / site.name / "use")
