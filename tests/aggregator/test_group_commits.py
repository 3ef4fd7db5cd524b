"""Messages that arrive together share one commit; each is checked, answered, refused and logged by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from aggregator.errors import NotFound
from aggregator.rounds.intake import Received
from aggregator.rounds.runs import WrongRound
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.ledgerends import LedgerBehind
from aggregator.storage.register import Party
from aggregator.storage.store import Store
from aggregator.storage.tables import SETTINGS
from aggregator.storage.transactions import NotLeading
from databases import takes_the_lead
from door import Door
from medveil.identity import Identity, sign_request
from medveil.messages import sign_ledger_end
from medveil.rounds import AttemptKey, Phase
from privacy.secagg.server import NotAMember
from world import KINDS, STEPS, Site, World, finish, make_sites, play

Build = Callable[..., World]


def message(site: Site, *, ledger: str = "") -> Received:
    """What this site answers now, not sent yet."""
    work = site.poll()
    if site.key != (work.round, work.attempt):
        site.key, site.answered, site.state = (work.round, work.attempt), "", None
    kind, site.answered = KINDS[STEPS.index(Phase(work.phase))], work.phase
    party = Party(site.name, "hospital", site.identity.public_key)
    return Received(site.whole_key, party, kind, site.answer(work), ledger)


@contextmanager
def commits(store: Store) -> Iterator[list[None]]:
    """The write transactions that are committed in the block."""
    seen: list[None] = []

    def count(connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("medveil_reads", False):
            seen.append(None)

    engine = store.transactions._database._engine
    sa.event.listen(engine, "commit", count)
    yield seen
    sa.event.remove(engine, "commit", count)


@pytest.fixture
def world(build: Build) -> World:
    """Three hospitals that are asked for their keys."""
    made = build()
    play(made, make_sites(made), until=lambda: made.phase == "advertise")
    return made


def test_a_phase_that_all_answer_together_is_one_commit_and_an_entry_for_each_change(world: World) -> None:
    sites = make_sites(world)
    before = world.store.transactions.head.number
    for phase in STEPS[:-1]:
        assert world.phase == phase
        with commits(world.store) as made:
            outcomes, changed = world.coordinator.receive_together([message(s) for s in sites])
        assert (len(made), changed) == (1, True)
        assert {type(o) for o in outcomes} == {str}
    entries = list(world.store.log.entries(before))
    assert [e.actor for e in entries] == [*(s.name for s in sites), "aggregator"] * 5
    assert world.store.log.verify() == world.store.transactions.head == entries[-1].head
    finish(world, sites)


def test_what_is_refused_is_in_no_other_messages_way(world: World) -> None:
    sites = make_sites(world)
    good = [message(s) for s in sites]
    key = good[0].key
    late = Received(AttemptKey(key.plan, 9, 1), good[0].sender, "advertise", good[0].body)
    elsewhere = Received(AttemptKey("f" * 64, 1, 1), good[0].sender, "advertise", good[0].body)
    lying = Received(key, good[1].sender, "advertise", good[0].body)
    behind = Received(key, good[2].sender, "advertise", good[2].body, ledger_end(sites[2], 4))
    world.store.ledger_ends.note(good[2].sender, ledger_end(sites[2], 7))
    outcomes, changed = world.coordinator.receive_together(
        [late, good[0], elsewhere, lying, good[0], behind, good[1]]
    )
    wanted = [WrongRound, str, NotFound, NotAMember, str, LedgerBehind, str]
    assert [type(o) for o in outcomes] == wanted
    assert not changed
    assert world.status["open"]["answered"] == [sites[0].name, sites[1].name]
    world.restart()
    assert world.status["open"]["answered"] == [sites[0].name, sites[1].name]
    world.store.log.verify()


def ledger_end(site: Site, rows: int) -> str:
    return str(sign_ledger_end(site.identity, 0, rows, bytes(32)))


def test_if_the_database_refuses_one_change_nothing_is_kept_and_nothing_is_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = make_sites(world)
    good = [message(s, ledger=ledger_end(s, 3)) for s in sites]
    before, plans = world.dump(), world.store.plans
    add = plans.add_event

    def full(key: AttemptKey, number: int, *arguments: Any, **named: Any) -> None:
        add(key, 0 if number == 2 else number, *arguments, **named)  # a row that is there

    monkeypatch.setattr(plans, "add_event", full)
    with pytest.raises(StorageFailed):
        world.coordinator.receive_together(good)
    assert world.store.transactions.in_doubt
    assert world.dump() == before
    monkeypatch.undo()
    world.coordinator.start_over()
    assert not world.store.transactions.in_doubt
    for site in sites:
        site.poll()
    outcomes, changed = world.coordinator.receive_together(good)
    assert (changed, {type(o) for o in outcomes}) == (True, {str})
    assert world.store.ledger_ends.newest(sites[0].name) is not None
    world.store.log.verify()
    finish(world, sites)


def test_a_part_that_raises_is_undone_alone(where: Path | str) -> None:
    store = Store(where, Identity.generate("admin"))
    before = store.transactions.head
    with store.transactions.together():
        keep(store, "one")
        with pytest.raises(ValueError, match="second thought"):
            keep(store, "two", ValueError("a second thought"))
        keep(store, "three")
        assert store.transactions.head == before  # nobody is told of what is not on the disk
        with store.transactions.read() as tx:
            assert kept(tx) == {"one", "three"}
    with store.transactions.read() as tx:
        assert kept(tx) == {"one", "three"}
    assert store.log.verify() == store.transactions.head
    assert store.transactions.head.number == before.number + 2
    store.close()


def keep(store: Store, name: str, error: Exception | None = None) -> None:
    with store.transactions.change("note_ledger", "st-marys") as change:
        change.insert(SETTINGS, {"key": name, "value": ""}, "ledger.noted", head=name)
        if error is not None:
            raise error


def kept(tx: sa.Connection) -> set[str]:
    return set(tx.scalars(sa.select(SETTINGS.c.key))) & {"one", "two", "three"}


def test_the_lead_is_not_changed_together_with_anything_and_who_has_lost_it_keeps_nothing(
    where: Path | str,
) -> None:
    admin = Identity.generate("admin")
    store, other = Store(where, admin), Store(where, admin)
    assert takes_the_lead(store)
    with pytest.raises(StorageFailed):
        lead_with_others(store)
    with other.transactions.change("lead", "aggregator") as change:
        change.raise_lead()
    with pytest.raises(NotLeading), store.transactions.together():
        keep(store, "two")
    with other.transactions.read() as tx:
        assert kept(tx) == set()
    other.log.verify()
    store.close()
    other.close()


def lead_with_others(store: Store) -> None:
    with store.transactions.together():
        keep(store, "one")
        with (
            pytest.raises(ValueError, match="of their own"),
            store.transactions.change("lead", "x") as change,
        ):
            change.raise_lead()


def test_what_comes_while_the_disk_is_busy_is_one_commit_and_nobody_is_answered_before_it(
    build: Build,
) -> None:
    world = build(hospitals=4)
    for name in world.plan.names:
        world.coordinator.runs.touch(name)
    assert world.coordinator.tick()
    door, sites = Door(world), make_sites(world)
    busy = threading.Event()

    async def scene() -> tuple[int, list[httpx.Response]]:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
            held = asyncio.ensure_future(door.service.run(busy.wait))
            answers = [asyncio.ensure_future(send(client, site)) for site in sites]
            while len(door.service.messages._waiting) < len(sites):
                await asyncio.sleep(0)
            assert not any(one.done() for one in answers)
            with commits(world.store) as made:
                busy.set()
                await held
                answered = await asyncio.gather(*answers)
            return len(made), answered

    async def send(client: httpx.AsyncClient, site: Site) -> httpx.Response:
        told = message(site)
        target = f"{door.at}/rounds/1/attempts/1/{told.kind}"
        headers = sign_request(site.identity, "POST", target, told.body).headers()
        return await client.post(target, content=told.body, headers=headers)

    made, answers = asyncio.run(scene())
    door.service.close()
    assert made == 1
    assert [one.status_code for one in answers] == [200] * 4
    assert world.phase == "share"
