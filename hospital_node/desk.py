"""The hospital's own computation for one round: train or evaluate, and what it will be weighted with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hospital_node.governance import declared_patients
from hospital_node.ledger import Charge, Ledger
from hospital_node.training import FeatureCache, choose_device, evaluate, train
from medveil.errors import Error
from medveil.log import get_logger
from medveil.metrics import Sums
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.tensors import Float32, Update
from medveil_imaging.sources.manifest import SiteData
from privacy.dp.noise import NoiseSource

log = get_logger()


class NoPatients(Error):
    """There is nobody to train on."""

    code = "no-patients"

    def __init__(self) -> None:
        super().__init__(
            what="No patient of this hospital can be used for training in this study.",
            meaning="The node takes no part; the other hospitals go on without it.",
            remedy="Run 'medveil node check' to see which images were refused and why.",
        )


@dataclass(frozen=True)
class Contribution:
    """What this hospital would add to a sum; plain numbers, kept in memory only."""

    update: Update
    sums: Sums | None
    """None where the study evaluates at its end only."""
    weight: int
    charge: Charge | None


class Desk:
    """One plan's work at this hospital. A finished contribution serves every attempt at the same round."""

    def __init__(self, plan: Plan, read: Callable[[Plan], SiteData], ledger: Ledger) -> None:
        self._plan, self._read, self._ledger = plan, read, ledger
        self._images: SiteData | None = None
        self._device = choose_device()
        self._cache = FeatureCache()
        self._thread = ThreadPoolExecutor(1, "training")
        self._done: tuple[tuple[int, bytes], asyncio.Future[Contribution]] | None = None

    def prepare(
        self, number: int, attempt: int, kind: RoundKind, model: bytes, vector: Float32
    ) -> asyncio.Future[Contribution]:
        """Start the round's computation, or hand out the one that an earlier attempt started."""
        key = (number, model)
        if self._done is None or self._done[0] != key:
            work: Callable[[], Contribution] = lambda: self._compute(number, attempt, kind, vector)  # noqa: E731
            self._done = (key, asyncio.get_running_loop().run_in_executor(self._thread, work))
        return self._done[1]

    def released(self, charge: Charge) -> None:
        """The update has left; its charge stays for ever."""
        self._ledger.released(charge)

    def close(self) -> None:
        """Let the computation in hand end, and no other begin."""
        self._thread.shutdown(cancel_futures=True)

    def _site(self) -> SiteData:
        """The images, read at first use: meanwhile the node already answers the aggregator."""
        if self._images is None:
            self._images = self._read(self._plan)
        return self._images

    def _compute(self, number: int, attempt: int, kind: RoundKind, vector: Float32) -> Contribution:
        study, site = self._plan.study, self._site()
        weight = declared_patients(len(site.train), study.secure_aggregation.max_weight)
        where = {"plan": self._plan.id, "round": number, "attempt": attempt, "kind": kind.value}
        log.info("work.started", **where)
        if kind is RoundKind.EVALUATE:
            counted = evaluate(study, vector, site.test, device=self._device, cache=self._cache)
            log.info("work.finished", **where)
            return Contribution(Update(np.empty(0, np.float32)), counted, weight, None)
        if not site.train:
            raise NoPatients()
        sums = None
        if study.evaluation.every_round:
            sums = evaluate(study, vector, site.val, device=self._device, cache=self._cache)
        charge = None
        if study.privacy.kind != "none":
            charge = self._ledger.charge(study, plan_id=self._plan.id, round_number=number, attempt=attempt)
        update = train(
            study,
            vector,
            site.train,
            round_number=number,
            declared_patients=weight,
            noise=NoiseSource.fresh(),
            device=self._device,
            charge=charge,
            cache=self._cache,
        )
        log.info("work.finished", **where)
        return Contribution(update, sums, weight, charge)
