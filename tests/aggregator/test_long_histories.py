"""What a start and a poll cost does not grow with what is over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import h11
import pytest
import sqlalchemy as sa

from aggregator.errors import NotFound
from aggregator.rounds import status
from aggregator.rounds.status import PlanReader
from aggregator.storage.store import Store
from aggregator.web.connections import _WholeAnswers
from door import Door
from medveil.identity import sign_request
from medveil.messages import Work
from medveil.plan import sign_approval
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, Phase, RoundKind
from world import World, finish, make_sites, play

Build = Callable[..., World]


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What is asked of the database inside the block."""
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(store.transactions._database._engine, "before_cursor_execute", note)
    yield asked
    sa.event.remove(store.transactions._database._engine, "before_cursor_execute", note)


def last_written_long_ago(world: World) -> None:
    """As if time had passed since the last write."""
    assert isinstance(world.database, Path)
    os.utime(world.database, (1.0, 1.0))


def given_up(number: int) -> AttemptReport:
    """A report of an attempt that the hospitals have given up."""
    return AttemptReport(
        round=number,
        attempt=1,
        kind=RoundKind.TRAIN,
        outcome="failed",
        reason="x",
        failed_in=Phase.UPLOAD,
        certificate="c" * 64,
    )


def test_a_start_reads_the_last_rounds_and_only_counts_the_others(build: Build) -> None:
    world = build(attempts=1, training={"rounds": 20, "local_steps": 1, "learning_rate": 1.0})
    for number in range(1, 11):
        key = AttemptKey(world.plan.id, number, 1)
        world.store.plans.open_attempt(key, kind=RoundKind.TRAIN, model="00", now=1.0)
        world.store.plans.end_attempt(world.plan.id, given_up(number))
    progress = world.store.plans.progress(world.plan.id)
    assert (progress.ended, [a.round for a in progress.recent]) == (10, [9, 10])
    world.restart()
    play(world, make_sites(world), until=lambda: world.phase != "")
    assert world.status["open"]["round"] == 11
    assert len(world.status["attempts"]) == 10


def test_a_start_forgets_the_vectors_of_every_attempt_that_is_not_open(build: Build) -> None:
    world = build()
    play(world, make_sites(world), until=lambda: world.phase == "agree")
    (open_one,) = world.blobs.uploads()
    world.blobs.put_segment("0123456789abcdef-7-1", 1, 0, b"left by a crash")
    world.restart()
    assert world.blobs.uploads() == {open_one}


def test_a_poll_that_finds_nothing_new_asks_the_database_nothing(build: Build) -> None:
    world = build()
    finish(world, make_sites(world))
    door = Door(world)
    first = door.ask(door.hospital(), "GET", f"{door.at}/work")
    seen = Work.from_bytes(first.content).mark
    path = f"{door.at}/work?seen={quote(seen)}&wait_s=0.05"
    asyncio.run(door.service.run(lambda: None))  # the lead is checked once a second, by whoever comes then
    last_written_long_ago(world)
    assert door.ask(door.hospital(), "GET", f"{door.at}/work").status_code == 200
    headers = sign_request(door.hospital(), "GET", path, b"").headers()
    with statements(world.store) as asked:
        answer = door.raw("GET", path, b"", headers)
    told = Work.from_bytes(answer.content)
    assert told == Work.from_bytes(first.content)
    assert told.head is not None  # without one a hospital would suspect that it is being kept from it
    assert asked == []
    door.service.close()


def test_going_on_without_anything_to_do_asks_the_database_nothing(build: Build) -> None:
    world = build()
    play(world, make_sites(world), until=lambda: world.phase == "share")
    with statements(world.store) as asked:
        assert not world.coordinator.go_on()
    assert asked == []


def test_the_clock_reads_the_database_only_when_somebody_has_written_to_it(build: Build) -> None:
    world = build(approvals=0)
    world.coordinator.tick()
    with statements(world.store) as asked:
        assert not world.coordinator.tick()
    assert asked == []
    other = Store(world.database, world.admin)  # a command of the admin, or a hospital's approval elsewhere
    for one in world.identities:
        other.plans.add_approval(world.plan.id, one.name, sign_approval(world.plan, one))
        world.coordinator.runs.touch(one.name)
    other.close()
    assert world.coordinator.tick()
    assert world.phase == "advertise"


def test_a_write_of_its_own_is_no_news_to_the_clock_and_one_of_others_right_after_it_is(build: Build) -> None:
    world = build()
    world.coordinator.tick()
    world.store.plans.open_attempt(AttemptKey(world.plan.id, 1, 1), kind=RoundKind.TRAIN, model="00", now=1.0)
    with statements(world.store) as asked:
        world.coordinator.tick()
    assert asked == []
    elsewhere = Store(world.database, world.admin)
    elsewhere.register.add_token("token", name="other", role="hospital", expires=2.0)
    elsewhere.close()
    with statements(world.store) as asked:
        world.coordinator.tick()
    assert asked != []


def test_what_a_version_was_made_of_is_read_once_for_all_its_hospitals_and_never_before_it_is_there(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "MOST_BEHIND", 1)
    world = build()
    with pytest.raises(NotFound):
        world.reader.behind(world.plan.id, 1)
    finish(world, make_sites(world))
    found = [world.reader.behind(world.plan.id, number) for number in (1, 2)]
    assert found == [PlanReader(world.store).behind(world.plan.id, number) for number in (1, 2)]
    with statements(world.store) as asked:
        assert world.reader.behind(world.plan.id, 2) == found[1]
    assert asked == []
    with statements(world.store) as asked:  # room is bounded
        assert world.reader.behind(world.plan.id, 1) == found[0]
    assert asked != []


def test_a_poll_by_somebody_else_does_not_wait_for_a_plan_that_is_none_of_its_business(build: Build) -> None:
    world = build()
    finish(world, make_sites(world))
    mark = world.coordinator.instructions.mark(world.plan.id) or ""
    assert not world.coordinator.instructions.is_news(world.plan.id, "hospital-1", mark)
    assert world.coordinator.instructions.is_news(world.plan.id, "nosy", mark)
    assert world.coordinator.instructions.still_idle(world.plan.id, "nosy", "") is None


def test_a_small_answer_leaves_in_one_write() -> None:
    line = _WholeAnswers(h11.SERVER)
    line.receive_data(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    line.next_event()
    head = h11.Response(status_code=200, headers=[("content-length", "2")])
    pieces = [line.send(event) for event in (head, h11.Data(data=b"ok"), h11.EndOfMessage())]
    assert pieces[0] == pieces[2] == b""
    assert pieces[1].startswith(b"HTTP/1.1 200")
    assert pieces[1].endswith(b"\r\n\r\nok")
