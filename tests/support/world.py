"""A tiny study played against a real coordinator: real masks and a real database, no network, no training."""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import sqlalchemy as sa

from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.status import PlanReader, certificates_of, live_status
from aggregator.storage.blobs import Blobs
from aggregator.storage.database import Database
from aggregator.storage.open import open_blobs
from aggregator.storage.store import Store
from aggregator.storage.tables import META
from aggregator.work.versions import first_version
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity
from medveil.messages import Work
from medveil.metrics import empty
from medveil.plan import Member, Plan, sign_approval
from medveil.rounds import AttemptKey, Phase, RoundKind
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import Float32, ModelSpec, TensorSpec, Update, model_hash, to_safetensors
from privacy.encoding import encode_metrics, params_for
from privacy.secagg import node
from privacy.secagg.closing import vow
from privacy.secagg.keys import Setting, setting_for
from privacy.secagg.messages import Advertised, Certificates, Committed, Published, Quorum, Survivors
from privacy.secagg.vector import masked_update

SPEC = ModelSpec((TensorSpec(name="weight", shape=(2, 5)), TensorSpec(name="bias", shape=(2,))))
START: Float32 = np.linspace(-1, 1, SPEC.size, dtype=np.float32)
STEPS: tuple[Phase, ...] = tuple(p for p in Phase if not p.ended and p is not Phase.ABORT)
KINDS = ("advertise", "shares", "ready", "upload", "agree", "unmask")


def other_start(number: int) -> Float32:
    """An initial model of its own: no two plans of an aggregator start from one."""
    return START + np.float32(number)


def make_study(**changes: Any) -> Study:
    """Twelve parameters, two classes, two rounds, no privacy; ``changes`` replace whole sections."""
    content: dict[str, Any] = {
        "name": "tiny",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {
            "name": "wavelet_head",
            "tensors": SPEC,
            "initial_model": model_hash(START, SPEC).hex(),
        },
        "transforms": {"profile": "xray", "size": (16, 16)},
        "training": {"rounds": 2, "local_steps": 1, "learning_rate": 1.0},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 2.0, "max_weight": 100},
        "evaluation": {"bins": 16},
        "deadlines": {"silence_s": 20.0, "train_s": 600.0},
    }
    return Study.model_validate(content | changes)


def make_plan(identities: Sequence[Identity], study: Study) -> Plan:
    """A plan whose roster is these identities, indexed from 1."""
    members = [
        Member(index=i, name=one.name, public_key=one.public_key.hex()) for i, one in enumerate(identities, 1)
    ]
    return Plan(study=study, roster=tuple(members))


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """One plan, its aggregator on disk, and the hospitals' keys."""

    folder: Path
    plan: Plan
    identities: list[Identity]
    admin: Identity
    clock: Clock
    database: Path | str
    workers: Executor | None = None
    bucket: str = ""
    """URL of the store of blobs; the folder if empty."""
    wall: Callable[[], float] | None = None
    """Unix seconds, for the audit log as well; the log has this machine's and the rest one moment without."""
    begun: Store | None = None
    """Open already, with the plan just put into it; a restart opens it anew."""
    store: Store = field(init=False)
    blobs: Blobs = field(init=False)
    reader: PlanReader = field(init=False)
    coordinator: Coordinator = field(init=False)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self.store = self.begun or Store(self.database, self.admin, wall_clock=self.wall or time.time)
        self.begun = None
        self.blobs = open_blobs(self.folder, self.bucket)
        self.reader = PlanReader(self.store)
        self.coordinator = Coordinator(
            self.store,
            self.blobs,
            workers=self.workers,
            clock=self.clock,
            wall_clock=self.wall or (lambda: 1_700_000_000.0),
        )

    def restart(self) -> None:
        """A new process over the same folder: everything in memory is gone."""
        self.store.close()
        self._open()

    def dump(self) -> tuple[list[str], dict[str, bytes]]:
        """The whole database and every file."""
        rows = tables_of(self.database)
        files = {
            str(p.relative_to(self.folder)): p.read_bytes()
            for p in sorted(self.folder.rglob("*"))
            if p.is_file() and not p.name.startswith("aggregator.db")
        }
        return rows, files

    @property
    def status(self) -> dict[str, Any]:
        return status_of(self.coordinator, self.reader, self.plan.id)

    def receive(self, name: str, number: int, attempt: int, kind: str, body: bytes) -> str:
        """A hospital's message for an attempt."""
        return self.coordinator.intake.receive(AttemptKey(self.plan.id, number, attempt), name, kind, body)

    def take_segment(self, name: str, number: int, attempt: int, segment: int, data: bytes) -> None:
        """A segment of a hospital's masked vector."""
        take_segment(self.coordinator, AttemptKey(self.plan.id, number, attempt), name, segment, data)

    @property
    def phase(self) -> str:
        """Phase of the open attempt; empty without one."""
        attempt = self.coordinator.runs.of(self.plan.id, self.plan.names[0]).attempt
        return "" if attempt is None else attempt.state.phase.value

    def open_model(self, model: str) -> BinaryIO:
        """A model version's file."""
        self.reader.check_model(self.plan.id, model)
        return self.coordinator.runs.blobs.open_model(model)

    def sum(self, version: int) -> bytes:
        """The sum behind a version."""
        name, _ = self.reader.behind(self.plan.id, version)
        with self.coordinator.runs.blobs.open_sum(name) as file:
            return file.read()

    def proof(self, version: int) -> Published:
        """What proves that sum."""
        _, name = self.reader.behind(self.plan.id, version)
        with self.coordinator.runs.blobs.open_sum(name) as file:
            return Published.from_bytes(file.read())

    def certificates(self, number: int) -> Certificates:
        """A round's abort certificates."""
        names = self.reader.certificates(self.plan.id, number)
        return Certificates.from_bytes(certificates_of(self.coordinator.runs.blobs, names))


