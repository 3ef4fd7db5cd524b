"""What the aggregator keeps in its database. Each method is one transaction; only here is SQL written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.auditlog import NOTHING, Detail, Entry, Head, Reckoning, checked, row_digest, seal
from aggregator.database import REVISIONS, Database
from aggregator.tables import (
    APPROVALS,
    ATTEMPTS,
    AUDIT,
    EVENTS,
    META,
    PARTIES,
    PLANS,
    SETTINGS,
    TOKENS,
    VERSIONS,
)
from medveil.errors import Error
from medveil.identity import Identity
from medveil.ids import canonical
from medveil.plan import Plan
from medveil.rounds import ModelVersion


class TokenRefused(Error):
    """An enrolment token that cannot be used."""

    code = "token-refused"

    def __init__(self) -> None:
        super().__init__(
            what="The enrolment token is wrong, used, expired or made for another name.",
            meaning="Nobody was enrolled.",
            remedy="Ask the consortium's admin for a new token: medveil aggregator enroll-token NAME.",
        )


class AlreadyThere(Error):
    """A name or plan exists already."""

    code = "already-there"

    def __init__(self, *, thing: str) -> None:
        super().__init__(
            what=f"There is already {thing}.",
            meaning="The first one stands; nothing was changed.",
            remedy="Use another name, or go on with the one that is there.",
        )


@dataclass(frozen=True)
class Party:
    """Somebody enrolled: a hospital or a researcher."""

    name: str
    role: str
    public_key: bytes


@dataclass(frozen=True)
class AttemptKey:
    """Which attempt: plan (hexadecimal), round, attempt."""

    plan: str
    round: int
    attempt: int

    @property
    def where(self) -> dict[str, Any]:
        """As column values."""
        return {"plan": self.plan, "round": self.round, "attempt": self.attempt}

    @property
    def folder(self) -> str:
        """Name of the attempt's upload folder."""
        return f"{self.plan[:16]}-{self.round}-{self.attempt}"


class NotLeading(Error):
    """Another process of this consortium has the lead."""

    code = "not-leading"

    def __init__(self) -> None:
        super().__init__(
            what="This aggregator process does not lead at the moment.",
            meaning="Another one on the same database does, or is about to; nothing was changed here.",
            remedy="Nothing to do: nodes come back, and the proxy in front finds the process that leads.",
        )


class _Change:
    """One write transaction. Rows can be changed only together with their audit entries."""

    def __init__(self, tx: sa.Connection, signer: Identity, time_ms: int, actor: str) -> None:
        self.tx, self._signer, self._time_ms, self._actor = tx, signer, time_ms, actor
        self.head: Head | None = None
        self.select = tx.execute

    def insert(self, table: sa.Table, values: Mapping[str, Any], action: str, **details: Detail) -> None:
        """A new row and its entry."""
        self.tx.execute(table.insert().values(**values))
        self.add(action, _subject(table, values), row=row_digest(values[c.name] for c in table.c), **details)

    def update(
        self,
        table: sa.Table,
        key: Mapping[str, Any],
        values: Mapping[str, Any],
        action: str,
        **details: Detail,
    ) -> None:
        """Changed columns of a row and their entry."""
        self.tx.execute(table.update().where(*_at(table, key)).values(**values))
        row = self.tx.execute(sa.select(table).where(*_at(table, key))).one()
        self.add(action, _subject(table, row._mapping), row=row_digest(row), **details)

    def forget_events(self, key: AttemptKey) -> None:
        """Remove an attempt's messages; the entry "attempt.ended" stands for that."""
        self.tx.execute(EVENTS.delete().where(*_at(EVENTS, key.where)))

    def add(self, action: str, subject: str, **details: Detail) -> None:
        """One more audit entry."""
        entry = seal(
            self._signer,
            self.head or _head(self.tx),
            time_ms=self._time_ms,
            actor=self._actor,
            action=action,
            subject=subject,
            details=details,
        )
        self.tx.execute(AUDIT.insert().values(**asdict(entry)))
        self.head = entry.head


