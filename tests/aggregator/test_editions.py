"""What is known of who is enrolled outlives the aggregator's own commits, and nobody else's."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.storage import database
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.editions import ChangeCounter, Editions
from aggregator.storage.store import Store
from aggregator.storage.tables import PARTIES, REVOCATIONS
from door import Door
from medveil.identity import Identity
from world import World, fresh_file, make_sites, play

Build = Callable[..., World]
ADMIN, NUMBERS = Identity.generate("admin"), count()
WRITES = """
import sqlite3, sys
writer = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    writer.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
"""


@pytest.fixture
def file(folder: Path) -> Path:
    """A database with its tables and no row."""
    return fresh_file(folder)


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    """A store that knows the present edition, and in which anna is enrolled."""
    opened = Store(file, ADMIN)
    enrol(opened, "anna")
    opened.register.party("anna")
    assert opened.register.edition() is not None
    yield opened
    opened.close()


@pytest.fixture
def elsewhere(store: Store, file: Path) -> Iterator[Store]:
    """What a command does while the aggregator runs."""
    opened = Store(file, ADMIN)
    yield opened
    opened.close()


def enrol(store: Store, name: str) -> None:
    store.register.add_token(f"token of {name}", name=name, role="hospital", expires=9.0)
    store.register.enrol(
        f"token of {name}", name=name, public_key=Identity.generate(name).public_key, now=1.0
    )


def note(store: Store) -> None:
    """A change that has nothing to do with who is enrolled."""
    store.register.add_token(f"token {next(NUMBERS)}", name="x", role="hospital", expires=9.0)


def test_a_change_of_our_own_that_leaves_the_register_alone_keeps_its_edition(store: Store) -> None:
    before = store.register.edition()
    for _ in range(3):
        note(store)
        with store.transactions.together():
            note(store)
            note(store)
    assert store.register.edition() == before is not None


@pytest.mark.parametrize("together", [False, True])
def test_a_change_of_our_own_to_the_register_is_another_edition(store: Store, together: bool) -> None:
    before = store.register.edition()
    if together:
        with store.transactions.together():
            store.register.revoke("anna", now=1.0)
    else:
        store.register.revoke("anna", now=1.0)
    found, edition = store.register.party_as_of("anna")
    assert found is not None
    assert found.revoked
    assert before != edition == store.register.edition()


def test_whatever_is_written_is_another_edition_of_the_whole(store: Store, elsewhere: Store) -> None:
    seen = [store.log.edition_asked()]
    for write in (lambda: note(store), lambda: enrol(store, "ben"), lambda: note(elsewhere)):
        write()
        assert store.log.edition() != seen[-1]
        seen.append(store.log.edition_asked())
        assert store.log.edition() == seen[-1]
    assert None not in seen
    assert len(set(seen)) == len(seen)


def test_a_change_of_another_process_is_another_edition_at_once(store: Store, elsewhere: Store) -> None:
    before = store.register.edition()
    note(elsewhere)  # what it has written is not known here
    assert store.register.edition() is None
    assert store.register.party_as_of("anna")[1] == store.register.edition() != before


def when(part: Any, name: str, monkeypatch: pytest.MonkeyPatch, *, first: Callable[[], object]) -> None:
    """Do something once just before a method is called."""
    real, left = getattr(part, name), [first]

    def called(*args: Any) -> Any:
        if left:
            left.pop()()
        return real(*args)

    monkeypatch.setattr(part, name, called)


@pytest.mark.parametrize("together", [False, True])
def test_a_change_that_comes_between_our_commit_and_our_looking_at_it_is_no_change_of_ours(
    store: Store, elsewhere: Store, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    def revoke() -> None:
        elsewhere.register.revoke("anna", now=1.0)

    when(store.transactions._database.editions, "wrote", monkeypatch, first=revoke)
    if together:
        with store.transactions.together():
            note(store)
    else:
        note(store)
    assert store.register.edition() is None
    note(store)  # and none of ours makes up for it
    assert store.register.edition() is None


def test_a_change_that_comes_just_before_ours_is_no_change_of_ours(
    store: Store, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revoke() -> None:
        elsewhere.register.revoke("anna", now=1.0)

    when(store.transactions._database, "write", monkeypatch, first=revoke)
    note(store)
    assert store.register.edition() is None


def test_nobody_else_commits_while_we_count(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def try_to_write() -> None:
        try:
            with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            told.append(str(error))

    when(store.transactions._database.editions, "count", monkeypatch, first=try_to_write)
    before = store.register.edition()
    note(store)
    assert told == ["database is locked"]
    assert store.register.edition() == before


def test_a_commit_of_ours_that_failed_is_not_counted_and_the_next_one_of_anybody_is_seen(
    store: Store, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    before = store.register.edition()
    with monkeypatch.context() as patch:
        patch.setattr(database, "step", fail)
        with pytest.raises(StorageFailed):
            note(store)
    assert store.register.edition() == before  # nothing was written
    elsewhere.register.revoke("anna", now=1.0)  # as many commits as there would have been
    assert store.register.edition() is None


def test_a_change_that_inserted_nothing_counts_for_nothing(store: Store, elsewhere: Store) -> None:
    store.transactions.probe()  # writes what is there already: SQLite may find that there is nothing to do
    elsewhere.register.revoke("anna", now=1.0)
    assert store.register.edition() is None


def test_what_is_read_within_a_change_of_ours_has_no_edition(store: Store) -> None:
    with store.transactions.together():
        store.register.revoke("anna", now=1.0)
        assert store.register.party_as_of("anna")[1] is None


def test_a_page_of_a_commit_that_is_on_its_way_takes_the_edition_away(file: Path) -> None:
    counts = [7]
    editions = Editions(lambda: counts[-1])
    tables = (PARTIES, REVOCATIONS)
    known = editions.inside(tables)
    assert editions.now(tables) == known is not None
    counts.append(8)  # the first page is written; whether the commit will stand is not known
    assert editions.now(tables) is None
    counts.append(7)  # it was undone
    assert editions.now(tables) == known
    counts.append(8)  # it stood
    editions.wrote(7, [])
    assert editions.now(tables) == known
    editions.wrote(8, [REVOCATIONS])
    counts.append(9)
    assert editions.now(tables) not in (None, known)


def test_a_file_that_is_written_ahead_does_not_count_and_is_asked_each_time(file: Path) -> None:
    counter = ChangeCounter(file)
    assert counter.look() is not None
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA journal_mode=WAL")
    assert counter.look() is None
    counter.close()


def test_a_database_that_is_closed_leaves_the_others_their_locks(store: Store, file: Path) -> None:
    second = Store(file, ADMIN)
    assert second.register.edition() is None
    second.register.party("anna")
    assert second.register.edition() is not None
    with store.transactions.change("add_token", "admin"):
        second.close()
        command = [sys.executable, "-S", "-E", "-c", WRITES, str(file)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "database is locked"


def test_on_postgresql_each_request_asks(where: Path | str) -> None:
    opened = Store(where, ADMIN)
    enrol(opened, "anna")
    edition = opened.register.party_as_of("anna")[1]
    assert (edition is None) is isinstance(where, str)
    assert opened.register.edition() == edition
    opened.close()


def test_a_round_asks_who_its_hospitals_are_once_and_refuses_whoever_is_revoked_in_it(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    door, asked = Door(world), list[str]()
    real = door.service.register.party_as_of
    monkeypatch.setattr(
        door.service.register, "party_as_of", lambda name: (asked.append(name), real(name))[1]
    )
    hospitals = [door.hospital(i) for i in (1, 2, 3)]
    for phase in ("advertise", "share", "commit", "upload"):
        play(world, make_sites(world), until=lambda phase=phase: world.phase == phase)  # type: ignore[misc]
        for one in hospitals:
            assert door.ask(one, "GET", f"{door.at}/work").status_code == 200
    assert sorted(asked) == [one.name for one in hospitals]
    elsewhere = Store(world.database, world.admin)
    elsewhere.register.revoke("hospital-2", now=2.0)
    elsewhere.close()
    door.refused(door.ask(hospitals[1], "GET", f"{door.at}/work"), 403, "revoked")
    assert door.ask(hospitals[0], "GET", f"{door.at}/work").status_code == 200
    door.service.close()
