"""A backup of a running aggregator is whole; what it restores goes on, and those who saw more notice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.admin import DumpFirst, NoDatabase, migrate_database, set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.auditlog import BadEntry
from aggregator.backup import NotThere, back_up, check, restore
from aggregator.cli import app, serve
from aggregator.settings import Settings
from aggregator.storage.database import OldSchema, StillRunning
from databases import to_version_1
from postgres import Cluster
from restoring import noted, put_back
from world import Site, World, finish, make_sites

Build = Callable[..., World]


def running(world: World) -> Settings:
    """A world as the folder of an aggregator."""
    settings = Settings(world.folder)
    settings.save()
    if not (world.folder / "admin.key").exists():
        world.admin.save(world.folder / "admin.key")
    return settings


def until(world: World, sites: list[Site], phase: str) -> None:
    while world.phase != phase:
        for site in sites:
            site.act()
        world.coordinator.tick()


def test_a_backup_in_the_middle_of_a_round_is_restored_and_the_study_ends(build: Build, folder: Path) -> None:
    world = build()
    sites = make_sites(world)
    settings = running(world)
    finish_round(world, sites)
    until(world, sites, "unmask")
    assert world.store.transactions.lead()
    head = back_up(settings, folder / "backup")
    assert head == world.store.transactions.head
    published = world.status["versions"]
    world.store.register.add_token("t" * 48, name="newcomer", role="hospital", expires=1e12)
    # and then it burned down
    witness = world.store.transactions.head
    world.store.close()
    shutil.rmtree(world.folder)
    restored = put_back(folder / "backup", Settings(world.folder))
    world.restart()
    assert world.status["open"]["phase"] == "abort"  # its masked vectors are in no backup
    assert [(a["round"], a["outcome"]) for a in world.status["attempts"]] == [(1, "done")]
    assert world.status["versions"] == published
    assert world.store.log.verify() == restored
    with pytest.raises(BadEntry):  # a hospital has seen more than this log holds
        world.store.log.verify([witness])
    status = finish(world, sites)
    ended = [(a["round"], a["attempt"], a["outcome"], a.get("reason")) for a in status["attempts"]]
    assert ended[1:3] == [(2, 1, "failed", "restored"), (2, 2, "done", None)]
    assert status["attempts"][-1]["outcome"] == "done"
    assert (world.folder / "admin.key").stat().st_mode & 0o077 == 0


def finish_round(world: World, sites: list[Site]) -> None:
    while not world.status["attempts"]:
        for site in sites:
            site.act()
        world.coordinator.tick()


def test_a_damaged_backup_is_refused_and_nothing_written(build: Build, folder: Path) -> None:
    settings = running(build())
    backup = folder / "backup"
    back_up(settings, backup)
    fingerprint = noted(backup)
    check(backup, admin_key=fingerprint)
    for name in sorted(str(p.relative_to(backup)) for p in backup.rglob("*") if p.is_file()):
        whole = (backup / name).read_bytes()
        for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
            (backup / name).unlink() if damaged is None else (backup / name).write_bytes(damaged)
            with pytest.raises(NotThere):
                restore(check(backup, admin_key=fingerprint), Settings(folder / "new"))
            (backup / name).write_bytes(whole)
    (backup / "models" / "more").write_bytes(b"?")
    with pytest.raises(NotThere, match="added"):
        put_back(backup, Settings(folder / "new"))
    assert not (folder / "new").exists()


def test_a_backup_that_changes_after_it_was_checked_leaves_nothing(build: Build, folder: Path) -> None:
    backup, new = folder / "backup", Settings(folder / "new")
    back_up(running(build()), backup)
    for name in ("admin.key", "aggregator.db"):
        checked, whole = check(backup, admin_key=noted(backup)), (backup / name).read_bytes()
        (backup / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(NotThere, match="changed after it was checked"):
            restore(checked, new)
        assert not any(new.folder.iterdir())
        (backup / name).write_bytes(whole)
    restore(checked, new)


def test_neither_a_backup_nor_a_restored_aggregator_overwrites_anything(build: Build, folder: Path) -> None:
    settings = running(build())
    back_up(settings, folder / "backup")
    with pytest.raises(NotThere, match="not empty"):
        back_up(settings, folder / "backup")
    with pytest.raises(NotThere, match="not empty"):
        put_back(folder / "backup", settings)


@pytest.mark.slow
def test_with_postgresql_a_dump_and_the_files_are_a_backup_and_the_study_goes_on_from_it(
    build: Build, folder: Path, cluster: Cluster
) -> None:
    world = build(database=cluster.url(cluster.database()))
    until(world, make_sites(world), "share")
    settings = Settings(world.folder, database=str(world.database))
    settings.save()
    world.admin.save(world.folder / "admin.key")
    name = str(world.database).rpartition("?")[0].rpartition("/")[2]
    dumped = cluster.dumped_and_restored(name)  # while the aggregator runs
    assert back_up(settings, folder / "backup") is None
    world.store.close()
    restored = put_back(folder / "backup", Settings(folder / "new", database=cluster.url(dumped)))
    assert not (folder / "new" / "aggregator.db").exists()
    world.folder, world.database = folder / "new", cluster.url(dumped)
    world.restart()
    assert world.store.log.verify() == restored
    status = finish(world, make_sites(world))
    assert [a["outcome"] for a in status["attempts"]] == ["failed", "done", "done", "done"]


def test_an_old_database_is_refused_until_migrate_has_kept_a_copy_of_it(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    database = settings.folder / "aggregator.db"
    assert migrate_database(settings, dumped=False) is None
    to_version_1(database)
    before = database.read_bytes()
    runner, at = CliRunner(), ["--folder", str(settings.folder)]
    assert isinstance(runner.invoke(app, ["study", "status", *at]).exception, OldSchema)
    with pytest.raises(OldSchema):
        serve(settings.folder)
    assert runner.invoke(app, ["migrate", *at]).exit_code == 0
    (copy,) = settings.folder.glob("aggregator.db.before-*")
    assert len(copy.read_bytes()) == len(before)
    assert runner.invoke(app, ["audit", "verify", *at]).exit_code == 0


def test_nothing_is_migrated_while_an_aggregator_runs(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    store = open_store(settings)
    assert store.transactions.lead()
    to_version_1(settings.where)
    with pytest.raises(StillRunning):
        migrate_database(settings, dumped=False)
    store.close()
    assert migrate_database(settings, dumped=False) is not None


def test_a_postgresql_database_is_migrated_only_when_there_is_a_dump(folder: Path, cluster: Cluster) -> None:
    settings = Settings(folder / "aggregator", database=cluster.url(cluster.database()))
    set_up_aggregator(settings)
    to_version_1(settings.where)
    with pytest.raises(DumpFirst):
        migrate_database(settings, dumped=False)
    migrate_database(settings, dumped=True)
    assert CliRunner().invoke(app, ["audit", "verify", "--folder", str(settings.folder)]).exit_code == 0


def test_an_aggregator_whose_database_is_gone_does_not_begin_anew(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    (settings.folder / "aggregator.db").unlink()
    with pytest.raises(NoDatabase):
        serve(settings.folder)
    assert not (settings.folder / "aggregator.db").exists()


def test_the_commands_back_up_and_restore(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    runner = CliRunner()
    made = runner.invoke(app, ["backup", str(folder / "b"), "--folder", str(settings.folder)])
    assert made.exit_code == 0, made.output
    given = ["--yes", "--admin-key", noted(folder / "b")]
    put = runner.invoke(app, ["restore", str(folder / "b"), "--folder", str(folder / "new"), *given])
    assert put.exit_code == 0, put.output
    verified = runner.invoke(app, ["audit", "verify", "--folder", str(folder / "new")])
    assert verified.exit_code == 0
    assert (folder / "new" / "tls" / "server.key").is_file()
