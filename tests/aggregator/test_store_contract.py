"""What the store promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.storage.blobs import StorageFailed
from aggregator.storage.plans import OpenedAttempt, Progress, StartTaken
from aggregator.storage.register import Party, TokenRefused
from aggregator.storage.store import Store
from aggregator.storage.transactions import AlreadyThere
from medveil.identity import Identity
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, ModelVersion, RoundKind
from medveil.spoken import spoken
from world import World, finish, make_plan, make_sites, make_study

ADMIN = Identity.generate("admin")
PLAN = make_plan([Identity.generate(f"hospital-{i}") for i in (1, 2, 3)], make_study())
FIRST = AttemptKey(PLAN.id, 1, 1)
DONE = AttemptReport(
    round=1, attempt=1, kind=RoundKind.TRAIN, outcome="done", seconds=0.1, sums={"patients": (3.0,)}
)


def version(number: int) -> ModelVersion:
    return ModelVersion(
        plan=PLAN.id,
        number=number,
        model=f"{number:064x}",
        parent=None if number == 0 else f"{number - 1:064x}",
        round=number,
        survivors=(),
        epsilon=None,
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    opened = Store(where, ADMIN)
    yield opened
    opened.close()


@pytest.fixture
def planned(store: Store) -> Store:
    store.plans.add(PLAN, ADMIN.sign("create-plan", PLAN.hash), version(0), 1.0)
    return store


def test_a_token_enrols_one_newcomer_once_and_a_repeat_is_the_same(store: Store) -> None:
    store.register.add_token("secret", name="st-marys", role="hospital", expires=10.0)
    for name, now in (("somebody", 1.0), ("st-marys", 11.0)):
        with pytest.raises(TokenRefused):
            store.register.enrol("secret", name=name, public_key=b"k" * 32, now=now)
    for _ in range(2):  # the second is a lost answer
        store.register.enrol("secret", name="st-marys", public_key=b"k" * 32, now=1.0)
    with pytest.raises(TokenRefused):
        store.register.enrol("secret", name="st-marys", public_key=b"o" * 32, now=1.0)
    store.register.add_token("other", name="elsewhere", role="researcher", expires=10.0)
    with pytest.raises(AlreadyThere):
        store.register.enrol("other", name="elsewhere", public_key=b"k" * 32, now=1.0)
    assert store.register.enrolled_keys() == [Party("st-marys", "hospital", b"k" * 32)]


def test_no_second_plan_starts_from_a_model_of_another(planned: Store) -> None:
    other = PLAN.model_copy(update={"epoch": 2})
    start = version(0).model_copy(update={"plan": other.id})
    with pytest.raises(StartTaken, match=spoken(PLAN.hash)):
        planned.plans.add(other, b"s" * 64, start, 2.0)
    assert [plan for plan, _, _ in planned.plans.all()] == [PLAN]
    planned.plans.add(other, b"s" * 64, start.model_copy(update={"model": "f" * 64}), 2.0)
    third = PLAN.model_copy(update={"epoch": 3})
    again = start.model_copy(update={"plan": third.id, "model": "f" * 64})
    with pytest.raises(StartTaken, match=spoken(other.hash)):
        planned.plans.add(third, b"s" * 64, again, 2.0)


def test_plans_approvals_and_versions_come_back_as_they_went_in(planned: Store) -> None:
    with pytest.raises(AlreadyThere):
        planned.plans.add(PLAN, b"s" * 64, version(0), 2.0)
    ((plan, signature, finished),) = planned.plans.all()
    assert (plan, finished) == (PLAN, False)
    assert signature == ADMIN.sign("create-plan", PLAN.hash)
    assert planned.plans.all(besides=[PLAN.id]) == []
    for _ in range(2):
        planned.plans.add_approval(PLAN.id, "hospital-1", b"s" * 64)
    assert planned.plans.approvals(PLAN.id) == {"hospital-1": b"s" * 64}
    assert planned.plans.versions(PLAN.id) == [(version(0), {})]
    planned.plans.finish(PLAN.id)
    assert planned.plans.all()[0][2]


def test_events_keep_their_order_and_go_with_their_attempt(planned: Store) -> None:
    planned.plans.open_attempt(FIRST, kind=RoundKind.TRAIN, model="00" * 32, now=1.0)
    for number in range(12):
        planned.plans.add_event(FIRST, number, "advertise", bytes([number]))
    assert planned.plans.events(FIRST) == [("advertise", bytes([n])) for n in range(12)]
    planned.plans.end_attempt(PLAN.id, DONE, version=version(1), state={"m": "a"})
    assert planned.plans.events(FIRST) == []
    assert planned.plans.attempts(PLAN.id) == [DONE]
    assert planned.plans.versions(PLAN.id) == [(version(0), {}), (version(1), {"m": "a"})]
    assert planned.plans.version(PLAN.id, 0) == version(0)
    assert planned.plans.version(PLAN.id, 2) is None
    assert planned.plans.has_model(PLAN.id, version(0).model)
    assert not planned.plans.has_model(PLAN.id, "ff" * 32)
    assert not planned.plans.has_model("ff" * 32, version(0).model)
    assert planned.plans.attempts(PLAN.id, round_number=2) == []
    assert planned.plans.progress(PLAN.id) == Progress(1, (DONE,), None, (version(1), {"m": "a"}))


def test_an_attempt_ends_with_its_version_or_not_at_all(planned: Store) -> None:
    planned.plans.open_attempt(FIRST, kind=RoundKind.TRAIN, model="00" * 32, now=1.0)
    planned.plans.add_event(FIRST, 0, "advertise", b"a")
    with pytest.raises(StorageFailed):  # version 0 is there already
        planned.plans.end_attempt(PLAN.id, DONE, version=version(0))
    assert planned.plans.events(FIRST) == [("advertise", b"a")]
    assert planned.plans.attempts(PLAN.id) == []
    assert planned.plans.progress(PLAN.id).opened == OpenedAttempt(FIRST, RoundKind.TRAIN, "00" * 32)


def test_a_row_that_is_there_against_our_knowledge_puts_memory_in_doubt(planned: Store) -> None:
    planned.plans.open_attempt(FIRST, kind=RoundKind.TRAIN, model="00" * 32, now=1.0)
    assert not planned.transactions.in_doubt
    planned.plans.add_event(FIRST, 0, "advertise", b"a")
    with pytest.raises(StorageFailed):
        planned.plans.add_event(FIRST, 0, "advertise", b"b")
    assert planned.transactions.in_doubt
    planned.transactions.settled()
    assert not planned.transactions.in_doubt


def test_two_stores_on_one_database_see_each_others_changes(where: Path | str) -> None:
    one, other = Store(where, ADMIN), Store(where, ADMIN)
    one.register.add_token("secret", name="st-marys", role="hospital", expires=10.0)
    other.register.enrol("secret", name="st-marys", public_key=b"k" * 32, now=1.0)
    assert [p.name for p in one.register.enrolled_keys()] == ["st-marys"]
    one.close()
    other.close()


def outcome(world: World) -> list[Any]:
    kept = ("round", "attempt", "kind", "outcome", "survivors", "figures", "sums", "model")
    return [[{k: a.get(k) for k in kept} for a in world.status["attempts"]], world.status["finished"]]


def test_a_whole_study_with_restarts_gives_the_same_on_both_databases(
    build: Callable[..., World], where: Path | str
) -> None:
    calm, shaken = build(), build(database=where)
    finish(calm, make_sites(calm))
    sites = make_sites(shaken)
    for step in range(400):
        moved = [site.act() for site in sites] + [shaken.coordinator.tick()]
        if step % 3 == 0:
            shaken.restart()
        if shaken.status["finished"] and not any(moved):
            break
    assert outcome(shaken) == outcome(calm)


def test_a_commit_whose_answer_was_lost_is_found_again(
    build: Callable[..., World], where: Path | str
) -> None:
    """The event is in the database, memory does not know it: the next one is refused, then all is read."""
    world = build(database=where)
    sites = make_sites(world)
    for site in sites:
        world.coordinator.runs.touch(site.name)
    world.coordinator.tick()
    sites[0].act()
    behind = world.coordinator.runs._runs[world.plan.id].attempt
    assert behind is not None
    other = World(world.folder, world.plan, world.identities, world.admin, world.clock, world.database)
    sites[1].world = other  # what this one says reaches the database only
    sites[1].act()
    sites[1].world = world
    with pytest.raises(StorageFailed):
        sites[2].act()
    sites[2].missed, sites[2].key = False, (0, 0)
    assert world.store.transactions.in_doubt
    world.coordinator.start_over()
    assert not world.store.transactions.in_doubt
    assert world.status["open"]["answered"] == ["hospital-1", "hospital-2"]
    other.store.close()
    finish(world, sites)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3
    assert world.status["attempts"][0]["survivors"] == ["hospital-1", "hospital-2", "hospital-3"]


def test_a_commit_that_failed_puts_memory_in_doubt_and_a_change_that_failed_before_it_does_not(
    store: Store,
) -> None:
    def fails(_: sa.Connection) -> None:
        raise sa.exc.OperationalError("", {}, OSError())

    engine = store.transactions._database._engine
    for event, doubtful in (("begin", False), ("commit", True)):
        sa.event.listen(engine, event, fails)
        with pytest.raises(StorageFailed):
            store.register.add_token("t", name="st-marys", role="hospital", expires=1.0)
        sa.event.remove(engine, event, fails)
        assert store.transactions.in_doubt == doubtful
