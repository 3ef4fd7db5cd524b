"""One door to everything that is seen of an aggregator; commands and pages hold one and show what it gives.

Each answer reads a bounded number of rows, however long the history is. Any thread may ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aggregator.errors import NotFound
from aggregator.rounds.status import PlanReader
from aggregator.storage.history import Course, Tried
from aggregator.storage.store import Store
from aggregator.watching.cost import Account, cost_of
from aggregator.watching.hospitals import OfLate, hospitals_of
from aggregator.watching.live import is_fresh
from aggregator.watching.studies import (
    changed_members,
    is_evaluated,
    newest_figure,
    roster_of,
    round_seen,
    state_of,
)
from aggregator.watching.timeline import timeline_of
from aggregator.watching.values import (
    OVER,
    HospitalSeen,
    Live,
    RoundsPage,
    StudyLine,
    StudySeen,
    Timeline,
    WaitsFor,
)
from aggregator.watching.waiting import roster_waits_for, waits_for
from aggregator.watching.words import sentence
from medveil.plan import Plan
from medveil.reports import AttemptReport, Directive, PlanStatus
from medveil.rounds import AttemptKey
from medveil.spoken import words_of

ENDED_BEFORE = ("ended-early", "stopped", "withdrawn")
"""States of studies of which no round comes any more, though more were planned."""
OF_LATE = 50
"""Attempts from which costs and rounds taken are reckoned."""
LONGEST_PAGE = 200
ENTRIES = 2_000
"""Of the audit log, in which a hospital is looked for that nobody has told of."""


class Watching:
    """What is seen of an aggregator.

    Args:
        live: what the process that leads knows, or has told last; None if nothing.
        account: reckons epsilon beyond what the store tells; None where no accountant may run.
        now: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        live: Callable[[], Live | None] = lambda: None,
        reader: PlanReader | None = None,
        account: Account | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = self._store = store
        self._live, self._account, self._now = live, account, now
        self._reader = reader or PlanReader(store)
        self._courses: dict[str, tuple[AttemptKey, Course]] = {}

    # ---- studies

    def studies(self) -> tuple[StudyLine, ...]:
        """Every study, the newest first."""
        created = self._store.history.created()
        lines = [self._line(line.plan, created) for line in self._reader.lines()]
        return tuple(sorted(lines, key=lambda one: -one.created))

    def study(self, plan_id: str, *, account: Account | None = None) -> StudySeen:
        """One study. Raises: NotFound.

        Args:
            account: reckons epsilon, if not the one of this watching.
        """
        plan, live, now = self._reader.plan(plan_id), self.fresh(), self._now()
        present, ended = self._reader.present(plan_id)
        tried = self._store.history.newest(plan_id, limit=OF_LATE + 1)
        reports = _ended(tried)
        evaluated = is_evaluated(reports)
        newest, _ = self._store.plans.progress(plan_id).newest
        done = newest.number + (1 if evaluated else 0)
        words, (joins, leaves) = self.directives(plan_id), changed_members(plan)
        waits = self._waits_for(plan, present, tried, live)
        line = self._line(plan_id, self._store.history.created(), present=(present, ended), tried=tried)
        return StudySeen(
            **dict(line),
            words=words_of(plan.hash),
            description=plan.study.description,
            task=plan.study.task,
            roster=roster_of(plan, present, live),
            joins=joins,
            leaves=leaves,
            approvals=len(present.approved),
            approvals_needed=plan.approvals_needed,
            rounds_done=done,
            rounds_left=0 if line.state in OVER else line.rounds - done,
            version=newest.number,
            model=newest.model,
            cost=cost_of(
                plan,
                reports,
                ended=ended,
                trained=newest.number,
                evaluated=evaluated,
                account=account or self._account,
                over=line.state in ENDED_BEFORE and present.open is None,
            ),
            figure=newest_figure(plan, reports),
            parent=plan.study.model.parent,
            directives=words,
            waits_for=waits,
            sentence=sentence(waits),
            as_of=now,
        )

    def waits_for(self, plan_id: str) -> WaitsFor:
        """What a study waits for now. Raises: NotFound."""
        present, _ = self._reader.present(plan_id)
        tried = self._store.history.newest(plan_id, limit=2)
        return self._waits_for(self._reader.plan(plan_id), present, tried, self.fresh())

    def directives(self, plan_id: str) -> tuple[Directive, ...]:
        """What the admin has said of a study, the newest first."""
        return self._store.directives.of(plan_id)

    # ---- rounds

    def timeline(self, plan_id: str, number: int = 0, attempt: int = 0) -> Timeline:
        """One attempt: the one that is open, or the newest, unless another one is named.

        Args:
            number: the round; 0 for the newest. attempt: 0 for the newest of that round.
        Raises: NotFound if there is no such attempt.
        """
        plan, history = self._reader.plan(plan_id), self._store.history
        if number and attempt:
            tried = history.attempt(AttemptKey(plan_id, number, attempt))
        elif number:
            tried = history.last_attempt(plan_id, number)
        else:
            tried = next(iter(history.newest(plan_id, limit=1)), None)
        if tried is None:
            raise NotFound()
        return self._timeline(plan, tried, self._reader.present(plan_id)[0], self.fresh())

    def rounds(
        self, plan_id: str, *, limit: int = OF_LATE, before: tuple[int, int] | None = None
    ) -> RoundsPage:
        """Attempts that have ended, the newest first. Raises: NotFound.

        Args:
            limit: at most 200. before: as :attr:`RoundsPage.before` of the page before has it.
        """
        plan, limit = self._reader.plan(plan_id), max(1, min(limit, LONGEST_PAGE))
        tried = self._store.history.newest(plan_id, limit=limit + 1, before=before)
        seen = [round_seen(plan, one) for one in tried[:limit]]
        last = tried[limit - 1].key if len(tried) > limit else None
        return RoundsPage(
            rounds=tuple(one for one in seen if one is not None),
            before=None if last is None else (last.round, last.attempt),
        )

    # ---- hospitals

    def hospitals(self) -> tuple[HospitalSeen, ...]:
        """Every hospital that is enrolled, by name."""
        known, studies = self._live(), []
        parties = self._store.register.enrolled_keys()
        lines = self._reader.lines()
        for line in lines:
            plan, is_last = self._reader.plan(line.plan), line is lines[-1]
            approved = frozenset(self._store.plans.approvals(line.plan))
            counts = is_last or not line.finished  # of those that are over only the newest
            tried = self._store.history.newest(line.plan, limit=OF_LATE) if counts else []
            studies.append(OfLate(plan, line.finished, approved, _ended(tried)))
        head = self._store.history.newest_entry()
        last = self._store.past.last_messages(before=head + 1, window=ENTRIES)
        return hospitals_of(
            parties,
            self._store.history.enrolled(),
            studies,
            known,
            fresh=is_fresh(known, self._now()),
            last_entries={name: time_ms / 1000 for name, (_, time_ms) in last.items()},
            now=self._now(),
        )

    # ---- behind them

    def fresh(self) -> Live | None:
        """What the leading process has told, if that was of late."""
        known = self._live()
        return known if is_fresh(known, self._now()) else None

    def _line(
        self,
        plan_id: str,
        created: dict[str, float],
        *,
        present: tuple[PlanStatus, int] | None = None,
        tried: list[Tried] | None = None,
    ) -> StudyLine:
        plan = self._reader.plan(plan_id)
        status, ended = present or self._reader.present(plan_id)
        tried = self._store.history.newest(plan_id, limit=2) if tried is None else tried
        word, evaluated = self._word(plan_id), is_evaluated(_ended(tried))
        return StudyLine(
            plan=plan_id,
            name=plan.study.name,
            state=state_of(plan, status, word, evaluated=evaluated, begun=self._has_begun(plan)),
            round=tried[0].key.round if tried else 0,
            rounds=plan.study.training.rounds + 1,
            attempts=ended,
            created=created.get(plan_id, 0.0),
            epoch=plan.epoch,
            follows=None if plan.before is None else plan.before.id,
            followed_by=status.followed_by,
        )

    def _word(self, plan_id: str) -> Directive | None:
        """The admin's last."""
        return next(iter(self.directives(plan_id)), None)

    def _has_begun(self, plan: Plan) -> bool:
        """Whether its roster works, or has worked: an amended plan takes over with a model."""
        return plan.before is None or self._store.plans.newest_version(plan.id) is not None

    def _waits_for(self, plan: Plan, present: PlanStatus, tried: list[Tried], live: Live | None) -> WaitsFor:
        if present.followed_by is not None:
            after = self._reader.plan(present.followed_by)
            rounds, known = plan.study.training.rounds + 1, live is not None
            return WaitsFor(why="amended", epoch=after.epoch, other=after.id, rounds=rounds, live_known=known)
        word = self._word(plan.id)
        if plan.before is not None and not (word is not None and word.halts) and not self._has_begun(plan):
            halting = self._word(plan.before.id)
            return roster_waits_for(plan, present, live, word=halting, now=self._now())
        opened = tried[0] if tried and tried[0].report is None else None
        last = next((one for one in tried if one.report is not None), None)
        over = 0 if last is None or last.report is None else last.key.round - (not last.report.done)
        return waits_for(
            plan,
            present,
            None if opened is None else self._timeline(plan, opened, present, live),
            live,
            word=word,
            last_round=over,
            ended=None if is_evaluated(_ended(tried)) else "" if last is None else _failed_by(last),
            now=self._now(),
        )

    def _timeline(self, plan: Plan, tried: Tried, present: PlanStatus, live: Live | None) -> Timeline:
        course, is_open = self._course(tried), tried.report is None
        opened = present.open if is_open else None
        return timeline_of(plan, tried, course, opened, live, now=self._now())

    def _course(self, tried: Tried) -> Course | None:
        """The log's entries of an attempt; of the one that is open only what is new is read."""
        key, (known_key, known) = tried.key, self._courses.get(tried.key.plan, (None, None))
        if known is not None and known_key == key and known.ended is None:
            course: Course | None = self._store.history.course_since(key, known)
        else:
            course = self._store.history.course(key, tried.opened)
        if course is not None and tried.report is None:
            self._courses[key.plan] = key, course
        return course


def _failed_by(tried: Tried) -> str:
    return "" if tried.report is None else tried.report.reason or ""


def _ended(tried: list[Tried]) -> list[AttemptReport]:
    return [one.report for one in tried if one.report is not None]
