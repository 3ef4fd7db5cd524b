"""A node obeys what the admin has signed, and nothing that only claims to be that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hospital_node import live
from hospital_node.admins_word import AdminsWords, BadDirective
from hospital_node.cli import app
from hospital_node.journal import Journal
from lines import HONEST, Line, follow, make_node, scene
from medveil.identity import Identity
from medveil.messages import PlanOffer, PlanOffers, SignedDirective, Work, sign_directive
from medveil.plan import sign_approval
from world import World

Build = Callable[..., World]
WHY = "the ethics board meets"


def word(world: World, order: str = "pause", at: int = 1, by: Identity | None = None) -> SignedDirective:
    return sign_directive(by or world.admin, world.plan.hash, order, WHY, at)  # type: ignore[arg-type]


def telling(told: Callable[[Work], SignedDirective | None]) -> Callable[[Work], Work]:
    """A host that goes on opening rounds whatever it hands on."""
    return lambda work: work.model_copy(update={"directive": told(work)})


def run(
    world: World, told: Callable[[Work], SignedDirective | None]
) -> tuple[bool, Line, Journal, live.Live]:
    agent, line, journal = scene(world, telling(told))
    board = live.Board(make_node(world, 1))
    board.plan(world.plan.id, study="tiny", rounds=3)
    with live.told_to(board):
        ended = follow(agent)
    return ended, line, journal, board.live


def test_while_the_admin_says_pause_it_joins_nothing_even_if_rounds_are_opened(build: Build) -> None:
    world = build(hospitals=4)
    _, line, journal, board = run(world, lambda work: word(world))
    assert line.sent == []
    assert not line.away  # it is the admin's word, and not the operator's
    assert AdminsWords(journal).halted(world.plan.id) == f"paused by the admin: {WHY}"
    assert board.plans[0].waits_for == f"paused by the admin: {WHY}"


def test_a_word_that_the_admin_key_has_not_signed_changes_nothing_and_is_told(build: Build) -> None:
    world = build()
    forged = word(world, "stop", by=Identity.generate("admin"))
    ended, line, journal, board = run(world, lambda work: forged)
    assert ended
    assert [kind for _, _, kind, _ in line.sent] == HONEST * 3
    assert AdminsWords(journal).of(world.plan.id) is None
    assert board.problem is not None
    assert board.problem.code == "bad-directive"


def test_a_part_in_an_open_attempt_goes_to_its_end_after_a_stop(build: Build) -> None:
    world = build()
    stop = word(world, "stop")
    ended, line, _, _ = run(world, lambda work: stop if work.phase == "upload" else None)
    assert not ended  # nobody else stops, and this hospital joins nothing more
    assert [kind for _, _, kind, _ in line.sent] == HONEST


def test_only_a_later_word_replaces_one(build: Build) -> None:
    world = build()
    words = AdminsWords(Journal(make_node(world, 1).journal))
    key, plan = world.admin.public_key, world.plan.id
    assert words.take(word(world, "pause", at=10), plan, key)
    for old in (word(world, "resume", at=9), word(world, "resume", at=10)):
        assert not words.take(old, plan, key)
        assert words.halted(plan)
    assert words.take(word(world, "resume", at=11), plan, key)
    assert (words.halted(plan), words.known(plan)) == ("", 11)


@pytest.mark.parametrize(
    "change", [{"reason": "another"}, {"order": "resume"}, {"time_ms": 99}, {"plan": bytes(32)}, {}]
)
def test_a_changed_word_or_one_without_a_pinned_key_is_refused(
    build: Build, change: dict[str, object]
) -> None:
    world = build()
    words = AdminsWords(Journal(make_node(world, 1).journal))
    key = world.admin.public_key if change else None
    told = word(world, at=50).model_copy(update=change)
    with pytest.raises(BadDirective):
        words.take(told, told.plan.hex() if "plan" in change else world.plan.id, key)
    assert words.all() == ()


def test_a_word_on_another_plan_does_not_come_with_this_ones_work(build: Build) -> None:
    world = build()
    words = AdminsWords(Journal(make_node(world, 1).journal))
    other = sign_directive(world.admin, bytes(32), "stop", WHY, 1)
    with pytest.raises(BadDirective):
        words.take(other, world.plan.id, world.admin.public_key)


def test_the_status_says_who_stopped_the_study_and_why(build: Build) -> None:
    world = build()
    node = make_node(world, 1)
    world.identities[0].save(node.key)
    journal = Journal(node.journal)
    journal.approve(world.plan, sign_approval(world.plan, world.identities[0]))
    AdminsWords(journal).take(word(world, "stop"), world.plan.id, world.admin.public_key)
    journal.finish(world.plan.id)
    shown = CliRunner().invoke(app, ["status", "--folder", str(node.folder)]).output
    assert f"tiny was stopped by the admin: {WHY}" in " ".join(shown.split())
    told = CliRunner().invoke(app, ["status", "--json", "--folder", str(node.folder)]).output
    assert f'"halted": [{{"study": "tiny", "word": "stop", "reason": "{WHY}"}}]' in told


def test_messages_without_a_word_are_those_of_versions_that_know_none(tmp_path: Path) -> None:
    work = Work(mark="x", status="waiting")
    assert b"directive" not in work.to_bytes()
    assert Work.from_bytes(work.to_bytes()) == work
    offers = PlanOffers(offers=())
    assert b"directives" not in offers.to_bytes()
    told = sign_directive(Identity.generate("admin"), bytes(32), "stop", WHY, 1)
    whole = offers.model_copy(update={"directives": (told,)})
    assert PlanOffers.from_bytes(whole.to_bytes()) == whole
    assert Work.from_bytes(work.model_copy(update={"directive": told}).to_bytes()).directive == told
    assert PlanOffer.model_fields.keys() == {"plan", "admin_key", "admin_signature", "approvals"}
