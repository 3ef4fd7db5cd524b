"""The plans that a hospital has approved, one after the other, and what a node does ahead of the next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from structlog.testing import capture_logs

from audit_heads import head_of
from folders import write_folder
from hospital_node.governance import check_plan
from hospital_node.lineage import load_version
from hospital_node.live import Board, told_to
from hospital_node.operator import opened
from hospital_node.plan_queue import PlanQueue
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.messages import PlanOffer, PlanOffers
from medveil.plan import Plan, sign_approval
from medveil.rounds import AttemptKey
from medveil.stopping import Stopped, check_stopped
from medveil.tensors import to_safetensors
from world import SPEC, START, make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
ADMIN = Identity.generate("admin")
LOCAL: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 4.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 3.0,
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("films"))


def settings(films: Path, **policy: Any) -> NodeSettings:
    return NodeSettings(
        name="hospital-1",
        aggregator="https://fl.example.org:8443",
        data=films,
        dataset="films",
        policy=Policy(**({"allow_no_privacy": True} | policy)),
    )


def plan_of(**changes: Any) -> Plan:
    return make_plan(PEOPLE, make_study(**changes))


def offer_of(signed: Plan, signers: list[Identity], admin: Identity = ADMIN, **changes: Any) -> PlanOffer:
    content: dict[str, Any] = {
        "plan": signed.model_dump_json(),
        "admin_key": admin.public_key,
        "admin_signature": admin.sign("create-plan", signed.hash),
        "approvals": {p.name: sign_approval(signed, p) for p in signers},
    }
    return PlanOffer(**(content | changes))


class Offers:
    """An aggregator that offers what the test says."""

    def __init__(self, *offers: object) -> None:
        self._offers = PlanOffers(offers=offers, head=head_of(ADMIN, 1))
        self.approved: list[str] = []
        self.waits_for: Plan | None = None
        self.done: list[str] = []

    def read(self, plan: Plan) -> Any:
        self.done.append("images read")
        raise BadFile(name="manifest.csv", problem="it is not there")

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        self.done.append("model fetched")
        return to_safetensors(START, SPEC)

    async def offers(self) -> PlanOffers:
        return self._offers

    async def approve(self, plan: str, signature: bytes) -> None:
        self.done.append("approved")
        self.approved.append(plan)


@contextmanager
def queue_of(node: Node, aggregator: Offers, approved: list[Plan], read: Any = None) -> Iterator[PlanQueue]:
    """The queue of a node whose operator has approved these plans."""
    node.folder.mkdir(exist_ok=True)
    with opened(node) as journal, closing(Records.open(node, PEOPLE[0], journal)) as records:
        for plan in approved:
            journal.approve(plan, sign_approval(plan, PEOPLE[0]))
            records.take(plan, records.frozen(records.reading(plan.study)), 10)
        line: Any = aggregator
        with closing(PlanQueue(node, PEOPLE[0], journal, records, line, read or aggregator.read)) as queue:
            yield queue


def chosen(node: Node, aggregator: Offers, approved: list[Plan]) -> Plan | None:
    with queue_of(node, aggregator, approved) as queue:
        plans, aggregator.waits_for = asyncio.run(queue.next_plans())
        return plans[0] if plans else None


@pytest.fixture
def node(tmp_path: Path, films: Path) -> Node:
    return Node(tmp_path / "a", settings(films))


def test_a_node_works_on_what_its_operator_approved_and_on_nothing_else(node: Node, tmp_path: Path) -> None:
    plan, other = plan_of(), plan_of(name="other")
    aggregator = Offers(offer_of(other, PEOPLE), offer_of(plan, PEOPLE))
    assert chosen(node, aggregator, []) is None
    assert chosen(Node(tmp_path / "b", node.settings), aggregator, [plan]) == plan
    assert aggregator.approved == []


def test_an_approval_that_the_aggregator_does_not_know_is_handed_in(node: Node) -> None:
    plan = plan_of()
    aggregator = Offers(offer_of(plan, PEOPLE[1:]))
    assert chosen(node, aggregator, [plan]) is None
    assert aggregator.approved == [plan.id]
    assert aggregator.waits_for == plan


def test_a_node_has_read_its_images_and_holds_the_first_model_before_a_plan_can_begin(node: Node) -> None:
    plan, other = plan_of(), plan_of(name="other")
    aggregator = Offers(offer_of(plan, PEOPLE[1:]), offer_of(other, PEOPLE[1:]))
    found = chosen(node, aggregator, [plan, other])
    assert found is None  # images that cannot be read stop nothing
    assert sorted(aggregator.done[:2]) == ["images read", "model fetched"]
    assert aggregator.done[2:] == ["approved", "approved"]  # and one plan's images are in memory, not all
    (file,) = node.models.glob("*.head")
    assert load_version(file, plan.study) is not None


@pytest.mark.parametrize("kept_s", [900.0, -1.0])
def test_images_that_were_read_long_before_a_plan_begins_are_read_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, kept_s: float
) -> None:
    plan = plan_of()
    aggregator = Offers(offer_of(plan, PEOPLE[1:]))
    monkeypatch.setattr("hospital_node.plan_queue.PREPARED_S", kept_s)

    async def begin(queue: PlanQueue) -> tuple[object, object]:
        await queue.next_plans()
        ready = queue._prepared
        assert ready is not None
        aggregator._offers = PlanOffers(offers=(offer_of(plan, PEOPLE),), head=head_of(ADMIN, 1))
        assert (await queue.next_plans())[0] == [plan]
        return ready.computation, queue._open(plan)[0]

    with queue_of(node, aggregator, [plan]) as queue:
        before, after = asyncio.run(begin(queue))
    assert (before is after) == (kept_s > 0)


def test_a_node_that_is_asked_to_stop_while_it_reads_ahead_stops_before_the_next_file(node: Node) -> None:
    plan = plan_of()
    begun, ended = Event(), Event()

    def read(_: Plan) -> Any:
        begun.set()
        try:
            while not ended.wait(0.01):  # from film to film
                check_stopped()
        except Stopped:
            ended.set()
            raise

    async def stopped(queue: PlanQueue) -> None:
        working = asyncio.ensure_future(queue.work())
        assert await asyncio.to_thread(begun.wait, 200)
        working.cancel()
        await asyncio.wait({working})

    with queue_of(node, Offers(offer_of(plan, PEOPLE[1:])), [plan], read) as queue:
        asyncio.run(stopped(queue))
        assert not ended.is_set()
    assert ended.is_set()


def test_an_offer_that_cannot_be_read_does_not_stop_the_others(node: Node) -> None:
    plan = plan_of()
    unreadable = offer_of(plan, PEOPLE, plan='{"from": "a later version"}')
    unsigned = offer_of(plan_of(name="other"), PEOPLE, admin_signature=bytes(64))
    malformed = offer_of(plan_of(name="third"), PEOPLE).model_dump() | {"admin_key": bytes(31)}
    offers = Offers(malformed, unreadable, unsigned, offer_of(plan, PEOPLE))
    with capture_logs() as logs:
        assert chosen(node, offers, [plan]) == plan
    refused = [e["code"] for e in logs if e["event"] == "offer.refused"]
    assert refused == ["bad-message", "bad-plan", "plan-refused"]


def test_an_approved_plan_is_held_against_todays_policy(tmp_path: Path, films: Path) -> None:
    plan, stricter = plan_of(), plan_of(privacy=LOCAL)
    aggregator = Offers(offer_of(plan, PEOPLE), offer_of(stricter, PEOPLE))
    node = Node(tmp_path / "a", settings(films, allow_no_privacy=False))
    assert chosen(node, aggregator, [plan, stricter]) == stricter


def test_too_few_approvals_are_waited_for(node: Node) -> None:
    plan = plan_of()
    forged = {p.name: sign_approval(plan, PEOPLE[0]) for p in PEOPLE}
    aggregator = Offers(offer_of(plan, PEOPLE, approvals=forged))
    assert chosen(node, aggregator, [plan]) is None
    assert aggregator.waits_for == plan


def test_a_plan_that_would_pass_the_cap_together_with_an_earlier_one_is_left_alone(
    tmp_path: Path, films: Path
) -> None:
    """Each costs less than the cap by itself; the first keeps its place and the second waits."""
    first, second = plan_of(privacy=LOCAL, name="first"), plan_of(privacy=LOCAL, name="second")
    alone = check_plan(first, settings(films, epsilon_cap=100.0), PEOPLE[0])
    assert alone is not None
    node = Node(tmp_path / "a", settings(films, epsilon_cap=1.1 * alone.epsilon_local))
    both = Offers(*(offer_of(p, PEOPLE) for p in (first, second)))
    assert chosen(node, both, [first, second]) == first
    only_second = Offers(offer_of(second, PEOPLE))
    assert chosen(node, only_second, [first, second]) is None


def test_a_plan_signed_by_another_admin_than_the_pinned_one_is_not_worked_on(node: Node) -> None:
    plan = plan_of()
    assert chosen(node, Offers(offer_of(plan, PEOPLE, Identity.generate("admin"))), [plan]) is None


def test_a_node_that_starts_again_knows_the_round_that_it_had_come_to(node: Node) -> None:
    plan, board = plan_of(), Board(node)
    aggregator = Offers(offer_of(plan, PEOPLE))
    with queue_of(node, aggregator, [plan]) as queue, told_to(board):
        queue._journal.join(AttemptKey(plan.id, 2, 1), model=START.tobytes()[:32])
        asyncio.run(queue.next_plans())
        assert board.live.plans[0].round == 2
        board.plan(plan.id, round=3)  # a round that it takes no part in
        asyncio.run(queue.next_plans())
        assert board.live.plans[0].round == 3
