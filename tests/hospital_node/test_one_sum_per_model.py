"""Attacks by which an aggregator got a single hospital's numbers: replayed with real agents, and refused.

In ``make test-all`` each is played a second time with agents that keep the rule of the version before. There
it succeeds, and the oracle says so: it would find the like in the simulation and in the exploration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hospital_node.agent
from hospital_node import steps
from hospital_node.clearance import Clearance, check_start
from hospital_node.governance import PlanRefused
from hospital_node.steps import AlreadyDone, Steps
from medveil.plan import sign_approval
from medveil.rounds import AttemptKey, Phase
from oracle import violations
from privacy.secagg.keys import Setting
from puppets import Liar
from tries import leading
from world import make_plan, make_study, make_world


@pytest.fixture(params=["this rule", pytest.param("the rule before", marks=pytest.mark.slow)])
def old_rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the agents remember unmasked rounds alone, and count signatures from the shown keys."""
    if request.param == "this rule":
        return False
    join = Steps.join

    def before(self: Steps, key: AttemptKey, **more: Any) -> None:
        for earlier in range(1, key.attempt):
            if self.detail(replace(key, attempt=earlier), "unmask") is not None:
                raise AlreadyDone(reason="it has helped to unmask this round before")
        join(self, key, **more)

    async def unchecked(self: Clearance, model: bytes, **_: Any) -> None:
        pass

    monkeypatch.setattr(Steps, "join", before)
    monkeypatch.setattr(steps, "_in_use", lambda *_: [])
    monkeypatch.setattr(Clearance, "check", unchecked)
    monkeypatch.setattr(Steps, "uploads", lambda *_: 0)
    monkeypatch.setattr(hospital_node.agent, "most_attempts", lambda _: 100_000)
    monkeypatch.setattr(Setting, "quorum", Setting.threshold)
    return True


@pytest.fixture
def liars(tmp_path: Path) -> Iterator[Any]:
    made = []

    def make(hospitals: int, *rosters: tuple[int, ...], **changes: Any) -> Liar:
        world = make_world(tmp_path / "world", hospitals=hospitals, **changes)
        plans = [
            make_plan([world.identities[i - 1] for i in roster], world.plan.study).model_copy(
                update={"epoch": 2 + k}
            )
            for k, roster in enumerate(rosters)
        ]
        made.append(Liar(world, *plans))
        return made[-1]

    yield make
    for one in made:
        one.close()


def broken(liar: Liar) -> set[str]:
    return violations(liar.sums, honest=[one.name for one in liar.world.identities], least=3)


def test_a_failed_round_opens_no_hospital_by_difference(old_rule: bool, liars: Any) -> None:
    """C2: round 1 over four hospitals, nothing published, round 2 on the same model without the fourth."""
    liar = liars(4)
    first = liar.hold(1, 1, (1, 2, 3, 4))
    assert first.opened is not None
    second = liar.hold(2, 1, (1, 2, 3))
    if old_rule:
        assert broken(liar) == {"few-hospitals", "twice"}
    else:
        assert set(second.codes.values()) == {"model-in-use"}
        assert (second.opened, broken(liar)) == (None, set())


def test_no_attempts_of_one_round_share_a_hospital(old_rule: bool, liars: Any) -> None:
    """H1: hospital 9 uploads in four attempts and is never shown a quorum; others open each of the sums."""
    liar = liars(9, attempts=5)
    members = (
        [(1, 2, 3, 4, 9), (5, 6, 7, 8, 9)] if not old_rule else [(1, 2, 9), (3, 4, 9), (5, 6, 9), (7, 8, 9)]
    )
    held = [liar.hold(1, k, m, signers=m, openers=m[:-1]) for k, m in enumerate(members, start=1)]
    if old_rule:
        assert [h.opened is not None for h in held] == [True] * 4
        assert broken(liar) == {"twice"}
    else:
        assert held[0].opened is not None
        assert held[1].codes[9] == "model-in-use"
        assert broken(liar) == set()


def test_who_was_never_asked_to_agree_is_bound_by_its_upload(old_rule: bool, liars: Any) -> None:
    """The same, but the ninth is not even shown the survivors: it has uploaded, and is in the sum."""
    liar = liars(9)
    liar.hold(1, 1, (1, 2, 3, 4, 5, 9), signers=(1, 2, 3, 4, 5))
    second = liar.hold(1, 2, (6, 7, 8, 9, 5, 4, 3))
    if old_rule:
        assert "twice" in broken(liar)
    else:
        assert second.codes[9] == "model-in-use"
        assert broken(liar) == set()


def test_a_second_plan_on_the_same_model_opens_no_hospital(old_rule: bool, liars: Any) -> None:
    """H2: epoch 2 of the same study without hospital 4; no lie is needed."""
    liar = liars(4, (1, 2, 3))
    later = next(p for p in (a._plan for a, _ in liar.agents.values()) if p.epoch == 2)
    liar.hold(1, 1, (1, 2, 3, 4))
    second = liar.hold(1, 1, (1, 2, 3), plan=later)
    if old_rule:
        assert broken(liar) == {"few-hospitals", "twice"}
        return
    assert set(second.codes.values()) == {"model-in-use"}
    assert broken(liar) == set()
    with pytest.raises(PlanRefused, match=f"start of plan {liar.world.plan.id[:8]}"):
        check_start(later, liar.journals["hospital-1"])
    check_start(liar.world.plan, liar.journals["hospital-1"])