class Store:
    """All durable state but the blobs.

    Args:
        where: the SQLite file, or the URL of a PostgreSQL database; an empty one gets its tables.
        signer: the admin's identity, which signs the audit log.
        wall_clock: Unix seconds, for the audit log.
    Raises: UnusableDatabase, UnknownSchema, OldSchema; every method raises StorageFailed if the database does
        not take or give what it should, and NotLeading if this process had the lead and has lost it.
    """

    def __init__(
        self, where: Path | str, signer: Identity, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(where)
        self._signer, self._wall_clock = signer, wall_clock
        self._lead: str | None = None
        with self._database.read() as tx:
            self._head = _head(tx)
        if self._head == NOTHING:
            self._begin_log()

    @property
    def in_doubt(self) -> bool:
        """Whether a commit may or may not have happened; :meth:`settled` ends it."""
        return self._database.in_doubt

    def settled(self) -> None:
        """The caller has read everything again."""
        self._database.in_doubt = False

    @property
    def head(self) -> Head:
        """Head of the audit log after this process's last change."""
        return self._head

    def close(self) -> None:
        """Give the database back, and the lead."""
        self._database.close()

    @contextmanager
    def _change(self, name: str, actor: str) -> Iterator[_Change]:
        """One transaction with its audit entries; refused when another process has taken the lead."""
        with self._database.write(name) as tx:
            if self._lead is not None and _lead(tx) != self._lead:
                raise NotLeading()
            change = _Change(tx, self._signer, int(self._wall_clock() * 1000), actor)
            yield change
        self._head = change.head or self._head

    def _begin_log(self) -> None:
        with self._change("begin_log", "aggregator") as change:
            if _head(change.tx) != NOTHING:
                return  # another process was faster
            change.add("log.begun", "audit", schema=REVISIONS[-1])
            for table in (t for t in META.sorted_tables if t is not AUDIT):
                for row in change.select(sa.select(table).order_by(*table.primary_key)).all():
                    change.add("row.taken-over", _subject(table, row._mapping), row=row_digest(row))

    def lead(self) -> bool:
        """Try to become the one process that coordinates on this database; whether it is now.

        The lead ends with the process or its connection. Another one that takes it changes a number in the
        database, and every later change of this process is refused.
        """
        if not self._database.try_lead():
            return False
        self._lead = None
        with self._change("lead", "aggregator") as change:
            number = str(int(_lead(change.tx)) + 1)
            change.update(SETTINGS, {"key": "lead"}, {"value": number}, "lead.taken", lead=int(number))
        self._lead = number
        return True

    def check_lead(self) -> None:
        """Raises: NotLeading if this process had the lead and another one has taken it since."""
        if self._lead is None:
            return
        with self._database.read() as tx:
            if _lead(tx) != self._lead:
                raise NotLeading()
        self._database.try_lead()  # the lock may have gone with a broken connection

    def add_token(self, token: str, *, name: str, role: str, expires: float) -> None:
        """Remember the hash of a one-time token."""
        values = {"hash": _hash(token), "name": name, "role": role, "expires": expires, "used": False}
        with self._change("add_token", "admin") as change:
            change.insert(TOKENS, values, "token.added", role=role)

    def enrol(self, token: str, *, name: str, public_key: bytes, now: float) -> Party:
        """Use up a token and remember the newcomer. The same newcomer may repeat a lost request.

        Raises: TokenRefused, AlreadyThere.
        """
        with self._change("enrol", name) as change:
            row = change.select(sa.select(TOKENS).where(TOKENS.c.hash == _hash(token))).one_or_none()
            if row is None or row.name != name:
                raise TokenRefused()
            present = change.select(
                sa.select(PARTIES).where((PARTIES.c.name == name) | (PARTIES.c.public_key == public_key))
            ).all()
            if row.used and [(p.name, p.public_key) for p in present] == [(name, public_key)]:
                return Party(name, row.role, public_key)
            if row.used or row.expires < now:
                raise TokenRefused()
            if present:
                raise AlreadyThere(thing=f"a party with the name '{name}' or this key")
            values = {"name": name, "role": row.role, "public_key": public_key, "enrolled": now}
            change.update(TOKENS, {"hash": row.hash}, {"used": True}, "token.used")
            change.insert(PARTIES, values, "party.enrolled", role=row.role)
            return Party(name, row.role, public_key)

    def parties(self) -> dict[str, Party]:
        """Everybody enrolled."""
        with self._database.read() as tx:
            rows = tx.execute(sa.select(PARTIES)).all()
        return {r.name: Party(r.name, r.role, r.public_key) for r in rows}

    def add_plan(self, plan: Plan, signature: bytes, first: ModelVersion, now: float) -> None:
        """Keep a plan with its initial model version. Raises: AlreadyThere."""
        values = {
            "id": plan.id,
            "plan": plan.model_dump_json(),
            "admin_signature": signature,
            "created": now,
            "finished": False,
        }
        with self._change("add_plan", "admin") as change:
            if change.select(sa.select(PLANS.c.id).where(PLANS.c.id == plan.id)).first():
                raise AlreadyThere(thing="this exact plan")
            change.insert(PLANS, values, "plan.created")
            _publish(change, first, {})

    def plans(self, *, besides: Collection[str] = ()) -> list[tuple[Plan, bytes, bool]]:
        """Every plan but those named, oldest first, with the admin's signature and whether it is finished."""
        wanted = sa.select(PLANS).where(PLANS.c.id.not_in(besides)).order_by(PLANS.c.created)
        with self._database.read() as tx:
            rows = tx.execute(wanted).all()
        return [(Plan.model_validate_json(r.plan), r.admin_signature, r.finished) for r in rows]

    def finish_plan(self, plan: str) -> None:
        """No more rounds."""
        with self._change("finish_plan", "aggregator") as change:
            change.update(PLANS, {"id": plan}, {"finished": True}, "plan.finished")

    def add_approval(self, plan: str, name: str, signature: bytes) -> None:
        """Keep a checked approval; Ed25519 is deterministic, so a repeat is the same row."""
        values = {"plan": plan, "name": name, "signature": signature}
        with self._change("add_approval", name) as change:
            known = sa.select(APPROVALS.c.name).where(APPROVALS.c.plan == plan, APPROVALS.c.name == name)
            if change.select(known).first() is None:
                change.insert(APPROVALS, values, "plan.approved")

    def approvals(self, plan: str) -> dict[str, bytes]:
        """Hospital → signature."""
        with self._database.read() as tx:
            rows = tx.execute(sa.select(APPROVALS).where(APPROVALS.c.plan == plan)).all()
        return {r.name: r.signature for r in rows}

    def open_attempt(self, key: AttemptKey, *, kind: str, model: str, now: float) -> None:
        """A new attempt at a round."""
        values = {**key.where, "kind": kind, "model": model, "opened": now, "outcome": None, "report": None}
        with self._change("open_attempt", "aggregator") as change:
            change.insert(ATTEMPTS, values, "attempt.opened", kind=kind, model=model)

    def add_event(
        self, key: AttemptKey, number: int, kind: str, body: bytes, *, actor: str = "aggregator"
    ) -> None:
        """One more message or closing of an attempt; the list of them is its state."""
        values = {**key.where, "number": number, "kind": kind, "body": body}
        with self._change("add_event", actor) as change:
            change.insert(EVENTS, values, "attempt.message", kind=kind, bytes=len(body))

    def events(self, key: AttemptKey) -> list[tuple[str, bytes]]:
        """The messages and closings of an attempt, in order."""
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(EVENTS).where(*_at(EVENTS, key.where)).order_by(EVENTS.c.number)
            ).all()
        return [(r.kind, r.body) for r in rows]

    def end_attempt(
        self,
        key: AttemptKey,
        *,
        outcome: str,
        report: Mapping[str, Any],
        version: ModelVersion | None = None,
        state: Mapping[str, str] | None = None,
    ) -> None:
        """Close an attempt and, if it made one, publish the model version: both or neither.

        The events are dropped with it: they hold the shares of the last step.
        """
        values = {"outcome": outcome, "report": dict(report)}
        with self._change("end_attempt", "aggregator") as change:
            change.forget_events(key)
            reason = report.get("reason")
            change.update(ATTEMPTS, key.where, values, "attempt.ended", outcome=outcome, reason=reason)
            if version is not None:
                _publish(change, version, state or {})

    def attempts(self, plan: str) -> list[dict[str, Any]]:
        """Every attempt of a plan in order, as plain values."""
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(ATTEMPTS)
                .where(ATTEMPTS.c.plan == plan)
                .order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)
            ).all()
        return [dict(r._mapping) for r in rows]

    def versions(self, plan: str) -> list[tuple[ModelVersion, dict[str, str]]]:
        """The lineage of a plan's model, oldest first, with the hashes of the optimiser's state."""
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(VERSIONS).where(VERSIONS.c.plan == plan).order_by(VERSIONS.c.number)
            ).all()
        return [(ModelVersion.model_validate(r.version), dict(r.state)) for r in rows]

    def restored(self, head: Head) -> None:
        """This database was put back from a backup whose log ended at ``head``: open attempts have ended."""
        wanted = sa.select(ATTEMPTS).where(ATTEMPTS.c.outcome.is_(None))
        report = {"reason": "restored", "failed_in": "unmask"}
        values = {"outcome": "failed", "report": report}
        with self._change("restored", "admin") as change:
            change.add("database.restored", "audit", head=head.hash.hex())
            for row in change.select(wanted).all():
                key = AttemptKey(row.plan, row.round, row.attempt)
                change.forget_events(key)
                change.update(
                    ATTEMPTS, key.where, values, "attempt.ended", outcome="failed", reason="restored"
                )

    def probe(self) -> None:
        """Try a durable write that changes nothing. Raises: StorageFailed, NotLeading."""
        with self._change("probe", "aggregator") as change:
            where = SETTINGS.c.key == "schema"
            change.tx.execute(SETTINGS.update().where(where).values(value=SETTINGS.c.value))

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The audit log from number ``after`` + 1 on, a thousand entries a transaction."""
        while True:
            with self._database.read() as tx:
                some = list(_entries(tx, after, limit=1000))
            yield from some
            if len(some) < 1000:
                return
            after = some[-1].number

    def verify_log(self, heads: Iterable[Head] = ()) -> Head:
        """Check the whole audit log, and every row of every table against it; its head.

        Args:
            heads: that others have seen; the log must hold them.
        Raises: BadEntry, naming the first bad entry.
        """
        reckoning, last = Reckoning(), NOTHING
        for entry in checked(self.entries(), self._signer.public_key, heads=heads):
            reckoning.take(entry)
            last = entry.head
        with self._database.read() as tx:  # what was written meanwhile, and the tables, as of one moment
            for entry in checked(_entries(tx, last.number), self._signer.public_key, before=last):
                reckoning.take(entry)
                last = entry.head
            reckoning.compare(_rows(tx))
        return last


def _publish(change: _Change, version: ModelVersion, state: Mapping[str, str]) -> None:
    values = {
        "plan": version.plan,
        "number": version.number,
        "version": version.model_dump(mode="json"),
        "state": dict(state),
    }
    change.insert(VERSIONS, values, "version.published", model=version.model)


def _at(table: sa.Table, key: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in key.items()]


def _subject(table: sa.Table, values: Mapping[Any, Any]) -> str:
    return "/".join([table.name, *(str(values[c.name]) for c in table.primary_key)])


def _rows(tx: sa.Connection) -> Iterator[tuple[str, str]]:
    """Every row but those of the log: its name and digest."""
    for table in (t for t in META.sorted_tables if t is not AUDIT):
        for row in tx.execute(sa.select(table)):
            yield _subject(table, row._mapping), row_digest(row)


def _entries(tx: sa.Connection, after: int, limit: int | None = None) -> Iterator[Entry]:
    wanted = sa.select(AUDIT).where(AUDIT.c.number > after).order_by(AUDIT.c.number).limit(limit)
    for row in tx.execute(wanted):
        yield Entry(**row._mapping)


def _head(tx: sa.Connection) -> Head:
    newest = (
        sa.select(AUDIT.c.number, AUDIT.c.hash, AUDIT.c.signature).order_by(AUDIT.c.number.desc()).limit(1)
    )
    row = tx.execute(newest).first()
    return NOTHING if row is None else Head(*row)


def _lead(tx: sa.Connection) -> str:
    return str(tx.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.key == "lead")).scalar_one())


def _hash(token: str) -> str:
    return hashlib.sha256(canonical(["enrol-token", token])).hexdigest()
