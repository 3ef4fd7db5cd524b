"""What the aggregator keeps in its database. Each method is one transaction; only here is SQL written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.auditlog import (
    KEY_CHANGES,
    NOTHING,
    REPLACED,
    BadEntry,
    Detail,
    Entry,
    Head,
    KeyChange,
    Reckoning,
    Signers,
    checked,
    first_key_told,
    row_digest,
    seal,
)
from aggregator.storage.database import REVISIONS, Database
from aggregator.storage.tables import (
    API_TOKENS,
    APPROVALS,
    ATTEMPTS,
    AUDIT,
    EVENTS,
    META,
    PARTIES,
    PLANS,
    READERS,
    REVOCATIONS,
    SETTINGS,
    TOKENS,
    VERSIONS,
)
from medveil.errors import Error
from medveil.identity import BadSignature, Identity
from medveil.ids import canonical
from medveil.messages import (
    ADMIN_KEY,
    HANDED_OVER,
    MOST_HAND_OVERS,
    HandOver,
    hand_over_details,
    sign_hand_over,
)
from medveil.plan import Plan, stored_plan
from medveil.reports import AttemptReport
from medveil.rounds import EARLY, AttemptKey, ModelVersion, RoundKind
from medveil.spoken import named

CLOSE, GIVE_UP = "close", "give-up"
"""Events beside the messages: the end of a phase, and of the hope that an attempt succeeds by itself."""
RESTORED = "restored"
"""Why an attempt failed that was open in a backup: its masked vectors are in none."""


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


class StartTaken(Error):
    """A plan that would start from a model of another plan."""

    code = "start-taken"

    def __init__(self, *, plan: str) -> None:
        super().__init__(
            what=f"The initial model of this study is already a version of plan {named(plan)}.",
            meaning="Hospitals send one masked vector from a model, for two would show one of them alone. No "
            "plan was created.",
            remedy="Write the study once more: 'medveil study new' makes a fresh initial model.",
        )


@dataclass(frozen=True)
class Party:
    """Somebody enrolled: a hospital or a researcher."""

    name: str
    role: str
    public_key: bytes
    revoked: bool = False


@dataclass(frozen=True)
class OpenedAttempt:
    """The row of an attempt that has not ended."""

    key: AttemptKey
    kind: RoundKind
    model: str
    """That it starts from, in hexadecimal."""


@dataclass(frozen=True)
class PlanRow:
    """What changes of a plan's row, and how many of its attempts have ended."""

    plan: str
    finished: bool
    ended: int


@dataclass(frozen=True)
class Progress:
    """How far a plan has come."""

    ended: int
    """How many attempts have."""
    recent: tuple[AttemptReport, ...]
    """Those of them in the last two rounds that have any attempt, in order."""
    opened: OpenedAttempt | None
    """The one that has not."""
    newest: tuple[ModelVersion, dict[str, str]]
    """The last version of the model, and the hashes of the optimiser's state."""


class NotLeading(Error):
    """Another process of this consortium has the lead."""

    code = "not-leading"

    def __init__(self) -> None:
        super().__init__(
            what="This aggregator process does not lead at the moment.",
            meaning="Another one on the same database does, or is about to; nothing was changed here.",
            remedy="Nothing to do: nodes come back, and the proxy in front finds the process that leads.",
        )


class WrongAdminKey(Error):
    """The admin key at hand is not the one that signs the audit log."""

    code = "wrong-admin-key"

    def __init__(self) -> None:
        super().__init__(
            what="The admin key in this folder is not the one that signs the audit log.",
            meaning="It was changed on another machine, or the log's end is forged. Nothing was written.",
            remedy="Copy admin.key from where it was changed. If nobody changed it: aggregator audit verify.",
        )


