"""The node's journal: approvals, alarms, and what it has done in each attempt, on disk before it is sent.

No secret is in it. A node that comes back after a crash finds that it has joined an attempt, and since its
keys are gone it sits that attempt out: it never masks twice under one (round, attempt).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from medveil.errors import LocalProtocolError
from medveil.plan import Plan

META = sa.MetaData()
APPROVALS = sa.Table(
    "approvals",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
STEPS = sa.Table(
    "steps",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("detail", sa.String, nullable=False, default=""),
)
ALARMS = sa.Table(
    "alarms",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("claimed", sa.String, nullable=False),
    sa.Column("computed", sa.String, nullable=False),
)


@dataclass(frozen=True)
class Alarm:
    """A refused model: why, and the evidence. It stands until the operator takes it away."""

    plan: str
    code: str
    reason: str
    version: int
    """The last version that this node could make itself."""
    claimed: str
    """Hash of the model that the aggregator named."""
    computed: str
    """Hash of this node's own version."""


class AlreadyDone(LocalProtocolError):
    """The journal says that this step must not happen (again)."""

    code = "already-done"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"This node sits the attempt out: {reason}.",
            meaning="Doing it again could mask two vectors alike or show the difference of two sums.",
            remedy="Nothing to do; the node takes part again from the next attempt or round on.",
        )


class Journal:
    """One SQLite file, written with a rollback journal and ``synchronous=FULL``."""

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _durable)
        META.create_all(self._engine)

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    def approve(self, plan: Plan, signature: bytes) -> None:
        """Remember that the operator approved exactly this plan."""
        with self._engine.begin() as tx:
            tx.execute(
                sa.text("INSERT OR REPLACE INTO approvals VALUES (:plan, :text, :signature)"),
                {"plan": plan.id, "text": plan.model_dump_json(), "signature": signature},
            )

    def approved(self) -> list[tuple[Plan, bytes]]:
        """The plans that the operator approved, with this hospital's signatures."""
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(APPROVALS)).all()
        return [(Plan.model_validate_json(r.text), r.signature) for r in rows]

    def join(self, plan: str, number: int, attempt: int) -> None:
        """Note that this node sends keys for an attempt.

        Raises: AlreadyDone if it has joined this or a later attempt, or has unmasked in this round: a
            second sum over other hospitals of the same round would show the difference.
        """
        with self._engine.begin() as tx:
            rows = tx.execute(sa.select(STEPS).where(STEPS.c.plan == plan, STEPS.c.round >= number)).all()
            if any((r.round, r.attempt) >= (number, attempt) for r in rows):
                raise AlreadyDone(reason="it has joined this attempt or a later one before")
            if any(r.round == number and r.step == "unmask" for r in rows):
                raise AlreadyDone(reason="it has helped to unmask this round before")
            tx.execute(
                STEPS.insert().values(plan=plan, round=number, attempt=attempt, step="join", detail="")
            )

    def note(self, plan: str, number: int, attempt: int, step: str, detail: str = "") -> None:
        """Note a step of an attempt before its message is sent.

        Raises: AlreadyDone if that step is noted already.
        """
        row = {"plan": plan, "round": number, "attempt": attempt, "step": step}
        with self._engine.begin() as tx:
            where = [STEPS.c[k] == v for k, v in row.items()]
            if tx.execute(sa.select(STEPS).where(*where)).first():
                raise AlreadyDone(reason=f"the step '{step}' is done")
            tx.execute(STEPS.insert().values(**row, detail=detail))

    def detail(self, plan: str, number: int, attempt: int, step: str) -> str | None:
        """What was noted with a step; None if the step was not taken."""
        row = {"plan": plan, "round": number, "attempt": attempt, "step": step}
        with self._engine.connect() as tx:
            where = [STEPS.c[k] == v for k, v in row.items()]
            found = tx.execute(sa.select(STEPS.c.detail).where(*where)).first()
        return None if found is None else str(found.detail)

    def alarm(self, plan: str) -> Alarm | None:
        """The alarm that stands for a plan, if any."""
        with self._engine.connect() as tx:
            row = tx.execute(sa.select(ALARMS).where(ALARMS.c.plan == plan)).mappings().first()
        return None if row is None else Alarm(**row)

    def raise_alarm(self, alarm: Alarm) -> None:
        """Keep an alarm; the first one of a plan stands."""
        with self._engine.begin() as tx:
            tx.execute(ALARMS.insert().prefix_with("OR IGNORE").values(**asdict(alarm)))

    def clear_alarm(self, plan: str) -> None:
        """The operator has looked into it."""
        with self._engine.begin() as tx:
            tx.execute(ALARMS.delete().where(ALARMS.c.plan == plan))


def write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write beside, fsync, rename, fsync the folder: after a crash the file is the old one or the new one.

    Raises: OSError; what was there is then as before.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    with open(scratch, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _durable(connection: object, _: object) -> None:
    for pragma in ("journal_mode=DELETE", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]
