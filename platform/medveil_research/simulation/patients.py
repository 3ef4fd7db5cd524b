"""The patients of a data set, dealt to hospitals, and what training and judging make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hospital_node.governance import declared_patients
from hospital_node.ledger import Charge
from hospital_node.training import FeatureCache, TrainingRound, choose_device, evaluate, release, train
from hospital_node.training.unbooked import unbooked_charge, unbooked_filter
from medveil.metrics import summarise
from medveil.parts import in_round
from medveil.progress import unheard
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.reports import Figures
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import Float32, Update
from medveil_imaging.patients import Patient
from medveil_imaging.sources.lines import readable_cells
from medveil_imaging.sources.manifest import MANIFEST
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.comparison.engine import NobodyTrains
from medveil_research.simulation.errors import BadSplit
from medveil_research.simulation.result import Dealt
from medveil_research.simulation.splits import Patients as Places
from medveil_research.simulation.splits import Split, deal
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split as Charged

NO_VALUE = "(none)"


@dataclass
class Local:
    """One hospital's patients."""

    train: Sequence[Patient] = field(repr=False)
    val: Sequence[Patient] = field(repr=False)
    cache: FeatureCache = field(default_factory=FeatureCache, repr=False)
    filters: dict[bytes, PatientFilter | None] = field(default_factory=dict, repr=False)
    """By study, kept from round to round."""

    def filter_in(self, study: Study) -> PatientFilter | None:
        """What each patient may still add to a study with a filter."""
        if study.privacy.kind == "none":
            return None
        return self.filters.setdefault(study.hash, unbooked_filter(study, self.train))


class DataSet:
    """One data set as hospitals of a simulation have it.

    Args:
        own: hospitals (from 1) whose patients are kept here; of the others only the numbers.
    Raises: NobodyTrains, BadSplit, MoreHospitalsThanPatients; what reading a site raises.
    """

    def __init__(
        self, folder: Path, study: Study, split: Split, *, hospitals: int, seed: int, own: Sequence[int]
    ) -> None:
        self._study = study
        with unheard():
            site = read_site(folder, study)
        if not site.train:
            raise NobodyTrains()
        labels = _labels(folder, split, site.train)
        parts = deal(split, labels, hospitals, seed=seed)
        checked = _checked(site, hospitals, seed)
        self.test = site.test or site.val
        self.dealt = Dealt(
            train=tuple(len(part) for part in parts),
            labels=tuple(dict(sorted(Counter(labels[k] for k in part).items())) for part in parts),
            test=len(self.test),
        )
        self.local = {
            index: Local([site.train[k] for k in parts[index - 1]], [site.val[k] for k in checked[index - 1]])
            for index in own
        }

    @cached_property
    def _device(self) -> torch.device:
        return choose_device()

    @cached_property
    def _judging(self) -> FeatureCache:
        return FeatureCache()

    def weight(self, index: int) -> int:
        """What a hospital counts in the mean, as the product proposes it to an operator."""
        study = self._study.secure_aggregation
        return study.weight_of(declared_patients(len(self.local[index].train), study.max_weight))

    def contribution(self, index: int, model: Float32, number: int) -> tuple[Update, Sums | None]:
        """A hospital's training of one round, and its validation where the study has one.

        The noise of a study with privacy is drawn as a node draws it. No ledger pays: what is spent here is
        spent of nobody, since the patients lie in one folder already.
        """
        study, one = self._study, self.local[index]
        noised = study.privacy.kind != "none"

        def charge(split: Charged) -> Charge | None:
            return unbooked_charge(study, round_number=number, split=split) if noised else None

        given = TrainingRound(
            study,
            model,
            one.train,
            number=number,
            declared_patients=declared_patients(len(one.train), study.secure_aggregation.max_weight),
            noise=NoiseSource.fresh() if noised else None,
            charge=charge(Charged.TRAIN),
            device=self._device,
            cache=one.cache,
            filter=one.filter_in(study),
        )
        with unheard():
            update, sums = train(given), None
            if study.evaluation.every_round:
                sums = release(
                    in_round(study, RoundKind.TRAIN),
                    model,
                    one.val,
                    noise=NoiseSource.fresh() if noised else None,
                    charge=charge(Charged.VAL),
                    device=self._device,
                    cache=one.cache,
                )
        return update, sums

    def judged(self, model: Float32) -> Figures:
        """Exact figures of a model on the data set's test patients (its validation patients without such)."""
        if not self.test:
            return {}
        with unheard():
            sums = evaluate(self._study, model, self.test, device=self._device, cache=self._judging)
        return summarise(self._study, sums)


def _checked(site: SiteData, hospitals: int, seed: int) -> list[Places]:
    """Validation patients go round: a hospital may have none."""
    order = np.random.default_rng([seed, hospitals, 1]).permutation(len(site.val))
    return list(np.array_split(order, hospitals))


def _labels(folder: Path, split: Split, patients: Sequence[Patient]) -> list[str]:
    if split.kind == "column":
        return _column(folder, split, patients)
    return [_label(one) for one in patients]


def _label(patient: Patient) -> str:
    """The commonest of its images' labels; of numbers and outlines one word for all."""
    _, labels = patient.take([0])
    if labels.ndim != 1 or labels.is_floating_point():
        return "-"
    every = Counter(int(patient.take([k])[1][0]) for k in range(len(patient)))
    return str(min(every, key=lambda label: (-every[label], label)))


def _column(folder: Path, split: Split, patients: Sequence[Patient]) -> list[str]:
    told: dict[str, str] = {}
    found = False
    for cells in readable_cells(folder / MANIFEST, ("patient_id", split.column)):
        if split.column not in cells:
            break
        found = True
        try:
            told.setdefault(one_spelling(cells["patient_id"]), cells[split.column].strip())
        except (BadPseudonym, KeyError):
            continue
    if not found:
        raise BadSplit(given=str(split), problem="the manifest has no such column")
    return [told.get(one.patient) or NO_VALUE for one in patients]
