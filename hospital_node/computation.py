"""The hospital's own computation for one round: train or evaluate, and what it will be weighted with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from hospital_node import live
from hospital_node.contribution import CommonCourse, Contribution, Passing
from hospital_node.governance import declared_patients
from hospital_node.held_back import HeldBack
from hospital_node.ledger import Charge
from hospital_node.own_courses import OwnCourses
from hospital_node.personal import PersonalWeights
from hospital_node.records import Read, Records, Source, Use
from hospital_node.turns import Turns
from hospital_node.unsent import Computed, Unsent
from medveil.errors import Error
from medveil.lean import import_monai, loading
from medveil.log import get_logger
from medveil.parts import in_round
from medveil.plan import Plan
from medveil.progress import Look, Pace
from medveil.rounds import AttemptKey, RoundKind
from medveil.stopping import Stopped, check_stopped, stoppable
from medveil.strategies import Courses, is_steered, own_course
from medveil.tensors import Float32, Update
from medveil.tracing import span
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import device

    from hospital_node.training import FeatureCache, TrainingRound
    from medveil.study import Study
    from medveil.tasks import Sums
    from medveil_imaging.patients import Patient
    from medveil_imaging.sources.site import SiteData
    from privacy.dp.individual import PatientFilter

LOG_EVERY_S = 10.0
log = get_logger()


def load_reading() -> None:
    """Load what the images of a study are brought into shape with."""
    if "monai" not in sys.modules:
        with loading():
            import_monai()
    if "medveil_imaging.sources.site" not in sys.modules:
        with loading():
            import medveil_imaging.fingerprints
            import medveil_imaging.sources.site  # noqa: F401


def load_training(study: Study) -> None:
    """Load what a study trains with. A node that has nothing to do carries neither torch nor MONAI."""
    if "hospital_node.training" not in sys.modules:
        with loading():
            import hospital_node.training  # noqa: F401
    from medveil_imaging.models import MODELS

    with loading(), suppress(Error):  # a network that is not known shows in the round
        MODELS[study.model.name]


def train(given: TrainingRound) -> Update:
    """:func:`hospital_node.training.train`, loaded when it is wanted."""
    from hospital_node import training

    return training.train(given)


def release(
    study: Study,
    vector: Float32,
    patients: Sequence[Patient],
    *,
    noise: NoiseSource | None,
    charge: Charge | None,
    device: device,
    cache: FeatureCache | None = None,
) -> Sums:
    """:func:`hospital_node.training.release`, loaded when it is wanted."""
    from hospital_node import training

    return training.release(study, vector, patients, noise=noise, charge=charge, device=device, cache=cache)


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
class _Task:
    """What a round asks of a hospital."""

    key: AttemptKey
    kind: RoundKind
    model: bytes
    vector: Float32 = field(repr=False)
    course: CommonCourse | None


class Computation:
    """One plan's work at this hospital. A finished contribution serves every attempt at the same round.

    In a study with noise the order on stable storage is: charged, computed, stored, marked as released, of a
    study with a filter what each patient used of it, handed out. Wherever a crash falls, nothing leaves that
    is not charged, and nothing is charged twice.

    Args:
        records: the ledger, and the patients whom the operator has approved for the plan.
        unsent: where the contribution in hand is remembered.
        held: what the plan has not yet sent; None where its study compresses nothing.
        courses: where this hospital's own courses are, for a study that is steered.
        personal: this hospital's own weights; None where all are shared. They are left when the plan is over.
        turns: whose turn it is to compute, where several plans are worked on, and with which ranks.
    """

    def __init__(
        self,
        plan: Plan,
        read: Callable[[Plan], SiteData],
        records: Records,
        *,
        unsent: Unsent,
        held: HeldBack | None = None,
        courses: OwnCourses | None = None,
        personal: PersonalWeights | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._plan, self._read, self._records, self._courses = plan, read, records, courses
        self._turns, self._open_job = turns, None if turns is None else turns.open_job
        self._ledger, self._unsent, self._held = records.ledger, unsent, held
        self._personal = personal
        self._private = plan.study.privacy.kind != "none"
        self._all: tuple[Source, Read] | None = None
        """What was read, and what it was read by."""
        self._images: SiteData | None = None
        self._cache: FeatureCache | None = None
        self._thread = ThreadPoolExecutor(1, "training")
        self._in_hand: tuple[tuple[int, bytes], asyncio.Future[Contribution]] | None = None
        """By round and model."""
        self._reading: tuple[Future[None], ...] = ()
        """Of images, ahead of the first round."""
        self._stop, self._over = Event(), Event()

    @cached_property
    def _device(self) -> device:
        from hospital_node.training import choose_device

        return choose_device()

    def prepare(
        self,
        key: AttemptKey,
        kind: RoundKind,
        model: bytes,
        vector: Float32,
        course: CommonCourse | None = None,
    ) -> asyncio.Future[Contribution]:
        """Start the round's computation, or hand out the one that an earlier attempt started."""
        wanted = (key.round, model)
        if self._in_hand is None or self._in_hand[0] != wanted or _passes(self._in_hand[1]):
            self._stop.set()  # another round's computation: nobody waits for it any more
            stop = self._stop = Event()

            def work() -> Contribution:
                with stoppable(stop), live.followed(key.plan, _logged(key)), self._turn(stop):
                    check_stopped()
                    return self._contribution(_Task(key, kind, model, vector, course))

            future = asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, work)
            future.add_done_callback(_looked_at)
            self._in_hand = (wanted, future)
        return self._in_hand[1]

    @contextmanager
    def _turn(self, stop: Event) -> Iterator[None]:
        """The machine to itself. Images are read before, if there is room for those of every plan."""
        if self._turns is None:
            yield
            return
        if self._turns.has_room:
            with suppress(Exception):  # it shows again in the round
                self._read_images()
        with self._turns.turn(self._plan.id, stop):
            yield

    def forget_images(self) -> None:
        """Give the memory of the images back, between two rounds; any thread may say so."""
        self._all = self._images = None
        self._cache = None  # the next round makes one

    def read_ahead(self) -> Future[None]:
        """Begin to read the images before the first round wants them; a fault in them shows in that round.

        Returns: a future that tells when they are read, or cannot be.
        """

        def read() -> None:
            if self._turns is not None and not self._turns.has_room:
                return
            with suppress(Exception):
                self._read_images()

        reading = self._thread.submit(copy_context().run, read)
        self._reading = (reading,)
        return reading

    @property
    def is_busy(self) -> bool:
        """Whether images are read, or anything is computed."""
        in_hand = () if self._in_hand is None else (self._in_hand[1],)
        return any(not future.done() for future in (*in_hand, *self._reading))

    def finished(self) -> None:
        """The plan is over: nothing of it will be asked for again."""
        self._unsent.forget(self._plan.lineage)
        if self._held is not None:
            self._held.forget()
        if self._courses is not None:
            self._courses.forget()

    def close(self) -> None:
        """End the computation in hand at its next step or file, and let no other begin."""
        self._stop.set()
        self._over.set()
        self._thread.shutdown(cancel_futures=True)

    def _read_images(self) -> Read:
        """All that is there; read again when the manifest is another one, or the operator's word is.

        Only the plan's end stops it: every round wants the same images, and a round that comes while they
        are read must not make the next one begin with the first file again. What trains is loaded after it,
        when the readers have given their memory back.
        """
        load_reading()
        from medveil_imaging.fingerprints import check_profile

        source = self._records.source(self._plan)
        known = self._all
        if known is None or known[0] != source:
            self._all = self._images = None
            check_profile(self._plan.study.transforms)
            with stoppable(self._over):
                self._all = known = (source, self._records.read(self._plan, self._read))
        load_training(self._plan.study)
        return known[1]

    def _site(self) -> tuple[SiteData, Use | None]:
        """The images that this plan may use, and with whom; aside, for meanwhile the node already answers."""
        read, use = self._read_images(), self._records.use(self._plan)
        images = self._images
        if images is None:
            from hospital_node.training import FeatureCache

            try:
                images, self._cache = self._records.check(self._plan, read), FeatureCache()
            except Error:
                self._all = None  # the folder may be put right without a word in the manifest
                raise
            self._images = images
        return images, use

    def _contribution(self, task: _Task) -> Contribution:
        study, key = self._plan.study, task.key
        with span(key, "images"):
            site, use = self._site()
        largest = study.secure_aggregation.max_weight
        weight = declared_patients(len(site.train), largest) if use is None else use.declared
        turn = f" {use.turn}" if use is not None and use.turn > 1 else ""
        name = f"{self._plan.lineage} {key.round} {task.model.hex()}{turn}"
        found = self._unsent.find(name) if self._private else None
        courses = self._steering(task)
        if found is None:
            log.info("work.started", **key.where, kind=task.kind.value)
            live.note(key.plan, device=self._device.type)
            with span(key, "training"):
                found = self._computed(task, weight, name, courses)
            log.info("work.finished", **key.where, kind=task.kind.value)
        else:
            self._ledger.settle(plan_id=self._plan.lineage, round_number=key.round)
        update, sums = found
        if courses is not None and self._courses is not None and task.course is not None:
            own = own_course(study, courses, update.values)
            self._courses.keep(key.round, own, beside=task.course.summed)
        return Contribution(update, sums, study.secure_aggregation.weight_of(weight))

    def _steering(self, task: _Task) -> Courses | None:
        """What steers this round's steps, if anything does. Raises: LostCourse."""
        study = self._plan.study
        if task.kind is not RoundKind.TRAIN or not is_steered(study, task.key.round):
            return None
        if self._courses is None or task.course is None:
            raise TypeError("a steered study needs a place for courses")
        own = self._courses.find(task.course.summed, size=study.model.tensors.size)
        return Courses(common=task.course.values, own=own)

    def _computed(self, task: _Task, weight: int, name: str, courses: Courses | None) -> Computed:
        """What a round makes, charged before and stored under ``name`` after."""
        study, site, key, kind = self._plan.study, self._site()[0], task.key, task.kind
        vector, number = self._own_model(task), key.round
        if kind is RoundKind.TRAIN and not site.train:
            raise NoPatients()
        splits = [Split.TEST]
        if kind is RoundKind.TRAIN:
            splits = [Split.TRAIN] + [Split.VAL] * study.evaluation.every_round
        charges: dict[Split, Charge] = {}
        try:
            if self._private:
                for split in splits:
                    charges[split] = self._ledger.charge(
                        study,
                        plan_id=self._plan.lineage,
                        round_number=number,
                        attempt=key.attempt,
                        split=split,
                    )
            update, sums, used = Update(np.empty(0, np.float32)), None, None
            if kind is RoundKind.TRAIN:
                paid = charges.get(Split.TRAIN)
                used = self._records.filter_for(self._plan, paid, site)
                update = self._update(task, vector, courses, weight, paid, used)
            if splits[-1] is not Split.TRAIN:
                sums = release(
                    in_round(study, kind),
                    vector,
                    site.test if kind is RoundKind.EVALUATE else site.val,
                    noise=NoiseSource.fresh(),
                    charge=charges.get(splits[-1]),
                    device=self._device,
                    cache=self._cache,
                )
            if self._private:
                self._unsent.store(name, (update, sums))
                for charge in charges.values():
                    charge.end()
                self._records.settle_use(charges.get(Split.TRAIN), used)
        except Error as error:
            if _is_as_a_crash(error):
                for charge in charges.values():
                    charge.set_down()
                charges.clear()
            raise
        finally:
            for charge in charges.values():
                charge.end()
        return update, sums

    def _own_model(self, task: _Task) -> Float32:
        """The round's model as this hospital has it."""
        if self._personal is None:
            return task.vector
        return self._personal.whole(task.vector, _summed(task))

    def _update(
        self,
        task: _Task,
        model: Float32,
        courses: Courses | None,
        weight: int,
        charge: Charge | None,
        filter: PatientFilter | None,
    ) -> Update:
        """What training makes of the model, or what this round sends of it."""
        from hospital_node.training import TrainingRound

        number, held = task.key.round, self._held
        given = TrainingRound(
            self._plan.study,
            model if held is None else held.start(model),
            self._site()[0].train,
            number=number,
            declared_patients=weight,
            noise=NoiseSource.fresh(),
            charge=charge,
            device=self._device,
            cache=self._cache,
            courses=courses,
            open_job=self._open_job,
            filter=filter,
        )
        update = train(given)
        if self._personal is not None:
            return self._personal.part(number, model, update, summed=_summed(task))
        return update if held is None else held.shorten(number, task.model, update)


def _summed(task: _Task) -> int:
    if task.course is None:
        raise TypeError("whose personal weights hold follows from the node's own version of the model")
    return task.course.summed


def _logged(key: AttemptKey) -> Pace:
    """The log says every ten seconds how far training is."""

    def tell(look: Look) -> None:
        now = look.now
        if now.part not in live.PARTS:
            return
        log.info(
            "work.going",
            **key.where,
            count=now.done,
            total=now.total,
            rate=round(look.rate, 1),
            seconds=round(look.left_s),
        )

    return Pace(tell, every_s=LOG_EVERY_S)


def _is_as_a_crash(error: Error) -> bool:
    """Whether a run has left nothing, by no doing of its own.

    What its ranks had made is gone with them. What is told from outside to end has made nothing yet, and its
    end says nothing of what it computed.
    """
    return isinstance(error, (Passing, Stopped))


def _passes(future: asyncio.Future[Contribution]) -> bool:
    """Whether a computation has failed for a reason that the next attempt need not meet."""
    return future.done() and not future.cancelled() and isinstance(future.exception(), Passing)


def _looked_at(future: asyncio.Future[Contribution]) -> None:
    """A computation that was given up may fail unseen."""
    if not future.cancelled():
        future.exception()