_INSERT = {table: table.insert() for table in META.tables.values()}
"""Made once, as those below: building a statement takes longer than running it."""
_NEWEST = sa.select(AUDIT.c.number, AUDIT.c.hash, AUDIT.c.signature).order_by(AUDIT.c.number.desc()).limit(1)
_LEAD = sa.select(SETTINGS.c.value).where(SETTINGS.c.key == "lead")
_KEY_ENTRIES = sa.select(SETTINGS.c.value).where(SETTINGS.c.key == ADMIN_KEY)
"""The numbers of the entries that changed the admin key, so that a start need not read the whole log."""
_PLAN_NAMES = sa.select(PLANS.c.id)
_PARTY = (
    sa.select(PARTIES, REVOCATIONS.c.revoked)
    .outerjoin(REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name)
    .where(PARTIES.c.name == sa.bindparam("party"))
)


class _Change:
    """One write transaction. Rows can be changed only together with their audit entries."""

    def __init__(self, tx: sa.Connection, signer: Identity, time_ms: int, actor: str, ours: Head) -> None:
        self.tx, self._signer, self._time_ms, self._actor = tx, signer, time_ms, actor
        self._ours = ours
        self.head: Head | None = None
        self.select = tx.execute

    def insert(self, table: sa.Table, values: Mapping[str, Any], action: str, **details: Detail) -> None:
        """A new row and its entry."""
        self.tx.execute(_INSERT[table], dict(values))
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

    def kinds(self, key: AttemptKey) -> list[str]:
        """The kinds of an attempt's messages and closings, in order."""
        rows = sa.select(EVENTS.c.kind).where(*_at(EVENTS, key.where)).order_by(EVENTS.c.number)
        return list(self.tx.scalars(rows))

    def add(self, action: str, subject: str, **details: Detail) -> None:
        """One more audit entry."""
        entry = seal(
            self._signer,
            self.head or self._signed_head(),
            time_ms=self._time_ms,
            actor=self._actor,
            action=action,
            subject=subject,
            details=details,
        )
        self.tx.execute(_INSERT[AUDIT], {c.name: getattr(entry, c.name) for c in AUDIT.c})
        self.head = entry.head

    def change_signer(self, new: Identity, *, replaced: bytes | None) -> int:
        """The entry from which on another key signs; its number. Arguments as :meth:`Store.change_admin_key`.

        Raises: WrongAdminKey unless the log is signed by the key that is to be followed.
        """
        before = self._signed_head(replaced)
        number, action = before.number + 1, HANDED_OVER if replaced is None else REPLACED
        details = {"old": (replaced or b"").hex(), "new": new.public_key.hex()}
        if replaced is None:
            word = sign_hand_over(self._signer, number, before.hash, new.public_key)
            details = hand_over_details(self._signer.public_key, new.public_key, word)
        self._signer, self.head = new, before
        self.add(action, ADMIN_KEY, **details)
        numbers = self.select(_KEY_ENTRIES).scalar_one_or_none()
        if numbers is None:
            self.insert(SETTINGS, {"key": ADMIN_KEY, "value": str(number)}, "admin-key.noted")
        else:
            self.update(SETTINGS, {"key": ADMIN_KEY}, {"value": f"{numbers} {number}"}, "admin-key.noted")
        return number

    def raise_lead(self) -> str:
        """Count one more leader: whoever led before can change nothing any more. The new number."""
        number = str(int(_lead(self.tx)) + 1)
        self.update(SETTINGS, {"key": "lead"}, {"value": number}, "lead.taken", lead=int(number))
        return number

    def _signed_head(self, key: bytes | None = None) -> Head:
        """The head to go on from. Raises: WrongAdminKey if it is not signed by this key, or else by ours."""
        head = _head(self.tx)
        if head not in (NOTHING, self._ours) or key is not None:
            _check_signed(head, key or self._signer.public_key)
        return head


