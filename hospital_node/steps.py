"""What this node has done in each attempt, on disk before it is sent: the part of the journal that binds it.

A masked vector that has left is the point of no return. From then on this node starts nothing from the same
model again, in any attempt, round or plan, until it has seen that the vector's sum stays shut for ever.
Giving an attempt up and unmasking in it exclude each other (docs/decisions/0021-one-sum-per-model.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medveil.errors import LocalProtocolError
from medveil.rounds import AttemptKey
from medveil.spoken import named

META = sa.MetaData()
STEPS = sa.Table(
    "steps",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("detail", sa.String, nullable=False, default=""),
)
STARTS = sa.Table(
    "starts",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("model", sa.LargeBinary, nullable=False),
    sa.Column("advertised", sa.String, nullable=False, default=""),
    sa.Column("certificate", sa.LargeBinary, nullable=False, default=b""),
    sa.UniqueConstraint("plan", "round", "attempt"),
    sqlite_autoincrement=True,
)
"""One row for each attempt that was joined, in the order of joining. ``advertised`` is empty until the masked
vector leaves, ``certificate`` until it is known that its sum stays shut."""
UNKNOWN = b""
"""The model of an attempt that an older version of the program has noted."""
LEFT = ("upload", "agree", "unmask")
"""Steps after which a masked vector may have left."""


def _at(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == sa.bindparam(name) for name in ("plan", "round", "attempt")))


def _left(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(STARTS).where(which, STARTS.c.advertised != "").order_by(STARTS.c.id)


# Made once: each step of an attempt asks some, and building a statement takes longer than running it.
_PLAN: sa.BindParameter[str] = sa.bindparam("plan")
_MODEL: sa.BindParameter[bytes] = sa.bindparam("model")
_LATER = (STARTS.c.plan == _PLAN) & (STARTS.c.round > sa.bindparam("came_from"))
_TAKEN = sa.select(STEPS.c.step).where(_at(STEPS))
_DETAIL = sa.select(STEPS.c.detail).where(_at(STEPS), STEPS.c.step == sa.bindparam("step"))
_SINCE = sa.select(STEPS.c.round, STEPS.c.attempt).where(
    STEPS.c.plan == _PLAN, STEPS.c.round >= sa.bindparam("round")
)
_UPLOADS = sa.select(STEPS.c.attempt).where(
    STEPS.c.plan == _PLAN, STEPS.c.round == sa.bindparam("round"), STEPS.c.step.in_(LEFT)
)
_START = sa.select(STARTS).where(_at(STARTS))
_LAST_FROM = sa.select(sa.func.max(STARTS.c.id)).where(STARTS.c.model == _MODEL)
_LEFT_IN, _LEFT_SINCE = _left(_at(STARTS)), _left(_LATER)
_IN_USE = _left((STARTS.c.model == _MODEL) | ((STARTS.c.model == UNKNOWN) & _LATER))
_LEAVES = STARTS.update().where(STARTS.c.id == sa.bindparam("start")).values(advertised=sa.bindparam("told"))
_NEW_STEP, _NEW_START = STEPS.insert(), STARTS.insert()


@dataclass(frozen=True)
class Start:
    """An attempt in which this node's masked vector may have left."""

    plan: str
    round: int
    attempt: int
    model: bytes
    """That it started from; empty if an older version of the program has noted it."""
    advertised: tuple[int, ...]
    """U1, as this node was shown it; empty if an older version of the program has noted it."""

    @property
    def key(self) -> str:
        """Round and attempt, as people are told."""
        return f"{self.round}.{self.attempt}"


class AlreadyDone(LocalProtocolError):
    """The journal says that this step must not happen (again)."""

    code = "already-done"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"This node sits the attempt out: {reason}.",
            meaning="Doing it again could mask two vectors alike or show the difference of two sums.",
            remedy="Nothing to do; the node takes part again from the next attempt or round on.",
        )


