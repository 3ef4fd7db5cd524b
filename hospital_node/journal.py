"""The node's journal: approvals, alarms, and what it has done in each attempt, on disk before it is sent.

No secret is in it. A node that comes back after a crash finds that it has joined an attempt, and since its
keys are gone it sits that attempt out: it never masks twice under one (round, attempt).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hospital_node import steps
from hospital_node.steps import STEPS, Steps
from medveil.bounds import too_much
from medveil.errors import Error
from medveil.plan import BadPlan, Plan, stored_plan

META = sa.MetaData()
APPROVALS = sa.Table(
    "approvals",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
SHOWN = sa.Table(
    "shown",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("admin_key", sa.LargeBinary, nullable=False),
    sa.Column("admin_signature", sa.LargeBinary, nullable=False),
    sa.Column("order", sa.Integer, nullable=False),
)
FINISHED = sa.Table("finished", META, sa.Column("plan", sa.String, primary_key=True))
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
HEADS = sa.Table(
    "heads",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("about", sa.String, nullable=False),
    sqlite_autoincrement=True,
)


MOST_SHOWN = 200
"""Plans that were shown and are kept; the oldest go first."""


@dataclass(frozen=True)
class Shown:
    """A plan as its operator has seen it: the JSON text, and the admin's signature that came with it."""

    plan: str
    text: str
    admin_key: bytes
    admin_signature: bytes


@dataclass(frozen=True)
class Seen:
    """A head of the aggregator's audit log, and how this node came by it."""

    kind: str
    """``first``, ``attempt``, ``newest`` and ``handed-over`` were taken, ``refused`` is an alarm, and
    ``accepted`` ends one."""
    number: int
    hash: bytes
    signature: bytes
    key: bytes
    """Of the newest row that is not refused it is the pinned one; empty if it was accepted unseen."""
    seen: float
    """Unix seconds, by this node's clock."""
    about: str
    """The attempt it came with (plan, space, round.attempt), the alarm's code, the whole hand-over in
    hexadecimal digits, or the fingerprint of the key that the operator has accepted unseen."""


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


class ForeignJournal(Error):
    """A journal that holds what this program never makes."""

    code = "foreign-journal"

    def __init__(self, *, kind: str) -> None:
        super().__init__(
            what=f"This node's journal.db holds a {kind}, which MedVeil never makes.",
            meaning="It could change what the node remembers of approvals and rounds, so it was not opened.",
            remedy="Find out who could write to the node's folder, then restore a copy that you trust.",
        )