class Store:
    """All durable state but the blobs.

    Args:
        where: the SQLite file, or the URL of a PostgreSQL database; an empty one gets its tables.
        signer: the admin's identity, which signs the audit log.
        wall_clock: Unix seconds, for the audit log.
    Raises: UnusableDatabase, UnknownSchema, OldSchema; every method raises StorageFailed if the database does
        not take or give what it should, NotLeading if this process had the lead and has lost it, and
        WrongAdminKey if it would write and another key signs the log by now.
    """

    def __init__(
        self, where: Path | str, signer: Identity, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(where)
        self._signer, self._wall_clock = signer, wall_clock
        self._lead: str | None = None
        self._ours = NOTHING
        """The newest entry if this process wrote it; any other one's signature is looked at first."""
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
    def last_write(self) -> int | None:
        """See :attr:`Database.last_write`."""
        return self._database.last_write

    @property
    def head(self) -> Head:
        """Head of the audit log after this process's last change."""
        return self._head

    def witnessed(self) -> Head:
        """A head for others to keep: never older than one that any process on this database gave before.

        Raises: NotLeading if another process has written and taken the lead; the key may be another one.
        """
        if self.remembered_head is not None:
            return self.remembered_head
        with self._database.read() as tx:
            head = _head(tx)
            if head != self._head and self._lead is not None and _lead(tx) != self._lead:
                raise NotLeading()
            return head

    @property
    def remembered_head(self) -> Head | None:
        """What :meth:`witnessed` says, if it is in memory; any thread may ask.

        On PostgreSQL it is not: a process that has lost the lead may not know yet. On SQLite nobody takes it
        while the process lives.
        """
        return None if self._database.is_postgres else self._head

    def break_off(self) -> None:
        """See :meth:`Database.break_off`; any thread may call it."""
        self._database.break_off()

    def close(self) -> None:
        """Give the database back, and the lead."""
        self._database.close()

    @contextmanager
    def _change(self, name: str, actor: str) -> Iterator[_Change]:
        """One transaction with its audit entries; refused when another process has taken the lead."""
        with self._database.write(name) as tx:
            if self._lead is not None and _lead(tx) != self._lead:
                raise NotLeading()
            change = _Change(tx, self._signer, int(self._wall_clock() * 1000), actor, self._ours)
            yield change
        if change.head is not None:
            self._head = self._ours = change.head

    def _begin_log(self) -> None:
        with self._change("begin_log", "aggregator") as change:
            if _head(change.tx) != NOTHING:
                return  # another process was faster
            change.add("log.begun", "audit", schema=REVISIONS[-1], new=self._signer.public_key.hex())
            for table in (t for t in META.sorted_tables if t is not AUDIT):
                for row in change.select(sa.select(table).order_by(*table.primary_key)).all():
                    change.add("row.taken-over", _subject(table, row._mapping), row=row_digest(row))

    def lead(self) -> bool:
        """Try to become the one process that coordinates on this database; whether it is now.

        The lead ends with the process or its connection. Another one that takes it changes a number in the
        database, and every later change of this process is refused.
        """
        self.check_admin_key()
        if not self._database.try_lead():
            return False
        self._lead = None
        with self._change("lead", "aggregator") as change:
            number = change.raise_lead()
        self._lead = number
        return True

    def _go_on_leading(self, number: str) -> None:
        """If this process leads, it does so under the number that it has raised itself."""
        if self._lead is not None:
            self._lead = number

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
        """Keep a plan with its initial model version. Raises: AlreadyThere, StartTaken."""
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
            same = VERSIONS.c.version["model"].as_string() == first.model
            other = change.tx.scalar(sa.select(VERSIONS.c.plan).where(same).limit(1))
            if other is not None:
                raise StartTaken(plan=other)
            change.insert(PLANS, values, "plan.created")
            _publish(change, first, {})

    def plans(self, *, besides: Collection[str] = ()) -> list[tuple[Plan, bytes, bool]]:
        """Every plan but those named, oldest first, with the admin's signature and whether it is finished."""
        with self._database.read() as tx:
            new = [name for name in tx.scalars(_PLAN_NAMES) if name not in besides]
            wanted = sa.select(PLANS).where(PLANS.c.id.in_(new)).order_by(PLANS.c.created) if new else None
            rows = [] if wanted is None else tx.execute(wanted).all()
        return [(stored_plan(r.plan), r.admin_signature, r.finished) for r in rows]

    def plan_rows(self, plan: str | None = None) -> list[PlanRow]:
        """How far every plan is (or one of them), oldest first."""
        ended = ATTEMPTS.c.outcome.is_not(None)
        count = sa.select(sa.func.count()).where(ATTEMPTS.c.plan == PLANS.c.id, ended).scalar_subquery()
        wanted = sa.select(PLANS.c.id, PLANS.c.finished, count).order_by(PLANS.c.created)
        if plan is not None:
            wanted = wanted.where(PLANS.c.id == plan)
        with self._database.read() as tx:
            return [PlanRow(*row) for row in tx.execute(wanted)]

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

    def approval_counts(self) -> dict[str, int]:
        """Plan → how many approvals it has; plans without any are left out."""
        wanted = sa.select(APPROVALS.c.plan, sa.func.count()).group_by(APPROVALS.c.plan)
        with self._database.read() as tx:
            return {row[0]: row[1] for row in tx.execute(wanted)}

    def open_attempt(self, key: AttemptKey, *, kind: RoundKind, model: str, now: float) -> None:
        """A new attempt at a round."""
        values = {
            **key.where,
            "kind": kind.value,
            "model": model,
            "opened": now,
            "outcome": None,
            "report": None,
        }
        with self._change("open_attempt", "aggregator") as change:
            change.insert(ATTEMPTS, values, "attempt.opened", kind=kind.value, model=model)

    def add_event(
        self, key: AttemptKey, number: int, kind: str, body: bytes, *, actor: str = "aggregator"
    ) -> None:
        """One more message or closing of an attempt; the list of them is its state."""
        values = {**key.where, "number": number, "kind": kind, "body": body}
        with self._change("add_event", actor) as change:
            change.insert(EVENTS, values, "attempt.message", kind=kind, bytes=len(body))

    def events(self, key: AttemptKey, *, after: int = 0) -> list[tuple[str, bytes]]:
        """The messages and closings of an attempt, in order, without the first ``after``."""
        wanted = sa.select(EVENTS).where(*_at(EVENTS, key.where), EVENTS.c.number >= after)
        with self._database.read() as tx:
            rows = tx.execute(wanted.order_by(EVENTS.c.number)).all()
        return [(r.kind, r.body) for r in rows]

    def end_attempt(
        self,
        plan: str,
        report: AttemptReport,
        *,
        version: ModelVersion | None = None,
        state: Mapping[str, str] | None = None,
    ) -> None:
        """Close an attempt and, if it made one, publish the model version: both or neither.

        The events are dropped with it: they hold the shares of the last step.
        """
        key, outcome = AttemptKey(plan, report.round, report.attempt), report.outcome
        values = {"outcome": outcome, "report": report.stored()}
        with self._change("end_attempt", "aggregator") as change:
            change.forget_events(key)
            reason = report.reason
            change.update(ATTEMPTS, key.where, values, "attempt.ended", outcome=outcome, reason=reason)
            if version is not None:
                _publish(change, version, state or {})

    def attempts(
        self, plan: str, *, round_number: int | None = None, after: AttemptKey | None = None
    ) -> list[AttemptReport]:
        """Every attempt of a plan (or of one round of it, or later than one) that has ended, in order."""
        wanted = sa.select(ATTEMPTS).where(ATTEMPTS.c.plan == plan, ATTEMPTS.c.outcome.is_not(None))
        if round_number is not None:
            wanted = wanted.where(ATTEMPTS.c.round == round_number)
        if after is not None:
            same = (ATTEMPTS.c.round == after.round) & (ATTEMPTS.c.attempt > after.attempt)
            wanted = wanted.where((ATTEMPTS.c.round > after.round) | same)
        with self._database.read() as tx:
            rows = tx.execute(wanted.order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)).all()
        return [_report(row, row.outcome, row.report) for row in rows]

    def is_open(self, key: AttemptKey) -> bool:
        """Whether there is such an attempt that has not ended."""
        wanted = sa.select(ATTEMPTS.c.round).where(*_at(ATTEMPTS, key.where), ATTEMPTS.c.outcome.is_(None))
        with self._database.read() as tx:
            return tx.execute(wanted).first() is not None

    def progress(self, plan: str) -> Progress:
        """How far a plan has come; the long history behind it is counted and not read."""
        mine = ATTEMPTS.c.plan == plan
        with self._database.read() as tx:
            attempts = tx.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
            last = tx.execute(sa.select(sa.func.max(ATTEMPTS.c.round)).where(mine)).scalar_one()
            recent = [ATTEMPTS.c.round >= (last or 1) - 1, mine]  # the one that is open, and the one before
            rows = tx.execute(
                sa.select(ATTEMPTS).where(*recent).order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)
            ).all()
            newest = sa.select(VERSIONS).where(VERSIONS.c.plan == plan).order_by(VERSIONS.c.number.desc())
            version = _version(tx.execute(newest.limit(1)).one())
        ended = tuple(_report(row, row.outcome, row.report) for row in rows if row.outcome is not None)
        opened = next((_opened(row) for row in rows if row.outcome is None), None)
        return Progress(attempts - (opened is not None), ended, opened, version)

    def versions(self, plan: str, *, first: int = 0) -> list[tuple[ModelVersion, dict[str, str]]]:
        """The lineage of a plan's model from a number on, with the hashes of the optimiser's state."""
        wanted = sa.select(VERSIONS).where(VERSIONS.c.plan == plan, VERSIONS.c.number >= first)
        with self._database.read() as tx:
            rows = tx.execute(wanted.order_by(VERSIONS.c.number)).all()
        return [_version(r) for r in rows]

    def newest_version(self, plan: str) -> ModelVersion | None:
        """The last version of a plan's model; None if there is no such plan."""
        wanted = sa.select(VERSIONS).where(VERSIONS.c.plan == plan).order_by(VERSIONS.c.number.desc())
        with self._database.read() as tx:
            row = tx.execute(wanted.limit(1)).one_or_none()
        return None if row is None else _version(row)[0]

    def version(self, plan: str, number: int) -> ModelVersion | None:
        """One version of a plan's model."""
        wanted = sa.select(VERSIONS).where(VERSIONS.c.plan == plan, VERSIONS.c.number == number)
        with self._database.read() as tx:
            row = tx.execute(wanted).one_or_none()
        return None if row is None else _version(row)[0]

    def has_model(self, plan: str, model: str) -> bool:
        """Whether a version of this plan has this model."""
        named = VERSIONS.c.version["model"].as_string() == model
        with self._database.read() as tx:
            return (
                tx.execute(sa.select(VERSIONS.c.number).where(VERSIONS.c.plan == plan, named)).first()
                is not None
            )

    def restored(self, head: Head) -> None:
        """This database was put back from a backup whose log ended at ``head``: open attempts have failed.

        One in which masked vectors may have been sent is given up, for those are in no backup; the hospitals
        are asked for their signatures. An earlier one has ended. Whoever leads meanwhile loses the lead. The
        entry that says so is the first after the backup's, for a head of that number, or of a later one, may
        be known from the log that was lost.
        """
        wanted = sa.select(ATTEMPTS).where(ATTEMPTS.c.outcome.is_(None))
        with self._change("restored", "admin") as change:
            change.add("database.restored", "audit", head=head.hash.hex())
            lead = change.raise_lead()
            for row in change.select(wanted).all():
                key = _opened(row).key
                kinds = change.kinds(key)
                if GIVE_UP in kinds:
                    continue
                if kinds.count(CLOSE) >= len(EARLY):
                    given_up = {**key.where, "number": len(kinds), "kind": GIVE_UP, "body": RESTORED.encode()}
                    change.insert(EVENTS, given_up, "attempt.message", kind=GIVE_UP, bytes=len(RESTORED))
                    continue
                report = {"reason": RESTORED, "failed_in": EARLY[kinds.count(CLOSE)]}
                values = {"outcome": "failed", "report": _report(row, "failed", report).stored()}
                change.forget_events(key)
                change.update(ATTEMPTS, key.where, values, "attempt.ended", outcome="failed", reason=RESTORED)
        self._go_on_leading(lead)

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

    @property
    def signer(self) -> Identity:
        """The admin's identity."""
        return self._signer

    @property
    def admin_key(self) -> bytes:
        """The public key that signs the audit log."""
        return self._signer.public_key

    def check_admin_key(self) -> None:
        """Raises: WrongAdminKey unless the newest entry of the log is signed by this store's signer."""
        with self._database.read() as tx:
            head = _head(tx)
        if head != NOTHING:
            _check_signed(head, self.admin_key)

    def change_admin_key(self, new: Identity, *, replaced: bytes | None = None) -> int:
        """Let another key sign the log from the next entry on, and every plan anew. Approvals stay.

        Whoever leads meanwhile loses the lead.

        Args:
            replaced: the public key in force, if it is lost or stolen: it is not asked then, and every node
                raises an alarm. If left out the present signer hands over.
        Returns: the number of that entry.
        Raises: WrongAdminKey if another key signs the log.
        """
        with self._change("change_admin_key", "admin") as change:
            number = change.change_signer(new, replaced=replaced)
            lead = change.raise_lead()
            for name in change.tx.scalars(sa.select(PLANS.c.id).order_by(PLANS.c.created)).all():
                signature = new.sign("create-plan", bytes.fromhex(name))
                change.update(PLANS, {"id": name}, {"admin_signature": signature}, "plan.signed-again")
        self._signer = new
        self._go_on_leading(lead)
        return number

    def succession(self) -> tuple[HandOver, ...]:
        """The hand-overs since the last key that was replaced without its word, oldest first."""
        with self._database.read() as tx:
            numbers = tx.execute(_KEY_ENTRIES).scalar_one_or_none() or ""
            wanted = AUDIT.c.number.in_([int(n) for n in numbers.split()])
            changes = _key_changes(tx, wanted)
        shown: list[HandOver] = []
        for change in changes:
            shown = [*shown, change.shown()] if change.word else []
        return tuple(shown[-MOST_HAND_OVERS:])

    def key_changes(self) -> list[KeyChange]:
        """Every change of the admin key, from the log itself; :meth:`verify_log` checks them."""
        with self._database.read() as tx:
            return _key_changes(tx, sa.true())

    def recorded_key(self) -> bytes | None:
        """The public key that signs the log by what it tells; None if it does not tell."""
        changes = self.key_changes()
        return changes[-1].new if changes else next(map(first_key_told, self.entries()), None)

    def _first_key(self) -> bytes:
        """The key that signs entry 1: of all that the log names, the one that does."""
        first = next(self.entries(), None)
        if first is not None:
            for key in (first_key_told(first), *(change.old for change in self.key_changes())):
                with suppress(WrongAdminKey):
                    _check_signed(first.head, key or self.admin_key)
                    return key or self.admin_key
        return self.admin_key

    def check_file(self) -> None:
        """SQLite's own look at every page of the file. Raises: DamagedDatabase, StorageFailed."""
        self._database.check_file()

    def verify_log(self, heads: Iterable[Head] = ()) -> Head:
        """Check the whole audit log, and every row of every table against it; its head.

        Args:
            heads: that others have seen; the log must hold them.
        Raises: BadEntry, naming the first bad entry.
        """
        reckoning, last, signers = Reckoning(), NOTHING, Signers(self._first_key())
        for entry in checked(self.entries(), signers, heads=heads):
            reckoning.take(entry)
            last = entry.head
        with self._database.read() as tx:  # what was written meanwhile, and the tables, as of one moment
            for entry in checked(_entries(tx, last.number), signers, before=last):
                reckoning.take(entry)
                last = entry.head
            reckoning.compare(_rows(tx))
        if signers.present != self.admin_key:
            problem = "from it on another key signs than the admin key in this folder"
            raise BadEntry(number=signers.since, problem=problem)
        return last


