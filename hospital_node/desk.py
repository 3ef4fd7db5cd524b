"""The hospital's own computation for one round: train or evaluate, and what it will be weighted with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hospital_node.governance import declared_patients
from hospital_node.kept import Kept, Made
from hospital_node.ledger import Ledger
from hospital_node.splits import Splits
from hospital_node.training import FeatureCache, choose_device, release, train
from medveil.errors import Error
from medveil.log import get_logger
from medveil.metrics import Sums
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.tensors import Float32, Update
from medveil_imaging.sources.manifest import SiteData
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, study_events

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
    """What this hospital adds to a sum; in a study with noise it is noised, charged and marked as such."""

    update: Update
    sums: Sums | None
    """None where the study evaluates at its end only."""
    weight: int


class Desk:
    """One plan's work at this hospital. A finished contribution serves every attempt at the same round.

    In a study with noise the order on stable storage is: charged, computed, kept, marked as released, handed
    out. Wherever a crash falls, nothing leaves that is not charged, and nothing is charged twice.

    Args:
        dataset: the hospital's lasting name for its patients.
        kept, splits: where the contribution in hand and each patient's split are remembered.
    """

    def __init__(
        self,
        plan: Plan,
        read: Callable[[Plan], SiteData],
        ledger: Ledger,
        *,
        dataset: str,
        kept: Kept,
        splits: Splits,
    ) -> None:
        self._plan, self._read, self._ledger = plan, read, ledger
        self._dataset, self._kept, self._splits = dataset, kept, splits
        self._private = plan.study.privacy.kind != "none"
        self._all: SiteData | None = None
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
            work: Callable[[], Contribution] = lambda: self._contribution(  # noqa: E731
                number, attempt, kind, model, vector
            )
            self._done = (key, asyncio.get_running_loop().run_in_executor(self._thread, work))
        return self._done[1]

    def read_ahead(self) -> Future[None]:
        """Begin to read the images before the first round wants them; a fault in them shows in that round.

        Returns: a future that tells when they are read, or cannot be.
        """

        def read() -> None:
            with suppress(Exception):
                self._read_images()

        return self._thread.submit(read)

    def finished(self) -> None:
        """The plan is over: nothing of it will be asked for again."""
        self._kept.forget(self._plan.id)

    def close(self) -> None:
        """Let the computation in hand end, and no other begin."""
        self._thread.shutdown(cancel_futures=True)

    def _read_images(self) -> SiteData:
        """All that is there, read once."""
        if self._all is None:
            self._all = self._read(self._plan)
        return self._all

    def _site(self) -> SiteData:
        """The images that this plan may use; aside, for meanwhile the node already answers the aggregator."""
        if self._images is None:
            site = self._read_images()
            if self._private:
                touched = study_events(self._plan.study)
                site, moved = self._splits.keep(site, dataset=self._dataset, splits=touched)
                if moved:
                    log.warning("patients.moved", plan=self._plan.id, count=moved)
            self._images = site
        return self._images

    def _contribution(
        self, number: int, attempt: int, kind: RoundKind, model: bytes, vector: Float32
    ) -> Contribution:
        study, site = self._plan.study, self._site()
        weight = declared_patients(len(site.train), study.secure_aggregation.max_weight)
        key = f"{self._plan.id} {number} {model.hex()}"
        made = self._kept.find(key) if self._private else None
        if made is None:
            where = {"plan": self._plan.id, "round": number, "attempt": attempt, "kind": kind.value}
            log.info("work.started", **where)
            made = self._computed(number, attempt, kind, vector, weight, key)
            log.info("work.finished", **where)
        else:
            self._ledger.settle(plan_id=self._plan.id, round_number=number)
        update, sums = made
        return Contribution(update, sums, study.secure_aggregation.weight_of(weight))

    def _computed(
        self, number: int, attempt: int, kind: RoundKind, vector: Float32, weight: int, key: str
    ) -> Made:
        study, site = self._plan.study, self._site()
        if kind is RoundKind.TRAIN and not site.train:
            raise NoPatients()
        splits = [Split.TEST]
        if kind is RoundKind.TRAIN:
            splits = [Split.TRAIN] + [Split.VAL] * study.evaluation.every_round
        charges = {}
        try:
            if self._private:
                for split in splits:
                    charges[split] = self._ledger.charge(
                        study, plan_id=self._plan.id, round_number=number, attempt=attempt, split=split
                    )
            update, sums = Update(np.empty(0, np.float32)), None
            if kind is RoundKind.TRAIN:
                update = train(
                    study,
                    vector,
                    site.train,
                    round_number=number,
                    declared_patients=weight,
                    noise=NoiseSource.fresh(),
                    device=self._device,
                    charge=charges.get(Split.TRAIN),
                    cache=self._cache,
                )
            if splits[-1] is not Split.TRAIN:
                sums = release(
                    study,
                    vector,
                    site.test if kind is RoundKind.EVALUATE else site.val,
                    noise=NoiseSource.fresh(),
                    charge=charges.get(splits[-1]),
                    device=self._device,
                    cache=self._cache,
                )
            if self._private:
                self._kept.store(key, (update, sums))
        finally:
            for charge in charges.values():
                charge.end()
        return update, sums