def status_of(coordinator: Coordinator, reader: PlanReader, plan: str) -> dict[str, Any]:
    """A plan's status as the process that leads tells it."""
    if coordinator.runs.get(plan) is None:
        coordinator.runs.reload()
    found: dict[str, Any] = json.loads(reader.json(plan, live_status(coordinator.runs, plan)))
    return found


def take_segment(coordinator: Coordinator, key: AttemptKey, name: str, segment: int, data: bytes) -> None:
    """All three steps of a segment, one after the other."""
    claim = coordinator.intake.claim_segment(key, name, segment, size=len(data))
    if claim is not None:
        coordinator.intake.keep_segment(claim, data)
        coordinator.intake.settle_segment(claim)


@functools.cache
def _empty_database() -> bytes:
    """A database file without a row; making one takes longer than a study of this size."""
    with tempfile.TemporaryDirectory() as name:
        Database(Path(name) / "empty.db").close()
        return (Path(name) / "empty.db").read_bytes()


def fresh_file(folder: Path) -> Path:
    """An empty SQLite database in a folder."""
    file = folder / "aggregator.db"
    file.write_bytes(_empty_database())
    return file


def tables_of(database: Path | str) -> list[str]:
    """Every row of every table."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database)) as connection:
            return list(connection.iterdump())
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as tx:
        return [f"{t.name} {row}" for t in META.sorted_tables for row in sorted(tx.execute(sa.select(t)))]


def make_world(
    folder: Path,
    *,
    hospitals: int = 3,
    approvals: int | None = None,
    database: Path | str | None = None,
    workers: Executor | None = None,
    bucket: str = "",
    whole: tuple[Study, bytes] | None = None,
    **changes: Any,
) -> World:
    """An aggregator with enrolled hospitals and one plan, approved by the first ``approvals`` (all).

    Args:
        database: a file in the folder if left out.
        whole: another study than the tiny one, and its initial model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, initial = whole or (make_study(**changes), to_safetensors(START, SPEC))
    key = (folder.name, hospitals, approvals, study.hash)
    if database is None and not bucket and key in _BEGUN:
        return _again(folder, *_BEGUN[key], initial, workers)
    identities = [Identity.generate(f"hospital-{i}") for i in range(1, hospitals + 1)]
    admin, plan = Identity.generate("admin"), make_plan(identities, study)
    where = fresh_file(folder) if database is None else database
    store, blobs = Store(where, admin), open_blobs(folder, bucket)
    for one in identities:
        token = secrets.token_urlsafe(24)
        store.register.add_token(token, name=one.name, role="hospital", expires=2.0)
        store.register.enrol(token, name=one.name, public_key=one.public_key, now=1.0)
    first = first_version(plan, initial, blobs, now=1.0)
    store.plans.add(plan, admin.sign("create-plan", plan.hash), first, 1.0)
    for one in identities[:approvals]:
        store.plans.add_approval(plan.id, one.name, sign_approval(plan, one))
    if isinstance(where, Path) and database is None:
        _BEGUN[key] = (plan, identities, admin, where.read_bytes())
    return World(folder, plan, identities, admin, Clock(), where, workers, bucket, begun=store)


