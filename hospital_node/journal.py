"""The node's journal: approvals, alarms, and what it has done in each attempt, on disk before it is sent.

No secret is in it. A node that comes back after a crash finds that it has joined an attempt, and since its
keys are gone it sits that attempt out: it never masks twice under one (round, attempt).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from hospital_node import steps
from hospital_node.seen_heads import SeenHeads
from hospital_node.steps import STEPS, Steps
from hospital_node.unchanged import Unchanged
from medveil.errors import Error
from medveil.plan import BadPlan, Plan, stored_plan
from medveil.shown import plain
from medveil.sqlite import open_sqlite
from medveil.study import too_much

META = sa.MetaData()
APPROVALS = sa.Table(
    "approvals",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
APPROVERS = sa.Table(
    "approvers",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("who", sa.String, nullable=False),
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
_APPROVED = sa.select(APPROVALS)
_AMENDED = APPROVALS.c.text.contains('"earlier":[', autoescape=True)
_OF_LINEAGE = _APPROVED.where((APPROVALS.c.plan == sa.bindparam("lineage")) | _AMENDED)
"""Those that amend others are few, and they alone are read."""
_ALARM = sa.select(ALARMS).where(ALARMS.c.plan == sa.bindparam("plan"))
_APPROVER = sa.select(APPROVERS.c.who).where(APPROVERS.c.plan == sa.bindparam("plan"))
"""Made once, as in :mod:`hospital_node.steps`: each attempt asks them."""
UNWRITABLE = (sa.exc.OperationalError,)
"""What a journal raises that its disk does not take."""
MOST_SHOWN = 200
"""Plans that were shown and are kept; the oldest go first."""


@dataclass(frozen=True)
class ShownPlan:
    """A plan as its operator has seen it: the JSON text, and the admin's signature that came with it."""

    plan: str
    text: str
    admin_key: bytes
    admin_signature: bytes


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


class JournalFailed(Error):
    """The journal's file could not be read or written."""

    code = "journal-failed"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"This node's journal.db could not be used: {reason}.",
            meaning="What was about to be noted was not; nothing was signed or sent after it.",
            remedy="Check that the disk has room and that the node's folder belongs to this user.",
        )


