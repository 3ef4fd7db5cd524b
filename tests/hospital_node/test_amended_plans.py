"""Real nodes through a change of the roster: who stays, who joins, and an aggregator that lies about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amended import amended, newcomer, next_plan
from hospital_node.agent import PlanAgent
from hospital_node.amendments import OtherRosterBegun, check_amendment, check_turn
from hospital_node.governance import PlanRefused
from hospital_node.journal import Journal
from hospital_node.lineage import load_version, version_path
from lines import Line, follow, make_agent
from medveil.plan import Plan, sign_approval
from medveil.rounds import AttemptKey
from oracle import violations
from puppets import Liar
from tries import leading
from world import START, World, make_plan, make_sites, make_world, play

FOUR: dict[str, Any] = {"training": {"rounds": 3, "local_steps": 1, "learning_rate": 1.0}}


def agent_of(world: World, others: list[Any], index: int) -> tuple[PlanAgent, Journal, Line]:
    line = Line(world, others, world.identities[index - 1].name)
    agent, journal = make_agent(world, line, index=index)
    for plan in reversed(world.plan.epochs):
        if plan.member(line.name) is not None:
            journal.approve(plan, sign_approval(plan, world.identities[index - 1]))
    return agent, journal, line


def test_who_stays_goes_on_with_its_own_model_and_who_joins_makes_it_from_all_sums(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", hospitals=3, **FOUR)
    old = make_sites(world)
    stays, journal, _ = agent_of(world, old[1:], 1)
    joins = newcomer(world, "joins")
    after = amended(world, [*world.identities, joins], approvals=world.identities[:2])
    seen: list[int] = []

    def approved_in_round_two(work: Any) -> Any:
        seen.append(work.round)
        if work.round == 2 and "joins" not in after.coordinator.runs.of(after.plan.id, "joins").approvals:
            after.coordinator.runs.touch("joins")
            after.coordinator.approve(after.plan.id, "joins", sign_approval(after.plan, joins))
        if "joins" in after.coordinator.runs.of(after.plan.id, "joins").approvals:
            after.coordinator.runs.touch("joins")
        return work

    stays._line.lie = approved_in_round_two  # type: ignore[attr-defined]
    assert follow(stays)
    assert max(seen) == 2
    assert not stays.at_its_end  # so nothing that the new roster needs is forgotten
    head = load_version(
        version_path(after.folder / "nodes" / "hospital-1" / "models", after.plan), after.plan.study
    )
    assert head is not None
    new = make_sites(after)
    line = Line(after, [*new[1:3]], "hospital-1")
    again, _ = make_agent(after, line)
    other, joined, fetched = agent_of(after, [], 4)
    play_both(after, [(again, line), (other, fetched)])
    assert "model" not in line.fetched  # its own version was there
    assert fetched.fetched[0] == "model"
    assert fetched.fetched.count("proof 1") == 1  # made under the old roster, and checked against it
    mine, theirs = (
        load_version(version_path(after.folder / "nodes" / name / "models", after.plan), after.plan.study)
        for name in ("hospital-1", "joins")
    )
    assert mine is not None
    assert theirs is not None
    assert mine.model == theirs.model
    assert (mine.version, mine.epoch, theirs.epoch) == (3, 2, 2)
    assert [v["number"] for v in after.status["versions"]] == [2, 3]
    assert not (mine.vector == START).all()
    journal.close()
    joined.close()


def play_both(world: World, agents: list[tuple[PlanAgent, Line]]) -> None:
    """Several real agents at once, each waiting for the others."""
    import asyncio

    from lines import Stuck

    async def one(agent: PlanAgent) -> None:
        await agent.follow()

    def patient(line: Line) -> None:
        news = line._news

        async def work(plan: str, **asked: Any) -> Any:
            while True:
                try:
                    return news(plan, asked["seen"])
                except Stuck:
                    await asyncio.sleep(0.001)  # another one reads files in a thread

        async def message(key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Any:
            mark = world.coordinator.intake.receive(key, line.name, kind, body)
            return await work(key.plan, seen=mark)

        line.work, line.message = work, message  # type: ignore[method-assign,assignment]

    async def together() -> None:
        for _, line in agents:
            patient(line)
        async with asyncio.timeout(60):
            await asyncio.gather(*(one(agent) for agent, _ in agents))

    asyncio.run(together())


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Any]:
    made: list[Liar] = []

    def make(hospitals: int, roster: tuple[int, ...], first: tuple[int, ...]) -> tuple[Liar, Plan]:
        world = make_world(tmp_path / "world", hospitals=hospitals, **FOUR)
        people = world.identities
        world.plan = make_plan([people[i - 1] for i in first], world.plan.study)
        plan = next_plan(world.plan, [people[i - 1] for i in roster])
        made.append(Liar(world, plan))
        for one in people:
            for each in (world.plan, plan):
                if each.member(one.name) is not None:
                    made[-1].journals[one.name].approve(each, sign_approval(each, one))
        return made[-1], plan

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("new_first", leading([True, False], 1))
def test_no_model_is_opened_by_the_old_roster_and_by_the_new_one(liar: Any, new_first: bool) -> None:
    """Whichever comes first, the other one finds no quorum: those in both have sent their vector."""
    lies, new = liar(5, (1, 2, 3, 4, 5), (1, 2, 3, 4))
    old = lies.world.plan
    for plan in (new, old) if new_first else (old, new):
        lies.hold(1, 1, [m.index for m in plan.roster], plan=plan)
    assert len(lies.sums) == 1
    everybody = [one.name for one in lies.world.identities]
    assert violations(lies.sums, honest=everybody, least=3) == set()


def test_who_leaves_makes_no_second_sum_with_whom_the_new_roster_lacks(liar: Any) -> None:
    """Hospital 4 leaves, 5 joins; three are in both, and no sum of either roster is without two of them."""
    lies, new = liar(5, (1, 2, 3, 5), (1, 2, 3, 4))
    held = lies.hold(1, 1, [1, 2, 4], plan=new)
    assert held.opened is not None
    again = lies.hold(1, 1, [1, 3, 4])
    assert again.opened is None
    assert set(again.codes.values()) >= {"model-in-use"}
    assert len(lies.sums) == 1


def test_a_node_does_not_go_back_to_a_roster_that_was_replaced(liar: Any) -> None:
    lies, new = liar(4, (1, 2, 3, 4), (1, 2, 3))
    held = lies.hold(1, 1, [1, 2, 3, 4], plan=new, signers=[])  # it joins and sends; nothing is opened
    assert held.opened is None
    journal = lies.journals["hospital-1"]
    with pytest.raises(OtherRosterBegun):
        check_turn(lies.world.plan, journal, made_in=1)
    other = next_plan(lies.world.plan, [*lies.world.identities[1:3], lies.world.identities[0]])
    with pytest.raises(PlanRefused, match="roster 2"):
        check_amendment(other, journal)  # another amendment of the same plan, older or newer
    check_amendment(new, journal)
    check_turn(new, journal, made_in=1)


def test_a_model_older_than_the_roster_before_is_not_gone_on_from(tmp_path: Path) -> None:
    """Rosters that are two changes apart may share nobody, so the one between must have made a version."""
    world = make_world(tmp_path / "w", hospitals=3)
    second = next_plan(world.plan, [*world.identities, newcomer(world, "a")])
    third = next_plan(second, [*world.identities[1:], newcomer(world, "a2")])
    journal = Journal(tmp_path / "journal.db")
    for made_in, fits in ((1, False), (2, True), (3, True)):
        if fits:
            check_turn(third, journal, made_in=made_in)
        else:
            with pytest.raises(OtherRosterBegun, match="made no model"):
                check_turn(third, journal, made_in=made_in)
    journal.close()


def test_a_false_model_for_who_joins_finds_no_quorum(tmp_path: Path) -> None:
    """A sum that the aggregator made up leads nowhere: nobody who stays signs for that model."""
    world = make_world(tmp_path / "w", hospitals=4, **FOUR)
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    joins = newcomer(world, "joins")
    after = amended(world, [*world.identities, joins], first_round=2)
    new = make_sites(after)
    agent, journal, line = agent_of(after, [*sites, *new[:4]], 5)
    line.sum_lie = lambda version, data: bytes(len(data))
    follow(agent)
    alarm = journal.alarm(after.plan.id)
    assert alarm is not None
    assert all("joins" not in a["survivors"] for a in after.status["attempts"])
    journal.close()