class ModelInUse(LocalProtocolError):
    """A masked vector that started from this model may still be opened, so no second one is made from it."""

    code = "model-in-use"

    def __init__(self, start: Start) -> None:
        self.start = start
        older = " It was noted by an older version, which kept no more of it." if not start.model else ""
        super().__init__(
            what=f"This node sent a masked vector from this model in attempt {start.key} of plan "
            f"{named(start.plan)}, and its sum is neither published nor given up.{older}",
            meaning="A second vector from the same model could show this hospital alone, so none is made.",
            remedy="'medveil node lineage' shows it. The node goes on when enough hospitals have given that "
            "attempt up; if they never will, ask the admin for a new plan with a fresh initial model.",
        )


class Steps:
    """The steps in one journal; each method that writes is one transaction."""

    _engine: sa.Engine

    def join(self, key: AttemptKey, *, model: bytes, came_from: int = 0) -> None:
        """Note that this node sends keys for an attempt.

        Args:
            model: that the attempt starts from.
            came_from: the round that this node's own version of it came out of.
        Raises: AlreadyDone if it has joined this or a later attempt. ModelInUse if a masked vector that
            started from this model has left in any attempt, round or plan, unless its sum stays shut.
        """
        with self._engine.begin() as tx:
            since = tx.execute(_SINCE, {"plan": key.plan, "round": key.round})
            if any((r.round, r.attempt) >= (key.round, key.attempt) for r in since):
                raise AlreadyDone(reason="it has joined this attempt or a later one before")
            for start in _in_use(tx, model, key.plan, came_from):
                raise ModelInUse(start)
            tx.execute(_NEW_STEP, {**key.where, "step": "join", "detail": ""})
            tx.execute(_NEW_START, {**key.where, "model": model, "advertised": "", "certificate": b""})

    def in_use(self, model: bytes, plan: str, came_from: int) -> list[Start]:
        """The attempts for which :meth:`join` would refuse to start from a model."""
        with self._engine.connect() as tx:
            return _in_use(tx, model, plan, came_from)

    def upload(self, key: AttemptKey, *, advertised: tuple[int, ...]) -> None:
        """Note that this node's masked vector leaves: the point of no return.

        Args:
            advertised: U1, as this node was shown it.
        Raises: AlreadyDone if it is noted already, or given up, or if another attempt that starts from the
            same model was joined since.
        """
        with self._engine.begin() as tx:
            _add(tx, key, "upload", "", unless=("abort",))
            mine = tx.execute(_START, key.where).one_or_none()
            if mine is None or tx.scalar(_LAST_FROM, {"model": mine.model}) != mine.id:
                raise AlreadyDone(reason="it has not joined it, or another one from the same model since")
            tx.execute(_LEAVES, {"start": mine.id, "told": json.dumps(sorted(advertised))})

    def note(self, key: AttemptKey, step: str, detail: str = "") -> None:
        """Note a step of an attempt before its message is sent.

        Raises: AlreadyDone if that step is noted already, the attempt is given up, or no vector has left.
        """
        with self._engine.begin() as tx:
            if tx.execute(_LEFT_IN, key.where).first() is None:
                raise AlreadyDone(reason="its masked vector has not left")
            _add(tx, key, step, detail, unless=("abort",))

    def give_up(self, key: AttemptKey) -> bytes:
        """Note, once and for ever, that this node does not unmask in an attempt that it has joined.

        Returns: the model that the attempt started from.
        Raises: AlreadyDone if it has unmasked in it, or has not joined it.
        """
        with self._engine.begin() as tx:
            mine = tx.execute(_START, key.where).one_or_none()
            if mine is None or mine.model == UNKNOWN:
                raise AlreadyDone(reason="there is no attempt that it could give up")
            if tx.execute(_DETAIL, {**key.where, "step": "abort"}).first() is None:
                _add(tx, key, "abort", "", unless=("unmask",))
            return bytes(mine.model)

    def settle(self, start: Start, certificate: bytes) -> None:
        """Note that the sum of an attempt stays shut: its abort certificate has been checked."""
        key = AttemptKey(start.plan, start.round, start.attempt)
        with self._engine.begin() as tx:
            mine = sa.and_(*(STARTS.c[name] == value for name, value in key.where.items()))
            tx.execute(STARTS.update().where(mine).values(certificate=certificate))

    def detail(self, key: AttemptKey, step: str) -> str | None:
        """What was noted with a step; None if the step was not taken."""
        with self._engine.connect() as tx:
            found = tx.execute(_DETAIL, {**key.where, "step": step}).first()
        return None if found is None else str(found.detail)

    def uploads(self, plan: str, number: int) -> int:
        """In how many attempts at a round a masked vector may have left."""
        with self._engine.connect() as tx:
            return len(set(tx.scalars(_UPLOADS, {"plan": plan, "round": number})))

    def unsettled(self, plan: str, came_from: int) -> list[Start]:
        """Attempts whose vector has left and of which this node knows neither a sum nor a certificate.

        Args:
            came_from: the round that this node's newest version came out of.
        """
        with self._engine.connect() as tx:
            return _open(tx, _LEFT_SINCE, {"plan": plan, "came_from": came_from})

    def started(self, plan: str) -> bool:
        """Whether this node has joined any attempt of a plan."""
        with self._engine.connect() as tx:
            return (
                tx.execute(sa.select(STARTS.c.id).where(STARTS.c.plan == plan).limit(1)).first() is not None
            )

    def started_from(self, model: bytes, *, besides: Sequence[str]) -> str | None:
        """Another plan in which a masked vector from this model has left, if any."""
        other = STARTS.c.plan.not_in(besides) & (STARTS.c.advertised != "")
        wanted = sa.select(STARTS.c.plan).where(STARTS.c.model == model, other)
        with self._engine.connect() as tx:
            return tx.scalar(wanted.limit(1))

    def take_over(self, first_models: Callable[[], dict[str, bytes]]) -> None:
        """Give the rows of an older version of the program, which kept no models, theirs in ``starts``.

        What it noted of a first round started from the plan's initial model. Of later rounds the model is
        not known: until a version has come out of that round or a later one, its plan starts nothing.

        Args:
            first_models: the approved plans, with the hash of their initial model.
        """
        with self._engine.begin() as tx:
            # Steps first: a node that joins meanwhile adds both at once, so a step seen here has its start.
            rows = tx.execute(sa.select(STEPS).order_by(STEPS.c.round, STEPS.c.attempt)).all()
            known = sa.select(STARTS.c.plan, STARTS.c.round, STARTS.c.attempt)
            have = {AttemptKey(*row) for row in tx.execute(known)}
            old: dict[AttemptKey, set[str]] = {}
            for row in rows:
                key = AttemptKey(row.plan, row.round, row.attempt)
                if key not in have:
                    old.setdefault(key, set()).add(row.step)
            models = first_models() if old else {}
            for key, taken in old.items():
                model = models.get(key.plan, UNKNOWN) if key.round == 1 else UNKNOWN
                left = "[]" if taken & set(LEFT) else ""
                tx.execute(STARTS.insert().values(**key.where, model=model, advertised=left, certificate=b""))


def _in_use(tx: sa.Connection, model: bytes, plan: str, came_from: int) -> list[Start]:
    return _open(tx, _IN_USE, {"model": model, "plan": plan, "came_from": came_from})


def _open(tx: sa.Connection, which: sa.Select[Any], values: dict[str, Any]) -> list[Start]:
    """Those of which it is not known that their sum stays shut."""
    return [
        Start(r.plan, r.round, r.attempt, r.model, tuple(json.loads(r.advertised)))
        for r in tx.execute(which, values)
        if not r.certificate
    ]


def _add(tx: sa.Connection, key: AttemptKey, step: str, detail: str, *, unless: tuple[str, ...]) -> None:
    taken = set(tx.scalars(_TAKEN, key.where))
    if step in taken:
        raise AlreadyDone(reason=f"the step '{step}' is done")
    for other in unless:
        if other in taken:
            raise AlreadyDone(reason=f"the step '{other}' is done, and '{step}' cannot follow it")
    tx.execute(_NEW_STEP, {**key.where, "step": step, "detail": detail})