def _version(row: sa.Row[Any]) -> tuple[ModelVersion, dict[str, str]]:
    return ModelVersion.model_validate(row.version), dict(row.state)


def _opened(row: sa.Row[Any]) -> OpenedAttempt:
    return OpenedAttempt(AttemptKey(row.plan, row.round, row.attempt), RoundKind(row.kind), row.model)


def _report(row: sa.Row[Any], outcome: str, told: Mapping[str, object] | None) -> AttemptReport:
    where = {"round": row.round, "attempt": row.attempt, "kind": row.kind, "outcome": outcome}
    return AttemptReport.model_validate({**where, **(told or {})})


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
    row = tx.execute(_NEWEST).first()
    return NOTHING if row is None else Head(*row)


def _check_signed(head: Head, key: bytes) -> None:
    try:
        head.check(key)
    except BadSignature as error:
        raise WrongAdminKey() from error


def _key_changes(tx: sa.Connection, which: sa.ColumnElement[bool]) -> list[KeyChange]:
    wanted = sa.select(AUDIT).where(which, AUDIT.c.action.in_(KEY_CHANGES)).order_by(AUDIT.c.number)
    changes = []
    for row in tx.execute(wanted):
        with suppress(BadEntry):  # the check of the whole log comes to it, and names the first that is bad
            changes.append(KeyChange.read(Entry(**row._mapping)))
    return changes