class Journal(Steps):
    """One SQLite file, written with a rollback journal and ``synchronous=FULL``.

    Raises: ForeignJournal if anything in it would act by itself.
    """

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _durable)
        with self._engine.connect() as tx:
            acts = sa.text("SELECT type FROM sqlite_master WHERE type NOT IN ('table', 'index')")
            for kind in tx.scalars(acts):
                raise ForeignJournal(kind=str(kind))
        META.create_all(self._engine)
        steps.META.create_all(self._engine)
        self.take_over(self._first_models)

    @property
    def engine(self) -> sa.Engine:
        """For the tables that :mod:`hospital_node.frozen` keeps in the same file."""
        return self._engine

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

    def _first_models(self) -> dict[str, bytes]:
        """Approved plan → hash of its initial model, also of plans that are no longer valid."""
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(APPROVALS)).all()
        return {r.plan: bytes.fromhex(json.loads(r.text)["study"]["model"]["initial_model"]) for r in rows}

    def plan(self, plan: str) -> Plan | None:
        """An approved plan, by its hash in hexadecimal."""
        return next((p for p, _ in self.approved() if p.id == plan), None)

    def approved(self) -> list[tuple[Plan, bytes]]:
        """The plans that the operator approved, with this hospital's signatures; without unreadable ones."""
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(APPROVALS)).all()
        found = []
        for row in rows:
            with suppress(BadPlan):
                found.append((stored_plan(row.text), row.signature))
        return found

    def outdated(self) -> dict[str, str]:
        """Approved plan → why this version refuses it: an earlier one took it."""
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(APPROVALS)).all()
            over = set(tx.scalars(sa.select(FINISHED.c.plan)))
        found = {}
        for row in rows:
            try:
                problem = too_much(stored_plan(row.text).study)
            except BadPlan as error:
                problem = error.what
            if problem is not None and row.plan not in over:
                found[row.plan] = problem
        return found

    def show(self, shown: Shown) -> None:
        """Remember exactly what the operator is about to see."""
        with self._engine.begin() as tx:
            newest = tx.scalar(sa.select(sa.func.max(SHOWN.c.order))) or 0
            tx.execute(SHOWN.delete().where(SHOWN.c.plan == shown.plan))
            tx.execute(SHOWN.insert().values(**asdict(shown), order=newest + 1))
            tx.execute(SHOWN.delete().where(SHOWN.c.order <= newest + 1 - MOST_SHOWN))

    def shown(self) -> list[Shown]:
        """What the operator has seen, the newest last."""
        columns = [c for c in SHOWN.c if c.name != "order"]
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(*columns).order_by(SHOWN.c.order)).mappings()
            return [Shown(**row) for row in rows]

    def finish(self, plan: str) -> None:
        """Remember that a plan is over."""
        with self._engine.begin() as tx:
            tx.execute(FINISHED.insert().prefix_with("OR IGNORE").values(plan=plan))

    def progress(self, plan: str) -> int | None:
        """The newest round that this node has joined, 0 if none, None once the plan is over."""
        with self._engine.connect() as tx:
            if tx.execute(sa.select(FINISHED).where(FINISHED.c.plan == plan)).first():
                return None
            return tx.scalar(sa.select(sa.func.max(STEPS.c.round)).where(STEPS.c.plan == plan)) or 0

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

    def keep_head(self, seen: Seen) -> None:
        """Add a head of the audit log. Only a row of the kind ``newest`` is ever replaced, by the next."""
        with self._engine.begin() as tx:
            if seen.kind not in ("refused", "accepted", "handed-over"):
                tx.execute(HEADS.delete().where(HEADS.c.kind == "newest", HEADS.c.id > self._epoch(tx)))
            tx.execute(HEADS.insert().values(**asdict(seen)))

    def heads(self) -> list[Seen]:
        """Every head that is kept, in the order they came."""
        with self._engine.connect() as tx:
            return [_seen(row) for row in tx.execute(sa.select(HEADS).order_by(HEADS.c.id))]

    def newest_head(self) -> Seen | None:
        """The newest head that was taken or accepted."""
        wanted = sa.select(HEADS).where(HEADS.c.kind != "refused").order_by(HEADS.c.id.desc()).limit(1)
        with self._engine.connect() as tx:
            row = tx.execute(wanted).first()
        return None if row is None else _seen(row)

    def head_alarm(self) -> Seen | None:
        """The refused head that nobody has looked into yet, if any."""
        with self._engine.connect() as tx:
            row = tx.execute(sa.select(HEADS).order_by(HEADS.c.id.desc()).limit(1)).first()
        return _seen(row) if row is not None and row.kind == "refused" else None

    def head_hashes(self, number: int) -> list[bytes]:
        """The hashes under which a number is known, since the operator last accepted a head."""
        with self._engine.connect() as tx:
            after = HEADS.c.id >= self._epoch(tx)
            return list(tx.scalars(sa.select(HEADS.c.hash).where(after, HEADS.c.number == number)))

    def head_keys(self) -> set[bytes]:
        """Every admin key that was ever pinned."""
        with self._engine.connect() as tx:
            return set(tx.scalars(sa.select(HEADS.c.key).where(HEADS.c.kind != "refused").distinct()))

    def attempt_head(self, plan: str) -> Seen | None:
        """The head that a plan's last attempt came with, since the operator last accepted one."""
        of_plan = HEADS.c.about.startswith(f"{plan} ", autoescape=True)
        with self._engine.connect() as tx:
            mine = sa.select(HEADS).where(HEADS.c.id >= self._epoch(tx), of_plan)
            row = tx.execute(mine.order_by(HEADS.c.id.desc()).limit(1)).first()
        return None if row is None else _seen(row)

    def head_epoch(self) -> int:
        """Changes when the operator accepts a head."""
        with self._engine.connect() as tx:
            return self._epoch(tx)

    def _epoch(self, tx: sa.Connection) -> int:
        """Where the heads begin that are compared: at the last one that the operator accepted."""
        found = tx.scalar(sa.select(sa.func.max(HEADS.c.id)).where(HEADS.c.kind == "accepted"))
        return found or 0


def _seen(row: sa.Row[Any]) -> Seen:
    return Seen(**{k: v for k, v in row._mapping.items() if k != "id"})


def _durable(connection: object, _: object) -> None:
    for pragma in ("trusted_schema=OFF", "journal_mode=DELETE", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]
