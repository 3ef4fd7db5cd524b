"""An operator refuses, withdraws, pauses, leaves: it holds at once, whatever the aggregator says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from aggregator.storage.plans import Plans
from hospital_node import consent, live
from hospital_node.agent import PlanAgent
from hospital_node.cli import app
from hospital_node.consent import (
    ApprovedHere,
    BadReason,
    NotApprovedHere,
    NothingRuns,
    PlanIsOver,
    leave_after_round,
    pause,
    refuse_plan,
    resume,
    stop,
    withdraw_plan,
)
from hospital_node.journal import Journal
from hospital_node.operator import opened
from hospital_node.orders import Gate, Orders, TakesNoPart
from hospital_node.plan_queue import PlanQueue
from hospital_node.resting import Resting
from hospital_node.settings import Node
from hospital_node.transport import Transport
from lines import Line, ReadyComputation, make_node
from medveil.identity import Identity
from medveil.messages import PlanOffer, PlanOffers, Refusal
from medveil.plan import Plan, check_refusal, sign_approval
from world import World, make_plan, make_sites, make_study

Build = Callable[..., World]
WHY = "The ethics board meets on 3 June."


class QueueLine(Line):
    """A node's line with all that a queue asks, to a real coordinator or to one that lies."""

    overrule = False
    """Whether the aggregator goes on offering the plan with this hospital's approval in it."""

    async def offers(self) -> PlanOffers:
        found = self.world.coordinator.instructions.offers(self.name)
        if not self.overrule:
            return found
        offers = []
        for one in found.offers:
            assert isinstance(one, PlanOffer)
            approvals = dict(one.approvals) | {self.name: sign_approval(self.world.plan, self.me)}
            offers.append(one.model_copy(update={"approvals": approvals}))
        return found.model_copy(update={"offers": tuple(offers)})

    @property
    def me(self) -> Identity:
        return next(one for one in self.world.identities if one.name == self.name)

    async def approve(self, plan: str, signature: bytes) -> None:
        self.sent.append((0, 0, "approve", signature))
        self.world.coordinator.approve(plan, self.name, signature)

    async def refuse(self, plan: str, told: Refusal) -> None:
        self.sent.append((0, 0, told.kind, told.reason.encode()))
        self.world.coordinator.intake.refuse(plan, self.name, told)


class Ward:
    """Hospital 4 of a world: its node's folder, line and queue."""

    def __init__(self, world: World) -> None:
        self.world, self.node = world, make_node(world, 4)
        self.identity = world.identities[3]
        self.identity.save(self.node.key)
        self.line = QueueLine(world, make_sites(world)[:3], self.identity.name)
        self.journal = Journal(self.node.journal)
        self.journal.approve(world.plan, sign_approval(world.plan, self.identity))

    def queue(self, monkeypatch: pytest.MonkeyPatch) -> PlanQueue:
        """With contributions that are ready, and no pause between two looks."""
        records, computation = cast(Any, Nothing()), cast(Any, ReadyComputation(self.world, 4))
        computation.close = computation.finished = computation.forget_images = lambda: None

        def open_(queue: PlanQueue, plan: Plan) -> tuple[Any, PlanAgent]:
            agent = PlanAgent(plan, self.node, self.identity, self.journal, computation, self.line)
            return computation, agent

        monkeypatch.setattr(PlanQueue, "_open", open_)
        monkeypatch.setattr("hospital_node.plan_queue.LOOK_S", 0.0)
        monkeypatch.setattr("hospital_node.plan_queue.IDLE_S", 0.0)
        monkeypatch.setattr("hospital_node.plan_queue.NEWS_PAUSE_S", 0.0)
        return PlanQueue(self.node, self.identity, self.journal, records, self.line, cast(Any, None))

    def work(self, queue: PlanQueue, until: Callable[[], object] | None = None) -> None:
        """Until something is so (the plan is over here, if left out), or the queue ends by itself."""
        reached = until or (lambda: self.journal.progress(self.world.plan.id) is None)

        async def working() -> None:
            task = asyncio.ensure_future(queue.work())
            async with asyncio.timeout(60):
                while not task.done() and not reached():
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

        self.board = live.Board(self.node)
        with live.told_to(self.board):
            asyncio.run(working())

    @property
    def kinds(self) -> list[str]:
        return [kind for _, _, kind, _ in self.line.sent]


class Nothing:
    """Records of a plan without privacy."""

    class plans:
        @staticmethod
        def part(_: str) -> None:
            return None

    def meet(self, _: object) -> None:
        pass

    def register(self, _: object) -> None:
        pass


