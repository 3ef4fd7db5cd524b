"""Plans with their approvals, attempts, messages and model versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from aggregator.auditlog import Detail, Head
from aggregator.storage.directives import HaltedByAdmin, is_halted
from aggregator.storage.editions import Edition
from aggregator.storage.tables import (
    APPROVALS,
    ATTEMPTS,
    DIRECTIVES,
    EVENTS,
    PLANS,
    READERS,
    REFUSALS,
    VERSIONS,
    at,
)
from aggregator.storage.transactions import AlreadyThere, Change, Transactions
from medveil.errors import Error
from medveil.messages import Refusal
from medveil.plan import Plan, stored_plan
from medveil.reports import AttemptReport, HospitalsRefusal
from medveil.rounds import EARLY, AttemptKey, ModelVersion, RoundKind
from medveil.spoken import named

CLOSE, GIVE_UP, RELAYED = "close", "give-up", "relayed"
"""Events beside the messages: the end of a phase, of the hope that an attempt succeeds by itself, and the
uploads of a region that came as one sum."""
RESTORED = "restored"
"""Why an attempt failed that was open in a backup: its masked vectors are in none."""


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
    begun: bool = True
    """Whether it has a model of its own; an amended plan has none before it takes over."""


_PLAN_NAMES = sa.select(PLANS.c.id)
"""Made once: building a statement takes longer than running it."""


class Plans:
    """Every plan, and how far it has come. Each method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def add(self, plan: Plan, signature: bytes, first: ModelVersion, now: float) -> None:
        """Keep a plan with its initial model version. Raises: AlreadyThere, StartTaken."""
        with self._transactions.change("add_plan", "admin") as change:
            _check_new(change, plan)
            same = VERSIONS.c.version["model"].as_string() == first.model
            other = change.select(sa.select(VERSIONS.c.plan).where(same).limit(1)).scalar()
            if other is not None:
                raise StartTaken(plan=other)
            _insert(change, plan, signature, now, "plan.created")
            _publish(change, first, {})

    def add_amended(self, plan: Plan, signature: bytes, now: float) -> None:
        """Keep a plan that amends another one; it has no model before it takes over. Raises: AlreadyThere.

        Whoever may read the plan before it may read this one.
        """
        with self._transactions.change("add_amended", "admin") as change:
            _check_new(change, plan)
            before = "" if plan.before is None else plan.before.id
            _insert(change, plan, signature, now, "plan.amendment", amends=before)
            readers = sa.select(READERS).where(READERS.c.plan == before, READERS.c.may)
            for row in change.select(readers.order_by(READERS.c.name)).all():
                reader = {"plan": plan.id, "name": row.name, "may": True}
                change.insert(READERS, reader, "reader.granted")

    def take_over(self, before: str, version: ModelVersion, state: Mapping[str, str]) -> None:
        """An amended plan goes on where the plan before it ends: both, or neither.

        Args:
            version: the newest one of the plan before it, as the first one of the amended plan.
        Raises: HaltedByAdmin.
        """
        with self._transactions.change("take_over", "aggregator") as change:
            if is_halted(change, before) or is_halted(change, version.plan):
                raise HaltedByAdmin()
            change.update(PLANS, {"id": before}, {"finished": True}, "plan.amended", by=version.plan)
            _publish(change, version, state)

    def all(self, *, besides: Collection[str] = ()) -> list[tuple[Plan, bytes, bool]]:
        """Every plan but those named, oldest first, with the admin's signature and whether it is finished."""
        with self._transactions.read() as tx:
            new = [name for name in tx.scalars(_PLAN_NAMES) if name not in besides]
            wanted = sa.select(PLANS).where(PLANS.c.id.in_(new)).order_by(PLANS.c.created) if new else None
            rows = [] if wanted is None else tx.execute(wanted).all()
        return [(stored_plan(r.plan), r.admin_signature, r.finished) for r in rows]

    def edition(self) -> Edition | None:
        """Of all that other processes give a coordinator to do; None where only reading tells.

        Plans, approvals and refusals, and the admin's words.
        """
        return self._transactions.edition_asked(PLANS, APPROVALS, REFUSALS, DIRECTIVES)

    def rows(self, plan: str | None = None) -> list[PlanRow]:
        """How far every plan is (or one of them), oldest first."""
        ended = ATTEMPTS.c.outcome.is_not(None)
        count = sa.select(sa.func.count()).where(ATTEMPTS.c.plan == PLANS.c.id, ended).scalar_subquery()
        wanted = sa.select(PLANS.c.id, PLANS.c.finished, count).order_by(PLANS.c.created)
        if plan is not None:
            wanted = wanted.where(PLANS.c.id == plan)
        with self._transactions.read() as tx:
            return [PlanRow(*row) for row in tx.execute(wanted)]

    def finish(self, plan: str) -> None:
        """No more rounds."""
        with self._transactions.change("finish_plan", "aggregator") as change:
            change.update(PLANS, {"id": plan}, {"finished": True}, "plan.finished")

    def add_approval(self, plan: str, name: str, signature: bytes) -> None:
        """Keep a checked approval; Ed25519 is deterministic, so a repeat is the same row."""
        values = {"plan": plan, "name": name, "signature": signature}
        key = {"plan": plan, "name": name}
        with self._transactions.change("add_approval", name) as change:
            known = sa.select(APPROVALS.c.name).where(*at(APPROVALS, key))
            if change.select(known).first() is None:
                change.insert(APPROVALS, values, "plan.approved")
            refused = sa.select(REFUSALS.c.name).where(*at(REFUSALS, key), REFUSALS.c.stands)
            if change.select(refused).first() is not None:
                change.update(REFUSALS, key, {"stands": False}, "plan.approved-again")

    def add_refusal(self, plan: str, name: str, told: Refusal, now: float) -> None:
        """Keep a hospital's checked word that it takes no part: its approval counts no more."""
        key, said = {"plan": plan, "name": name}, {"kind": told.kind, "reason": told.reason}
        values = {**key, **said, "signature": told.signature, "time": now, "stands": True}
        with self._transactions.change("add_refusal", name) as change:
            before = change.select(sa.select(REFUSALS).where(*at(REFUSALS, key))).first()
            if before is None:
                change.insert(REFUSALS, values, f"plan.{told.kind}", reason=told.reason)
            elif not before.stands or before.signature != told.signature:
                change.update(REFUSALS, key, values, f"plan.{told.kind}", reason=told.reason)

    def refusals(self, plan: str) -> dict[str, HospitalsRefusal]:
        """The hospitals that take no part in a plan, and why."""
        wanted = sa.select(REFUSALS).where(REFUSALS.c.plan == plan, REFUSALS.c.stands)
        with self._transactions.read() as tx:
            rows = tx.execute(wanted.order_by(REFUSALS.c.name)).all()
        return {
            r.name: HospitalsRefusal(hospital=r.name, kind=r.kind, reason=r.reason, at=r.time) for r in rows
        }

    def approvals(self, plan: str) -> dict[str, bytes]:
        """Hospital → signature, of those who have not taken it back."""
        wanted = sa.select(APPROVALS).where(APPROVALS.c.plan == plan, _stands())
        with self._transactions.read() as tx:
            rows = tx.execute(wanted).all()
        return {r.name: r.signature for r in rows}

    def approval_counts(self) -> dict[str, int]:
        """Plan → how many approvals it has; plans without any are left out."""
        wanted = sa.select(APPROVALS.c.plan, sa.func.count()).where(_stands()).group_by(APPROVALS.c.plan)
        with self._transactions.read() as tx:
            return {row[0]: row[1] for row in tx.execute(wanted)}

    def open_attempt(self, key: AttemptKey, *, kind: RoundKind, model: str, now: float) -> None:
        """A new attempt at a round. Raises: HaltedByAdmin."""
        values = {
            **key.where,
            "kind": kind.value,
            "model": model,
            "opened": now,
            "outcome": None,
            "report": None,
        }
        with self._transactions.change("open_attempt", "aggregator") as change:
            if is_halted(change, key.plan):  # another process may have written that a moment ago
                raise HaltedByAdmin()
            change.insert(ATTEMPTS, values, "attempt.opened", kind=kind.value, model=model)

    def add_event(
        self, key: AttemptKey, number: int, kind: str, body: bytes, *, actor: str = "aggregator"
    ) -> None:
        """One more message or closing of an attempt; the list of them is its state."""
        values = {**key.where, "number": number, "kind": kind, "body": body}
        with self._transactions.change("add_event", actor) as change:
            change.insert(EVENTS, values, "attempt.message", kind=kind, bytes=len(body))

    def events(self, key: AttemptKey, *, after: int = 0) -> list[tuple[str, bytes]]:
        """The messages and closings of an attempt, in order, without the first ``after``."""
        wanted = sa.select(EVENTS).where(*at(EVENTS, key.where), EVENTS.c.number >= after)
        with self._transactions.read() as tx:
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
        with self._transactions.change("end_attempt", "aggregator") as change:
            change.forget(EVENTS, key.where)
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
        with self._transactions.read() as tx:
            rows = tx.execute(wanted.order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)).all()
        return [report_in(row, row.outcome, row.report) for row in rows]

    def is_open(self, key: AttemptKey) -> bool:
        """Whether there is such an attempt that has not ended."""
        wanted = sa.select(ATTEMPTS.c.round).where(*at(ATTEMPTS, key.where), ATTEMPTS.c.outcome.is_(None))
        with self._transactions.read() as tx:
            return tx.execute(wanted).first() is not None

    def progress(self, plan: str) -> Progress:
        """How far a plan has come; the long history behind it is counted and not read.

        Of an amended plan that has no version of its own yet the newest one of the plan before it is told.
        """
        mine = ATTEMPTS.c.plan == plan
        with self._transactions.read() as tx:
            attempts = tx.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
            last = tx.execute(sa.select(sa.func.max(ATTEMPTS.c.round)).where(mine)).scalar_one()
            recent = [ATTEMPTS.c.round >= (last or 1) - 1, mine]  # the one that is open, and the one before
            rows = tx.execute(
                sa.select(ATTEMPTS).where(*recent).order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)
            ).all()
            row = tx.execute(_newest_of(plan)).one_or_none()
            waits = tx.scalar(sa.select(PLANS.c.plan).where(PLANS.c.id == plan)) if row is None else None
        if row is None:
            before = None if waits is None else stored_plan(waits).before
            if before is None:
                raise LookupError(plan)
            return replace(self.progress(before.id), ended=0, recent=(), opened=None, begun=False)
        version = _version(row)
        ended = tuple(report_in(row, row.outcome, row.report) for row in rows if row.outcome is not None)
        opened = next((_opened(row) for row in rows if row.outcome is None), None)
        return Progress(attempts - (opened is not None), ended, opened, version)

    def versions(self, plan: str, *, first: int = 0) -> list[tuple[ModelVersion, dict[str, str]]]:
        """The lineage of a plan's model from a number on, with the hashes of the optimiser's state."""
        wanted = sa.select(VERSIONS).where(VERSIONS.c.plan == plan, VERSIONS.c.number >= first)
        with self._transactions.read() as tx:
            rows = tx.execute(wanted.order_by(VERSIONS.c.number)).all()
        return [_version(r) for r in rows]

    def newest_version(self, plan: str) -> ModelVersion | None:
        """The last version of a plan's model; None if there is no such plan."""
        with self._transactions.read() as tx:
            row = tx.execute(_newest_of(plan)).one_or_none()
        return None if row is None else _version(row)[0]

    def version(self, plan: str, number: int) -> ModelVersion | None:
        """One version of a plan's model."""
        wanted = sa.select(VERSIONS).where(VERSIONS.c.plan == plan, VERSIONS.c.number == number)
        with self._transactions.read() as tx:
            row = tx.execute(wanted).one_or_none()
        return None if row is None else _version(row)[0]

    def has_model(self, plan: str, model: str) -> bool:
        """Whether a version of this plan has this model."""
        named = VERSIONS.c.version["model"].as_string() == model
        with self._transactions.read() as tx:
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
        with self._transactions.change("restored", "admin") as change:
            change.add("database.restored", "audit", head=head.hash.hex())
            change.raise_lead()
            for row in change.select(wanted).all():
                key = _opened(row).key
                kinds = _kinds(change, key)
                if GIVE_UP in kinds:
                    continue
                if kinds.count(CLOSE) >= len(EARLY):
                    given_up = {**key.where, "number": len(kinds), "kind": GIVE_UP, "body": RESTORED.encode()}
                    change.insert(EVENTS, given_up, "attempt.message", kind=GIVE_UP, bytes=len(RESTORED))
                    continue
                report = {"reason": RESTORED, "failed_in": EARLY[kinds.count(CLOSE)]}
                values = {"outcome": "failed", "report": report_in(row, "failed", report).stored()}
                change.forget(EVENTS, key.where)
                change.update(ATTEMPTS, key.where, values, "attempt.ended", outcome="failed", reason=RESTORED)


