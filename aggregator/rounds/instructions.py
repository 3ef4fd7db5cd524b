"""What hospitals are told: the plans that name them, and what each of them is to do now."""

from __future__ import annotations

from dataclasses import replace

from aggregator.auditlog import Head
from aggregator.rounds.runs import Run, Runs
from aggregator.storage.ledgerends import LedgerEnds
from medveil.messages import AuditHead, PlanOffer, PlanOffers, Work
from medveil.rounds import Phase
from privacy.secagg import server


class Instructions:
    """Answers polls, on the coordinator's thread but where a method says otherwise."""

    def __init__(self, runs: Runs, ledger_ends: LedgerEnds) -> None:
        self._runs, self._ledger_ends = runs, ledger_ends
        self._succession = runs.store.log.succession()  # it changes only while nobody leads
        self.witnessed = 0
        """The newest entry of the audit log whose hash a hospital was given to keep."""

    def offers(self, name: str, *, words: bool = False) -> PlanOffers:
        """Every plan whose roster names this hospital, but those that the admin has withdrawn.

        Args:
            words: tell what the admin has said of plans; nodes of earlier versions do not understand it.
        """
        self._runs.reload()
        store = self._runs.store
        mine = [run for run in self._runs.all() if run.plan.member(name) is not None]
        return PlanOffers(
            offers=tuple(
                PlanOffer(
                    plan=run.plan.model_dump_json(),
                    admin_key=store.transactions.admin_key,
                    admin_signature=run.admin_signature,
                    approvals=dict(run.approvals),
                )
                for run in mine
                if run.directive is None or run.directive.order != "withdraw"
            ),
            head=self._as_sent(store.transactions.witnessed()),
            ledger=self._ledger_ends.newest(name),
            directives=tuple(run.told for run in mine if words and run.told is not None),
        )

    def work(self, plan_id: str, name: str, *, word: int | None = None) -> Work:
        """What this hospital is to do now. Raises: NotFound.

        Args:
            word: the time (ms) of the admin's word that it knows; None if it would not understand one, nor
                the proof of the version that an attempt starts from.
        """
        work, run = self._work(plan_id, name), self._runs.of(plan_id, name)
        more: dict[str, object] = {}
        if word is None:
            return work
        if run.told is not None and run.told.time_ms > word:
            more["directive"] = run.told
        if work.phase == Phase.ADVERTISE and run.proved:
            more |= {"version": run.newest[0].number, "proof": run.proved}
        return work.model_copy(update=more) if more else work

    def _work(self, plan_id: str, name: str) -> Work:
        run = self._runs.of(plan_id, name)
        attempt, member = run.attempt, run.plan.member(name)
        head = self._as_sent(self._runs.store.transactions.witnessed())
        if attempt is None or member is None:
            return _idle(run, run.mark, head)
        state = attempt.state
        away = {m.index for m in run.plan.roster if m.name in attempt.sitting_out}
        asked = server.asked(state, member.index, away=away)
        state = state if asked is state.phase else replace(state, phase=asked)
        view = server.view(state, member.index)
        return Work(
            mark=run.mark,
            status="running" if member.index in state.invited else "waiting",
            round=attempt.key.round,
            attempt=attempt.key.attempt,
            kind=attempt.kind.value,
            phase=state.phase.value,
            model=state.setting.context.model,
            payload=b"" if view is None else view.to_bytes(),
            head=head,
        )

    def mark(self, plan_id: str) -> str | None:
        """A plan's present state in one word; None for a plan unknown to memory. Any thread may ask."""
        run = self._runs.get(plan_id)
        return None if run is None else run.mark

    def is_news(self, plan_id: str, name: str, mark: str) -> bool:
        """Whether :meth:`work` would tell something new to a hospital that has seen this mark.

        While a sum is unmasked there is nothing to do. Any thread may ask.
        """
        run = self._runs.get(plan_id)
        if run is None or run.plan.member(name) is None:
            return True
        attempt = run.attempt
        unmasking = attempt is not None and attempt.state.phase is Phase.DONE
        return run.mark != mark and not unmasking

    def still_idle(self, plan_id: str, name: str, mark: str) -> Work | None:
        """What :meth:`work` would say if no round is open and that is no news; any thread may ask."""
        run, head = self._runs.get(plan_id), self._runs.store.transactions.remembered_head
        if run is None or run.attempt is not None or head is None or self.is_news(plan_id, name, mark):
            return None
        return _idle(run, mark, self._as_sent(head))

    def _as_sent(self, head: Head) -> AuditHead:
        """The audit log's head, for the hospital to keep."""
        self.witnessed = max(self.witnessed, head.number)
        return AuditHead(
            number=head.number,
            hash=head.hash,
            key=self._runs.store.transactions.admin_key,
            signature=head.signature,
            succession=self._succession,
        )


def _idle(run: Run, mark: str, head: AuditHead) -> Work:
    return Work(mark=mark, status="finished" if run.finished else "waiting", head=head)