def test_the_halves_of_a_split_view_are_not_both_opened(old_rule: bool, liars: Any) -> None:
    """M1: six hospitals, two disjoint sets of keys in one attempt."""
    liar = liars(6)
    held = [liar.hold(1, 1, members) for members in ((1, 2, 3), (4, 5, 6))]
    if old_rule:
        assert broken(liar) == {"two-sets"}
    else:
        assert {code for h in held for code in h.codes.values()} == {"secagg-refused"}
        assert liar.sums == []


@pytest.mark.parametrize(
    ("number", "attempt", "code"),
    [
        (9, 1, "skipped-round"),
        (2, 1, "skipped-round"),
        (1, 99_999, "out-of-order"),
        (1, 1002, "out-of-order"),
    ],
)
def test_the_plans_own_numbers_are_kept(liars: Any, number: int, attempt: int, code: str) -> None:
    """L4: rounds in their order, and no more attempts than the plan has."""
    liar = liars(3, training={"rounds": 12, "local_steps": 1, "learning_rate": 1.0})
    held = liar.hold(number, attempt, (1, 2, 3))
    assert set(held.codes.values()) == {code}
    assert liar.hold(1, 1, (1, 2, 3)).opened is not None


def test_no_more_vectors_leave_in_a_round_than_the_plan_has_attempts(liars: Any) -> None:
    liar = liars(3, attempts=2)
    for attempt in (1, 2):
        held = liar.hold(1, attempt, (1, 2, 3), signers=())
        liar.give_up(held, (1, 2, 3))
    third = liar.hold(1, 3, (1, 2, 3))
    assert set(third.codes.values()) == {"out-of-order"}
    assert liar.hold(2, 1, (1, 2, 3)).opened is not None  # the certificates show that round 1 was given up


@pytest.mark.parametrize("restart", leading([True, False], 1))
def test_with_a_certificate_the_round_is_tried_again_and_the_first_sum_stays_shut(
    liars: Any, restart: bool
) -> None:
    liar = liars(5)
    first = liar.hold(1, 1, (1, 2, 3, 4, 5), openers=(1, 2))  # one share too few
    assert first.opened is None
    if restart:
        liar.restart(liar.world.plan, 3)
    liar.give_up(first, (1, 2, 3, 4))
    assert sorted(first.state.aborted) == [3, 4]  # who has unmasked does not vow
    assert set(liar.hold(1, 2, (1, 2, 3, 4, 5)).codes.values()) == {"not-closed"}
    liar.certificates.clear()
    liar.give_up(first, (3, 4, 5))
    first.state = replace(first.state, phase=Phase.UNMASK)
    for index in (3, 4, 5):
        liar._ask(liar.world.plan, first, index)  # none of them unmasks any more
    assert len(first.state.unmasked) == 2
    again = liar.hold(1, 3, (1, 2, 3, 4, 5))
    assert again.opened is not None
    assert broken(liar) == set()


def test_vows_of_another_attempt_round_or_plan_are_no_certificate(liars: Any) -> None:
    liar = liars(4, (1, 2, 3, 4))
    later = next(p for p in (a._plan for a, _ in liar.agents.values()) if p.epoch == 2)
    first = liar.hold(1, 1, (1, 2, 3, 4))
    assert first.opened is not None
    other = liar.hold(1, 1, (1, 2, 3, 4), plan=later)
    assert set(other.codes.values()) == {"model-in-use"}
    failed = liar.hold(1, 2, (1, 2, 3, 4))
    assert set(failed.codes.values()) == {"model-in-use"}
    vows = liar.give_up(failed, (1, 2, 3, 4))
    assert vows.signatures == {}  # nobody has joined it, so nobody gives it up
    assert liar.give_up(first, (1, 2, 3, 4)).signatures == {}
    forged = vows.model_copy(update={"attempt": 1, "signatures": {i: bytes(64) for i in (1, 2, 3)}})
    liar.certificates = {(liar.world.plan.id, 1): [forged]}
    assert set(liar.hold(1, 3, (1, 2, 3, 4)).codes.values()) == {"not-closed"}
    assert broken(liar) == set()


def test_an_aggregator_that_asks_for_vows_in_the_middle_gets_no_shares_after_them(liars: Any) -> None:
    liar = liars(3)
    first = liar.hold(1, 1, (1, 2, 3), openers=())
    assert len(liar.give_up(first, (1, 2)).signatures) == 2
    first.state = replace(first.state, phase=Phase.UNMASK)
    for index in (1, 2):
        liar._ask(liar.world.plan, first, index)
    assert first.state.unmasked == {}


def test_the_operator_cannot_approve_a_plan_that_starts_where_another_started(liars: Any) -> None:
    liar = liars(3)
    liar.hold(1, 1, (1, 2, 3))
    journal = liar.journals["hospital-1"]
    journal.approve(liar.world.plan, sign_approval(liar.world.plan, liar.world.identities[0]))
    renamed = make_plan(liar.world.identities, make_study(name="another"))
    with pytest.raises(PlanRefused, match="initial model"):
        check_start(renamed, journal)