@pytest.fixture
def ward(build: Build) -> Iterator[Ward]:
    found = Ward(build(hospitals=4))
    yield found
    found.journal.close()


def test_a_word_is_signed_and_kept_and_a_person_alone_lifts_it(ward: Ward) -> None:
    node, plan = ward.node, ward.world.plan
    word = withdraw_plan(node, plan, f"  {WHY} ")
    member = plan.member(ward.identity.name)
    assert member is not None
    check_refusal(plan, member, "withdrawn", WHY, word.signature)
    assert consent.consent(node).words == {plan.id: word}
    with closing(Journal(node.journal)) as journal, pytest.raises(TakesNoPart):
        Orders(journal).check(plan.id)
    for again in (withdraw_plan, leave_after_round):
        with pytest.raises(PlanIsOver):
            again(node, plan, WHY)
    with opened(node) as journal:  # what 'medveil node approve' does in the end
        journal.approve(plan, sign_approval(plan, ward.identity))
        Orders(journal).approved(plan.id)
    assert consent.consent(node).words == {}
    second = withdraw_plan(node, plan, "Once more.")
    assert consent.consent(node).words == {plan.id: second}


def test_what_was_never_approved_is_refused_and_what_was_is_withdrawn_from(ward: Ward) -> None:
    other = make_plan(ward.world.identities, make_study(name="other"))
    with pytest.raises(ApprovedHere):
        refuse_plan(ward.node, ward.world.plan, WHY)
    with pytest.raises(NotApprovedHere):
        withdraw_plan(ward.node, other, WHY)
    assert refuse_plan(ward.node, other, WHY).kind == "refused"
    ward.journal.finish(ward.world.plan.id)
    with pytest.raises(PlanIsOver):
        withdraw_plan(ward.node, ward.world.plan, WHY)


@pytest.mark.parametrize("reason", ["", " \n ", "x" * 301, "\x1b[2J", "\u202ereversed"])
def test_a_reason_that_the_admin_could_not_read_is_refused(ward: Ward, reason: str) -> None:
    with pytest.raises(BadReason):
        withdraw_plan(ward.node, ward.world.plan, reason)
    assert consent.consent(ward.node).words == {}


@pytest.mark.parametrize("overrule", [False, True])
@pytest.mark.parametrize("after", ["advertise", "shares", "upload"])
def test_after_a_withdrawal_nothing_of_the_plan_is_sent(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, after: str, overrule: bool
) -> None:
    queue, send = ward.queue(monkeypatch), ward.line.message
    ward.line.overrule = overrule

    async def withdraws(key: Any, kind: str, body: bytes, *, wait_s: float) -> Any:
        answer = await send(key, kind, body, wait_s=wait_s)
        if kind == after:
            withdraw_plan(ward.node, ward.world.plan, WHY)
            for _ in range(20):  # as the answer waits at the aggregator for news
                await asyncio.sleep(0)
        return answer

    monkeypatch.setattr(ward.line, "message", withdraws)
    looks: list[int] = []

    def offered_again_and_again() -> bool:
        looks.extend([1] * ("withdrawn" in ward.kinds))
        return len(looks) > 50

    ward.work(queue, offered_again_and_again)
    assert ward.kinds[-2:] == [after, "withdrawn"]
    assert ward.kinds.count(after) == 1
    assert ward.board.live.plans == ()
    (said,) = ward.world.status["refusals"]
    assert (said["hospital"], said["kind"], said["reason"]) == ("hospital-4", "withdrawn", WHY)
    assert ward.identity.name not in ward.world.status["approved"]


def test_not_even_a_request_that_is_repeated_goes_out_after_a_withdrawal(ward: Ward, tmp_path: Path) -> None:
    withdraw_plan(ward.node, ward.world.plan, WHY)
    from aggregator.access.tls import make_certificates

    make_certificates(tmp_path / "tls", ("localhost",))

    async def ask() -> None:
        authority = tmp_path / "tls" / "ca.pem"
        async with Transport("https://127.0.0.1:1", authority, ward.identity, patience_s=0) as transport:
            transport.check_plan = Orders(ward.journal).check
            plan = ward.world.plan.id
            for question in (
                transport.work(plan, seen="", wait_s=0),
                transport.approve(plan, bytes(64)),
                transport.model(plan, "0" * 64, limit=1),
            ):
                with pytest.raises(TakesNoPart):
                    await question

    asyncio.run(ask())