def _newest_of(plan: str) -> sa.Select[Any]:
    return sa.select(VERSIONS).where(VERSIONS.c.plan == plan).order_by(VERSIONS.c.number.desc()).limit(1)


def _stands() -> sa.ColumnElement[bool]:
    """Of an approval: its hospital has not taken it back."""
    same = (REFUSALS.c.plan == APPROVALS.c.plan) & (REFUSALS.c.name == APPROVALS.c.name)
    return ~sa.exists().where(same, REFUSALS.c.stands)


def _kinds(change: Change, key: AttemptKey) -> list[str]:
    """The kinds of an attempt's messages and closings, in order."""
    rows = sa.select(EVENTS.c.kind).where(*at(EVENTS, key.where)).order_by(EVENTS.c.number)
    return list(change.select(rows).scalars())


def _version(row: sa.Row[Any]) -> tuple[ModelVersion, dict[str, str]]:
    return ModelVersion.model_validate(row.version), dict(row.state)


def _opened(row: sa.Row[Any]) -> OpenedAttempt:
    return OpenedAttempt(AttemptKey(row.plan, row.round, row.attempt), RoundKind(row.kind), row.model)


def report_in(row: sa.Row[Any], outcome: str, told: Mapping[str, object] | None) -> AttemptReport:
    """The report in an attempt's row."""
    where = {"round": row.round, "attempt": row.attempt, "kind": row.kind, "outcome": outcome}
    return AttemptReport.model_validate({**where, **(told or {})})


def _check_new(change: Change, plan: Plan) -> None:
    """Raises: AlreadyThere."""
    if change.select(sa.select(PLANS.c.id).where(PLANS.c.id == plan.id)).first():
        raise AlreadyThere(thing="this exact plan")


def _insert(change: Change, plan: Plan, signature: bytes, now: float, action: str, **details: Detail) -> None:
    values = {
        "id": plan.id,
        "plan": plan.model_dump_json(),
        "admin_signature": signature,
        "created": now,
        "finished": False,
    }
    change.insert(PLANS, values, action, **details)


def _publish(change: Change, version: ModelVersion, state: Mapping[str, str]) -> None:
    values = {
        "plan": version.plan,
        "number": version.number,
        "version": version.model_dump(mode="json"),
        "state": dict(state),
    }
    change.insert(VERSIONS, values, "version.published", model=version.model)
