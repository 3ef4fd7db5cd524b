"""The schema changes by migrations only: old databases are taken over whole, newer ones are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import postgres
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.database import (
    MIGRATIONS,
    REVISIONS,
    Database,
    OldSchema,
    UnknownSchema,
    UnusableDatabase,
)
from aggregator.storage.schema import ForeignSchema
from aggregator.storage.store import Store
from aggregator.storage.tables import META
from databases import run, to_version_1
from medveil.identity import Identity
from world import World, make_sites, tables_of

RELEASED = {
    "m0001_first.py": "da326e69bdd2aec218913517d6252642624a288f2872776de4870bfc31cff6d8",
    "m0002_audit.py": "ed6c6f2527b5c37b62588960be8777655aa8170ef99de7bdf82fbe61a41e4783",
    "m0003_people.py": "c071e8bddf65297afd4e56681676b1e4d0b68bb78db629200be6739d89a36658",
    "m0004_refusals.py": "592c41bd35cce30b20e1e29b39c0f2ab1a9aa0ac8eb97035de40bcc567177624",
    "m0005_sign_in.py": "4230791fb227c0c3cb9c989ddbbd19ef2d847e559060006c1bbf96bba3037b87",
    "m0006_directives.py": "810d20e655f9d994077c97837cef8b727a64a0c1618a58f6c3aa87b50a61f7bb",
}
"""SHA-256 of every migration. One that was released is never edited: a new one is added."""
ADMIN = Identity.generate("admin")


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, folder: Path) -> Path | str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return folder / "aggregator.db"
    server: postgres.Cluster = request.getfixturevalue("cluster")
    return server.url(server.database(template="template1"))


def test_a_migration_is_never_edited() -> None:
    files = sorted((MIGRATIONS / "versions").glob("*.py"))
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files} == RELEASED


def test_the_program_knows_every_migration_in_order() -> None:
    script = ScriptDirectory(str(MIGRATIONS), version_locations=[str(MIGRATIONS / "versions")])
    assert tuple(reversed([r.revision for r in script.walk_revisions()])) == REVISIONS


def test_the_migrations_make_exactly_the_tables_of_the_program(where: Path | str) -> None:
    Database(where).close()
    address = f"sqlite:///{where}" if isinstance(where, Path) else where
    with sa.create_engine(address, poolclass=sa.NullPool).connect() as tx:
        assert compare_metadata(MigrationContext.configure(tx), META) == []


def test_a_database_of_version_1_is_refused_until_it_is_migrated(where: Path | str) -> None:
    Store(where, ADMIN).close()
    to_version_1(where)
    before = tables_of(where) if isinstance(where, Path) else []
    with pytest.raises(OldSchema):
        Store(where, ADMIN)
    if before:
        assert tables_of(where) == before


def test_an_open_attempt_of_version_1_goes_on_after_the_migration(
    build: Callable[..., World], where: Path | str
) -> None:
    world = build(database=where)
    sites = make_sites(world)
    while world.phase != "upload":
        for site in sites:
            site.act()
        world.coordinator.tick()
    sites[0].act()
    opened = world.status["open"]
    world.store.close()
    to_version_1(where)
    Database.migrated(where).close()
    world.restart()
    assert world.status["open"] == opened
    while not world.status["attempts"]:
        for site in sites:
            site.act()
        world.coordinator.tick()
    (attempt,) = world.status["attempts"]
    assert (attempt["outcome"], attempt["attempt"], len(attempt["survivors"])) == ("done", 1, 3)
    world.store.log.verify()
    assert {"log.begun", "row.taken-over"} <= {e.action for e in world.store.log.entries()}


@pytest.mark.parametrize("table", ["alembic_version", "settings"])
def test_a_newer_database_is_refused_and_left_alone(where: Path | str, table: str) -> None:
    Store(where, ADMIN).close()
    if table == "alembic_version":
        run(where, "UPDATE alembic_version SET version_num = '9999'")
    else:
        run(where, "DROP TABLE alembic_version", "UPDATE settings SET value = '77' WHERE key = 'schema'")
    before = tables_of(where)
    for open_it in (lambda: Store(where, ADMIN), lambda: Database.migrated(where)):
        with pytest.raises(UnknownSchema):
            open_it()
    assert tables_of(where) == before


def test_a_database_of_another_program_is_refused(where: Path | str) -> None:
    run(where, "CREATE TABLE patients (id INTEGER)")
    for open_it in (lambda: Store(where, ADMIN), lambda: Database.migrated(where)):
        with pytest.raises(UnknownSchema):
            open_it()


def test_a_migration_that_fails_changes_nothing(where: Path | str) -> None:
    """Version 0.1.0's database with one table that is in the way of the new one."""
    Store(where, ADMIN).close()
    to_version_1(where)
    run(where, "CREATE TABLE audit (mine INTEGER)")
    with pytest.raises((StorageFailed, ForeignSchema)):
        Database.migrated(where)
    run(where, "DROP TABLE audit")
    with pytest.raises(OldSchema):
        Database(where)
    Database.migrated(where).close()
    store = Store(where, ADMIN)
    store.log.verify()
    store.close()


@pytest.mark.parametrize("address", ["mysql://somewhere/db", "nonsense", "sqlite:///relative.db"])
def test_an_address_that_is_no_postgresql_url_is_refused(address: str) -> None:
    with pytest.raises(UnusableDatabase):
        Store(address, ADMIN)