_BEGUN: dict[tuple[object, ...], tuple[Plan, list[Identity], Identity, bytes]] = {}
"""Worlds by their folder's name, so that two of one test stay two, and what they are made of. To begin one
takes longer than most of what is done with it: the next test gets the same keys, and a copy of the rows."""


def _again(
    folder: Path,
    plan: Plan,
    identities: list[Identity],
    admin: Identity,
    rows: bytes,
    initial: bytes,
    workers: Executor | None,
) -> World:
    where = folder / "aggregator.db"
    where.write_bytes(rows)
    first_version(plan, initial, open_blobs(folder, ""), now=1.0)
    return World(folder, plan, [*identities], admin, Clock(), where, workers)


def model_in(blobs: Blobs, name: str) -> bytes:
    """A whole model or optimiser state."""
    with blobs.open_model(name) as file:
        return file.read()


def unit(index: int) -> Float32:
    """Hospital ``index``'s own direction: in a right sum every entry is 0 or its share, never more."""
    vector = np.zeros(SPEC.size, np.float32)
    vector[index - 1] = 1.0
    return vector


def counts(study: Study, index: int) -> Sums:
    """Metric sums by which a hospital is recognised: one case in its own bin, one patient."""
    sums = empty(study)
    sums["positives/abnormal"][index - 1] = 1.0
    for name in ("images", "patients", "correct"):
        sums[name][:] = 1.0
    return sums


