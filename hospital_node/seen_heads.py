"""The heads of the aggregator's audit log that this node has seen, in its journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from hospital_node.unchanged import Remember

META = sa.MetaData()
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


_ACCEPTED = sa.func.coalesce(
    sa.select(sa.func.max(HEADS.c.id)).where(HEADS.c.kind == "accepted").scalar_subquery(), 0
)
_EPOCH = sa.select(_ACCEPTED)
_NEWEST = (
    sa.select(HEADS, _ACCEPTED.label("epoch"))
    .where(HEADS.c.kind != "refused", HEADS.c.id >= _ACCEPTED)
    .order_by(HEADS.c.number.desc(), HEADS.c.id.desc())
    .limit(1)
)
_LAST = sa.select(HEADS).order_by(HEADS.c.id.desc()).limit(1)
_SINCE_ACCEPTED = HEADS.c.id >= _ACCEPTED
_HASHES = sa.select(HEADS.c.hash).where(_SINCE_ACCEPTED, HEADS.c.number == sa.bindparam("number"))
_START = sa.bindparam("start", type_=sa.String)
_OF_PLAN = sa.func.substr(HEADS.c.about, 1, sa.func.length(_START)) == _START
_OF_ATTEMPT = sa.select(HEADS).where(_SINCE_ACCEPTED, _OF_PLAN).order_by(HEADS.c.id.desc()).limit(1)
_INSERT = HEADS.insert()
_MERELY_NEWEST = HEADS.delete().where(
    HEADS.c.kind == "newest", HEADS.c.id > _ACCEPTED, HEADS.c.number <= sa.bindparam("up_to")
)
"""Made once: a node asks with every message, and building a statement takes longer than running it."""


@dataclass(frozen=True)
class SeenHead:
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


class SeenHeads:
    """The heads in one journal; rows are added, and only a mere newest one is replaced by the next."""

    def __init__(self, engine: sa.Engine, unchanged: Remember) -> None:
        self._engine, self._unchanged = engine, unchanged
        META.create_all(engine)

    def keep(self, head: SeenHead) -> None:
        """Add a head of the audit log. Only a row of the kind ``newest`` is ever replaced, by the next."""
        with self._engine.begin() as tx:
            if head.kind not in ("refused", "accepted", "handed-over"):
                tx.execute(_MERELY_NEWEST, {"up_to": head.number})
            tx.execute(_INSERT, asdict(head))

    def all(self) -> list[SeenHead]:
        """Every head that is kept, in the order they came."""
        with self._engine.connect() as tx:
            return [_seen_head(row) for row in tx.execute(sa.select(HEADS).order_by(HEADS.c.id))]

    def newest(self) -> SeenHead | None:
        """The newest head that was taken or accepted."""
        return self.newest_since()[0]

    def newest_since(self) -> tuple[SeenHead | None, int]:
        """The newest head that was taken or accepted, and :meth:`epoch`, as of one moment."""
        return self._unchanged("newest head", self._newest_since)

    def _newest_since(self) -> tuple[SeenHead | None, int]:
        with self._engine.connect() as tx:
            row = tx.execute(_NEWEST).first()
        return (None, 0) if row is None else (_seen_head(row), row.epoch)

    def alarm(self) -> SeenHead | None:
        """The refused head that nobody has looked into yet, if any."""
        return self._unchanged("head's alarm", self._alarm)

    def _alarm(self) -> SeenHead | None:
        with self._engine.connect() as tx:
            row = tx.execute(_LAST).first()
        return _seen_head(row) if row is not None and row.kind == "refused" else None

    def hashes(self, number: int) -> list[bytes]:
        """The hashes under which a number is known, since the operator last accepted a head."""
        with self._engine.connect() as tx:
            return list(tx.scalars(_HASHES, {"number": number}))

    def keys(self) -> set[bytes]:
        """Every admin key that was ever pinned."""
        with self._engine.connect() as tx:
            return set(tx.scalars(sa.select(HEADS.c.key).where(HEADS.c.kind != "refused").distinct()))

    def of_attempt(self, plan: str) -> SeenHead | None:
        """The head that a plan's last attempt came with, since the operator last accepted one."""
        with self._engine.connect() as tx:
            row = tx.execute(_OF_ATTEMPT, {"start": f"{plan} "}).first()
        return None if row is None else _seen_head(row)

    def epoch(self) -> int:
        """Changes when the operator accepts a head."""
        with self._engine.connect() as tx:
            return int(tx.execute(_EPOCH).scalar_one())


def _seen_head(row: sa.Row[Any]) -> SeenHead:
    return SeenHead(row.kind, row.number, row.hash, row.signature, row.key, row.seen, row.about)