def _lead(tx: sa.Connection) -> str:
    return str(tx.execute(_LEAD).scalar_one())


def _hash(token: str) -> str:
    return hashlib.sha256(canonical(["enrol-token", token])).hexdigest()


# ---- who may ask: revocations, API tokens of people, and who may read which plan


class Role(StrEnum):
    """What a person may read. Nobody changes anything over the network but hospitals."""

    ADMIN = "admin"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    MONITOR = "monitor"


class UnknownPerson(Error):
    """Nobody of that name, or no such plan."""

    code = "unknown-person"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"Nobody called '{name}' and nothing of that kind is known here.",
            meaning="Nothing was changed.",
            remedy="See the names with 'medveil aggregator people list', the plans with 'study status'.",
        )


@dataclass(frozen=True)
class ApiToken:
    """What is kept of an API token: never the token itself."""

    id: str
    name: str
    role: str
    hash: str
    created: float
    expires: float
    revoked: float | None = None


class Register:
    """Who may ask: enrolled keys that are not revoked, API tokens, and the plans each researcher may read.

    Every request reads it afresh, so that a revocation by another process counts at once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def party(self, name: str) -> Party | None:
        """Somebody enrolled with a key, revoked or not."""
        with self._store._database.read() as tx:
            row = tx.execute(_PARTY, {"party": name}).one_or_none()
        return None if row is None else Party(row.name, row.role, row.public_key, row.revoked is not None)

    def opens(self, token: str, name: str) -> bool:
        """Whether there is such an enrolment token for this name; it may be used up or expired."""
        wanted = sa.select(TOKENS.c.name).where(TOKENS.c.hash == _hash(token))
        with self._store._database.read() as tx:
            return tx.scalars(wanted).one_or_none() == name

    def enrolled_keys(self) -> list[Party]:
        """Everybody enrolled with a key, by name."""
        wanted = sa.select(PARTIES, REVOCATIONS.c.revoked).outerjoin(
            REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name
        )
        with self._store._database.read() as tx:
            rows = tx.execute(wanted.order_by(PARTIES.c.name)).all()
        return [Party(r.name, r.role, r.public_key, r.revoked is not None) for r in rows]

    def revoke(self, name: str, *, now: float) -> None:
        """Refuse this name's key and API tokens from now on, for ever. Raises: UnknownPerson."""
        mine = sa.select(API_TOKENS.c.id).where(API_TOKENS.c.name == name, API_TOKENS.c.revoked.is_(None))
        with self._store._change("revoke", "admin") as change:
            known = change.select(sa.select(PARTIES.c.name).where(PARTIES.c.name == name)).first()
            done = change.select(sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == name)).first()
            tokens = change.tx.scalars(mine).all()
            if known is None and not tokens:
                raise UnknownPerson(name=name)
            for token in tokens:
                change.update(API_TOKENS, {"id": token}, {"revoked": now}, "api-token.revoked")
            plans = change.tx.scalars(sa.select(READERS.c.plan).where(READERS.c.name == name, READERS.c.may))
            for plan in plans.all():
                change.update(READERS, {"plan": plan, "name": name}, {"may": False}, "reader.withdrawn")
            if known is not None and done is None:
                change.insert(REVOCATIONS, {"name": name, "revoked": now}, "party.revoked")

    def add_api_token(self, token: ApiToken) -> None:
        """Keep a new token's hash. Raises: AlreadyThere if the name has another role or is revoked."""
        with self._store._change("add_api_token", "admin") as change:
            tx = change.tx
            roles = set(tx.scalars(sa.select(PARTIES.c.role).where(PARTIES.c.name == token.name)))
            roles |= set(tx.scalars(sa.select(API_TOKENS.c.role).where(API_TOKENS.c.name == token.name)))
            gone = tx.execute(sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == token.name)).first()
            if roles - {token.role} or gone is not None:
                raise AlreadyThere(thing=f"somebody called '{token.name}' with another role, or revoked")
            change.insert(API_TOKENS, asdict(token), "api-token.added", role=token.role)

    def api_token(self, token_id: str) -> ApiToken | None:
        """A token by its id."""
        with self._store._database.read() as tx:
            row = tx.execute(sa.select(API_TOKENS).where(API_TOKENS.c.id == token_id)).one_or_none()
        return None if row is None else ApiToken(**row._mapping)

    def api_tokens(self) -> list[ApiToken]:
        """Every token, by name and age."""
        wanted = sa.select(API_TOKENS).order_by(API_TOKENS.c.name, API_TOKENS.c.created)
        with self._store._database.read() as tx:
            return [ApiToken(**r._mapping) for r in tx.execute(wanted)]

    def revoke_api_token(self, token_id: str, *, name: str, now: float) -> None:
        """End one token of a person. Raises: UnknownPerson."""
        known = sa.select(API_TOKENS.c.id).where(API_TOKENS.c.id == token_id, API_TOKENS.c.name == name)
        with self._store._change("revoke_api_token", "admin") as change:
            if change.select(known).first() is None:
                raise UnknownPerson(name=token_id)
            change.update(API_TOKENS, {"id": token_id}, {"revoked": now}, "api-token.revoked")

    def researchers(self) -> list[str]:
        """Names with a key or a token of the role researcher that is not revoked."""
        found = {p.name for p in self.enrolled_keys() if p.role == "researcher" and not p.revoked}
        found |= {t.name for t in self.api_tokens() if t.role == "researcher" and t.revoked is None}
        return sorted(found)

    def grant(self, plan: str, name: str) -> None:
        """Let a researcher read a plan. Raises: UnknownPerson."""
        if name not in self.researchers():
            raise UnknownPerson(name=name)
        key = {"plan": plan, "name": name}
        with self._store._change("grant", "admin") as change:
            if change.select(sa.select(PLANS.c.id).where(PLANS.c.id == plan)).first() is None:
                raise UnknownPerson(name=plan)
            row = change.select(sa.select(READERS).where(*_at(READERS, key))).one_or_none()
            if row is None:
                change.insert(READERS, {**key, "may": True}, "reader.granted")
            elif not row.may:
                change.update(READERS, key, {"may": True}, "reader.granted")

    def withdraw(self, plan: str, name: str) -> None:
        """The opposite of :meth:`grant`. Raises: UnknownPerson if there was nothing to withdraw."""
        key = {"plan": plan, "name": name}
        with self._store._change("withdraw", "admin") as change:
            row = change.select(sa.select(READERS).where(*_at(READERS, key))).one_or_none()
            if row is None or not row.may:
                raise UnknownPerson(name=name)
            change.update(READERS, key, {"may": False}, "reader.withdrawn")

    def plan_ids(self) -> list[str]:
        """Every plan."""
        with self._store._database.read() as tx:
            return list(tx.scalars(sa.select(PLANS.c.id)))

    def readable(self, name: str) -> set[str]:
        """The plans that this researcher may read."""
        with self._store._database.read() as tx:
            return set(tx.scalars(sa.select(READERS.c.plan).where(READERS.c.name == name, READERS.c.may)))