@dataclass
class Site:
    """A hospital that answers every phase at once with the real machines; it has no journal."""

    world: World
    index: int
    update: Callable[[int], Float32]
    weight: int = 10
    counted: Callable[[Study, int], Sums] = counts
    """What it counts in an evaluation."""
    state: Any = None
    key: tuple[int, int] = (0, 0)
    answered: str = ""
    missed: bool = False
    crashed: bool = False
    """Its keys are gone, and it says that it sits the attempt out."""
    joined: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Attempts in which it has sent keys, and the model they started from. This and the next two outlive a
    crash, as a journal does."""
    unmasked: set[tuple[int, int]] = field(default_factory=set)
    given_up: set[tuple[int, int]] = field(default_factory=set)
    sent: list[tuple[int, int, str, bytes]] = field(default_factory=list)
    segments: list[bytes] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return self.world.identities[self.index - 1]

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def whole_key(self) -> AttemptKey:
        return AttemptKey(self.world.plan.id, *self.key)

    def act(self) -> bool:
        """One poll and, if there is something new, one answer; whether there was."""
        if self.crashed:
            self.world.coordinator.intake.sits_out(self.whole_key, self.name)
        work = self.poll()
        if work.status != "running":
            return False
        if self.key != (work.round, work.attempt):
            self.key, self.answered, self.state = (work.round, work.attempt), "", None
            self.missed, self.crashed = work.phase != "advertise", False
        if work.phase == "abort":
            return self.vow(work)
        if self.missed or work.phase == self.answered:
            return False
        if self.answered and STEPS.index(Phase(self.answered)) + 1 != STEPS.index(Phase(work.phase)):
            self.missed = True
            return False
        try:
            self.send(KINDS[STEPS.index(Phase(work.phase))], self.answer(work))
        except RemoteProtocolError:
            self.missed = True
            raise
        self.answered = work.phase
        return True

    def crash(self) -> None:
        """Its keys are gone; what it has written down is not."""
        self.state, self.missed, self.crashed = None, True, True

    def vow(self, work: Work) -> bool:
        """Give up the attempt, unless it was never joined, or shares of it are out."""
        self.state, self.missed = None, True
        if self.key not in self.joined.keys() - self.unmasked - self.given_up:
            return False
        self.given_up.add(self.key)
        self.send("abort", vow(node.Party(self.setting(work), self.index, self.identity)).to_bytes())
        return True

    def setting(self, work: Work) -> Setting:
        """Of the attempt that a work names."""
        return setting_for(
            self.world.plan,
            number=work.round,
            attempt=work.attempt,
            kind=RoundKind(work.kind),
            model=work.model,
        )

    def poll(self) -> Work:
        """What there is to do; the aggregator hears from this hospital."""
        self.world.coordinator.runs.touch(self.name)
        return self.world.coordinator.instructions.work(self.world.plan.id, self.name)

    def send(self, kind: str, body: bytes) -> None:
        """Hand in a message for the attempt this hospital is in."""
        self.sent.append((*self.key, kind, body))
        self.world.coordinator.intake.receive(self.whole_key, self.name, kind, body)

    def send_segment(self, number: int, data: bytes) -> None:
        """Hand in one segment of the masked vector."""
        take_segment(self.world.coordinator, self.whole_key, self.name, number, data)

    def answer(self, work: Work) -> bytes:
        """The message for this phase; in the upload phase the segments are handed in as well."""
        phase = Phase(work.phase)
        message: Any
        if phase is Phase.ADVERTISE:
            party = node.Party(self.setting(work), self.index, self.identity)
            self.state, message = node.advertise(party, secrets.token_bytes)
            self.joined[self.key] = work.model
        elif phase is Phase.SHARE:
            seen = Advertised.from_bytes(work.payload)
            self.state, message = node.share(self.state, seen, secrets.token_bytes)
        elif phase is Phase.COMMIT:
            message = node.ready(self.state)
        elif phase is Phase.UPLOAD:
            self.state = node.commit(self.state, Committed.from_bytes(work.payload))
            self.segments = self.masked(work.round, RoundKind(work.kind))
            for number, data in enumerate(self.segments):
                self.send_segment(number, data)
            message = node.upload(self.state, [hashlib.sha256(s).digest() for s in self.segments])
        elif phase is Phase.AGREE:
            self.state, message = node.agree(self.state, Survivors.from_bytes(work.payload))
        else:
            message = node.unmask(self.state, Quorum.from_bytes(work.payload))
            self.unmasked.add(self.key)
        return bytes(message.to_bytes())

    def masked(self, number: int, kind: RoundKind) -> list[bytes]:
        """This hospital's masked vector; its rounding is the same in every try at a round."""
        study = self.world.plan.study
        train = kind is RoundKind.TRAIN
        params = params_for(study, kind, len(self.world.plan.roster))
        masked = masked_update(
            Update(self.update(number) if train else np.empty(0, np.float32)),
            params,
            weight=self.weight,
            metrics=encode_metrics(study, self.counted(study, self.index))[: params.metrics],
            check_key=self.state.check_key,
            index=self.index,
            masks=self.state.masks,
            random_bytes=np.random.default_rng([self.index, number]).bytes,
        )
        return [bytes(s) for s in masked.segments()]


def make_sites(world: World, **options: Any) -> list[Site]:
    """One site for each hospital, contributing its unit vector unless told otherwise."""
    update = options.pop("update", None)
    return [
        Site(world, i, (lambda r, i=i: update(i, r)) if update else (lambda r, i=i: unit(i)), **options)
        for i in range(1, len(world.identities) + 1)
    ]


def play(world: World, sites: Sequence[Site], *, until: Callable[[], bool], limit: int = 2_000) -> None:
    """Let everybody act and the clock tick until a condition holds; time passes only when nothing moves."""
    for _ in range(limit):
        if until():
            return
        moved = [s.act() for s in sites]
        if not any(moved) and not world.coordinator.tick() and not until():
            world.clock.now += 1.0
    raise AssertionError(f"it did not get there; last status: {world.status}")


def settle(world: World, sites: Sequence[Site], steps: int = 60) -> None:
    """Let everybody go on for a while."""
    for _ in range(steps):
        moved = [site.act() for site in sites]
        if not any(moved) and not world.coordinator.tick():
            world.clock.now += 1.0


def finish(world: World, sites: Sequence[Site]) -> dict[str, Any]:
    """Play to the end of the study; its status."""

    def ended() -> bool:
        run = world.coordinator.runs.get(world.plan.id)  # the whole status would be made in every step
        return run is not None and run.finished

    play(world, sites, until=ended)
    status = world.status
    assert status["finished"]
    return status