def test_a_paused_node_joins_nothing_and_says_that_nobody_need_wait(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause(ward.node)
    ward.work(ward.queue(monkeypatch))
    assert ward.kinds == []
    status = ward.world.status
    assert status["finished"], "the others went on"
    assert all("hospital-4" not in a["survivors"] for a in status["attempts"])
    assert ward.line.away


def test_a_node_that_is_resumed_takes_part_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    pause(ward.node, ward.world.plan)
    pause(ward.node)
    assert resume(ward.node, ward.world.plan)
    assert Gate(ward.world.plan.id, Orders(ward.journal)).closed(1)
    assert resume(ward.node)
    assert not resume(ward.node)
    ward.work(ward.queue(monkeypatch))
    assert all("hospital-4" in a["survivors"] for a in ward.world.status["attempts"])


def test_a_hospital_that_leaves_after_a_round_is_in_that_round_and_in_no_later_one(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, send = ward.queue(monkeypatch), ward.line.message

    async def leaves(key: Any, kind: str, body: bytes, *, wait_s: float) -> Any:
        if (key.round, kind) == (1, "shares"):
            monkeypatch.setattr(consent, "round_in_hand", lambda *_: 1)
            assert leave_after_round(ward.node, ward.world.plan, WHY) is None
        return await send(key, kind, body, wait_s=wait_s)

    monkeypatch.setattr(ward.line, "message", leaves)

    ward.work(queue, lambda: "withdrawn" in ward.kinds)
    (first, *_) = ward.world.status["attempts"]
    assert (first["round"], "hospital-4" in first["survivors"]) == (1, True)
    assert {number for number, _, kind, _ in ward.line.sent if kind == "upload"} == {1}


def test_leaving_without_a_round_in_hand_is_at_once(ward: Ward) -> None:
    word = leave_after_round(ward.node, ward.world.plan, WHY)
    assert word is not None
    assert word.kind == "withdrawn"


def test_a_running_node_ends_when_it_is_told_and_a_later_one_does_not(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NothingRuns):
        stop(ward.node)
    live.Board(ward.node).write()
    stop(ward.node)
    ward.work(ward.queue(monkeypatch), lambda: False)  # it ends by itself
    Orders(ward.journal).hold("", "stop", number=1, reason="another process")
    ward.work(ward.queue(monkeypatch))
    assert ward.journal.progress(ward.world.plan.id) is None


def shown(ward: Ward, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words, "--folder", str(ward.node.folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.stdout.split())


def test_the_commands_take_the_words_ask_once_and_say_what_is_lost(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def told(node: Node) -> bool:
        asked.append(node.settings.name)
        return False

    monkeypatch.setattr(consent, "tell_aggregator", told)
    plan = ward.world.plan
    code, text = shown(ward, "pause", plan.id)
    assert (code, "Paused" in text) == (0, True)
    code, text = shown(ward, "resume")
    assert "takes part again" in text
    code, text = shown(ward, "withdraw", plan.id, "--reason", WHY, "--yes")
    assert code == 0
    assert "what was charged to your patients stays charged" in text
    assert f"Withdrawn: {WHY}" in text
    assert "does not answer" in text
    assert asked == ["hospital-4"]
    assert consent.consent(ward.node).words[plan.id].reason == WHY


def test_the_store_of_the_aggregator_knows_no_way_to_lift_a_word_but_an_approval() -> None:
    assert [name for name in vars(Plans) if "refus" in name] == ["add_refusal", "refusals"]


class Restless:
    """Rests at the first moment after each attempt."""

    def __init__(self) -> None:
        self._was_busy = False

    def look(self, plans: Iterable[str], *, busy: bool) -> None:
        if self._was_busy and not busy:
            raise Resting(frozenset(plans))
        self._was_busy = busy


def test_a_node_that_rests_between_attempts_loses_none_and_finishes_the_study(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each attempt all files are opened again, as a fresh process does."""
    rests, plan = 0, ward.world.plan.id
    monkeypatch.setattr("hospital_node.plan_queue.Quiet", Restless)
    while ward.journal.progress(plan) is not None:
        try:
            ward.work(ward.queue(monkeypatch))
        except Resting:
            rests += 1
        ward.journal.close()
        ward.journal = Journal(ward.node.journal)
    rounds = ward.world.plan.study.training.rounds + 1
    assert rests >= rounds - 1
    unmasked = [(number, attempt) for number, attempt, kind, _ in ward.line.sent if kind == "unmask"]
    assert unmasked == [(number, 1) for number in range(1, rounds + 1)]