class Journal(Steps):
    """One SQLite file, written with a rollback journal and ``synchronous=FULL``.

    The journal is cut to nothing with each commit and stays where it is: that is synced, where the removal of
    a file is not, so a power cut takes no commit back.

    Raises: ForeignJournal if anything in it would act by itself.
    """

    def __init__(self, path: Path) -> None:
        self._engine = open_sqlite(path)
        sa.event.listen(self._engine, "connect", _durable)
        sa.event.listen(self._engine, "handle_error", _failed)
        with self._engine.connect() as tx:
            acts = sa.text("SELECT type FROM sqlite_master WHERE type NOT IN ('table', 'index')")
            for kind in tx.scalars(acts):
                raise ForeignJournal(kind=str(kind))
        META.create_all(self._engine)
        steps.META.create_all(self._engine)
        self._unchanged = Unchanged(self._engine)
        self.unchanged = self._unchanged.ask
        """See :meth:`hospital_node.unchanged.Unchanged.ask`."""
        self.heads = SeenHeads(self._engine, self.unchanged)
        """What was seen of the aggregator's audit log."""
        self.take_over(self._first_models)

    @property
    def engine(self) -> sa.Engine:
        """For the tables that :mod:`hospital_node.frozen` keeps in the same file."""
        return self._engine

    def close(self) -> None:
        """Give the file back."""
        self._unchanged.close()
        self._engine.dispose()

    def approve(self, plan: Plan, signature: bytes, *, by: str = "") -> None:
        """Remember that the operator approved exactly this plan.

        Args:
            by: the local user who did.
        """
        with self._engine.begin() as tx:
            tx.execute(APPROVERS.delete().where(APPROVERS.c.plan == plan.id))
            tx.execute(APPROVERS.insert().values(plan=plan.id, who=by))
            tx.execute(
                sa.text("INSERT OR REPLACE INTO approvals VALUES (:plan, :text, :signature)"),
                {"plan": plan.id, "text": plan.model_dump_json(), "signature": signature},
            )

    def approver(self, plan: str) -> str:
        """The local user who approved a plan; empty if that is not known."""
        return self.unchanged(("approver", plan), lambda: self._approver(plan))

    def _approver(self, plan: str) -> str:
        with self._engine.connect() as tx:
            return tx.scalar(_APPROVER, {"plan": plan}) or ""

    def _first_models(self) -> dict[str, bytes]:
        """Approved plan → hash of its initial model, also of plans that are no longer valid."""
        with self._engine.connect() as tx:
            rows = tx.execute(_APPROVED).all()
        return {r.plan: bytes.fromhex(json.loads(r.text)["study"]["model"]["initial_model"]) for r in rows}

    def plan(self, plan: str) -> Plan | None:
        """An approved plan, by its hash in hexadecimal."""
        return next((p for p, _ in self.approved() if p.id == plan), None)

    def approved(self) -> list[tuple[Plan, bytes]]:
        """The plans that the operator approved, with this hospital's signatures; without unreadable ones."""
        with self._engine.connect() as tx:
            rows = tx.execute(_APPROVED).all()
        found = []
        for row in rows:
            with suppress(BadPlan):
                found.append((stored_plan(row.text), row.signature))
        return found

    def approved_of(self, lineage: str) -> list[Plan]:
        """The approved plans of one lineage: the first one, and those that amend it."""
        with self._engine.connect() as tx:
            rows = tx.execute(_OF_LINEAGE, {"lineage": lineage}).all()
        found = []
        for row in rows:
            with suppress(BadPlan):
                found.append(stored_plan(row.text))
        return [plan for plan in found if plan.lineage == lineage]

    def outdated(self) -> dict[str, str]:
        """Approved plan → why this version refuses it: an earlier one took it."""
        with self._engine.connect() as tx:
            rows = tx.execute(_APPROVED).all()
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

    def keep_shown(self, shown: ShownPlan) -> None:
        """Remember exactly what the operator is about to see."""
        with self._engine.begin() as tx:
            newest = tx.scalar(sa.select(sa.func.max(SHOWN.c.order))) or 0
            tx.execute(SHOWN.delete().where(SHOWN.c.plan == shown.plan))
            tx.execute(SHOWN.insert().values(**asdict(shown), order=newest + 1))
            tx.execute(SHOWN.delete().where(SHOWN.c.order <= newest + 1 - MOST_SHOWN))

    def shown(self) -> list[ShownPlan]:
        """What the operator has seen, the newest last."""
        columns = [c for c in SHOWN.c if c.name != "order"]
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(*columns).order_by(SHOWN.c.order)).mappings()
            return [ShownPlan(**row) for row in rows]

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
        return self.unchanged(("alarm", plan), lambda: self._alarm(plan))

    def _alarm(self, plan: str) -> Alarm | None:
        with self._engine.connect() as tx:
            row = tx.execute(_ALARM, {"plan": plan}).mappings().first()
        return None if row is None else Alarm(**row)

    def raise_alarm(self, alarm: Alarm) -> None:
        """Keep an alarm; the first one of a plan stands."""
        with self._engine.begin() as tx:
            tx.execute(ALARMS.insert().prefix_with("OR IGNORE").values(**asdict(alarm)))

    def clear_alarm(self, plan: str) -> None:
        """The operator has looked into it."""
        with self._engine.begin() as tx:
            tx.execute(ALARMS.delete().where(ALARMS.c.plan == plan))


def _failed(context: sa.engine.ExceptionContext) -> None:
    """Raises: JournalFailed for what the disk or the file's rights are at fault for."""
    if isinstance(context.sqlalchemy_exception, sa.exc.OperationalError):
        raise JournalFailed(reason=plain(context.original_exception, 100)) from context.original_exception


def _durable(connection: object, _: object) -> None:
    for pragma in ("trusted_schema=OFF", "journal_mode=TRUNCATE", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]
