"""Whether this node may start from a model once more: what must be shown to it, and by whom it is signed."""

from __future__ import annotations

from hospital_node.governance import PlanRefused
from hospital_node.journal import Journal
from hospital_node.line import AggregatorProblem, CertificateSource
from hospital_node.steps import ModelInUse, Start
from medveil.errors import RemoteProtocolError
from medveil.log import get_logger
from medveil.plan import Plan
from medveil.rounds import kind_of
from privacy.secagg.closing import NotClosed, check_certificate, check_given_up
from privacy.secagg.keys import Setting, setting_for
from privacy.secagg.messages import Certificate

log = get_logger()


class SkippedRound(RemoteProtocolError):
    """A round that does not follow the last one, without a sign that those between were given up."""

    code = "skipped-round"

    def __init__(self, *, number: int, skipped: int) -> None:
        super().__init__(
            what=f"The aggregator opens round {number}, and nothing shows that round {skipped} was given up.",
            meaning="The study would end earlier than approved. Nothing was sent for this round.",
            remedy="If it recurs while this node is well connected, tell the consortium's admin.",
        )


def check_start(plan: Plan, journal: Journal) -> None:
    """Raises: PlanRefused if another plan has started from this plan's initial model at this node."""
    ours = [one.id for one in plan.epochs]
    other = journal.started_from(bytes.fromhex(plan.study.model.initial_model), besides=ours)
    if other is not None:
        raise PlanRefused(
            reason=f"its initial model was the start of plan {other[:8]}; two sums from one model could show "
            "this hospital alone",
            remedy="Ask the admin for a study with a fresh initial model ('medveil study new').",
        )


class Clearance:
    """One plan's gate at this node, before it joins an attempt."""

    def __init__(self, plan: Plan, journal: Journal, source: CertificateSource) -> None:
        self._plan, self._journal, self._source = plan, journal, source
        self._given_up: set[tuple[int, bytes]] = set()
        """Rounds, and the model they started from, that have been shown to be given up."""

    async def check(self, model: bytes, *, number: int, came_from: int) -> None:
        """See that round ``number`` may start from a model.

        Nothing is asked for where a round follows the one that its model came out of, and none of this node's
        vectors from that model has left.

        Args:
            came_from: the round that this node's own version of the model came out of.
        Raises: ModelInUse, SkippedRound, NotClosed; Unreachable, AggregatorProblem, BadMessage.
        """
        for start in self._journal.in_use(model, self._plan.id, came_from):
            await self._settle(start)
        for skipped in range(came_from + 1, number):
            if (skipped, model) not in self._given_up:
                await self._check_skipped(skipped, model, number)
                self._given_up.add((skipped, model))

    async def _settle(self, start: Start) -> None:
        plan = self._plan if start.plan == self._plan.id else self._journal.plan(start.plan)
        found = [c for c in await self._certificates(start.plan, start.round) if c.attempt == start.attempt]
        if plan is None or not start.model or not found:
            raise ModelInUse(start)
        check_certificate(found[0], _setting(plan, start.round, start.attempt, start.model), start.advertised)
        self._journal.settle(start, found[0].to_bytes())
        log.info("attempt.given-up", plan=start.plan, round=start.round, attempt=start.attempt)

    async def _check_skipped(self, skipped: int, model: bytes, number: int) -> None:
        for found in await self._certificates(self._plan.id, skipped):
            for plan in self._plan.epochs:
                try:
                    check_given_up(found, _setting(plan, skipped, found.attempt, model))
                    return
                except NotClosed as error:
                    log.warning("certificate.refused", plan=plan.id, round=skipped, code=error.code)
        raise SkippedRound(number=number, skipped=skipped)

    async def _certificates(self, plan: str, number: int) -> tuple[Certificate, ...]:
        try:
            found = await self._source.certificates(plan, number)
        except AggregatorProblem as problem:
            if problem.status != 404:
                raise
            return ()
        return tuple(c for c in found.certificates if c.round == number)


def _setting(plan: Plan, number: int, attempt: int, model: bytes) -> Setting:
    kind = kind_of(plan.study, number)
    return setting_for(plan, number=number, attempt=attempt, kind=kind, model=model)
