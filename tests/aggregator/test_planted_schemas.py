"""What acts by itself in a database or a backup is found before anything else in it is read."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from typer.testing import CliRunner

from aggregator.admin import set_up_aggregator
from aggregator.adminkey import load_admin, open_store
from aggregator.backup import (
    MANIFEST,
    NotSigned,
    NotThere,
    OtherKey,
    _digest,
    _files,
    _signed,
    back_up,
    check,
    opens,
    restore,
)
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage import database, schema
from aggregator.storage.database import Database
from aggregator.storage.schema import SCHEMAS, DamagedDatabase, ForeignSchema
from databases import run
from medveil.ids import fingerprint
from medveil.shown import NotConfirmed
from postgres import Cluster
from restoring import noted, put_back
from tries import leading

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
PLANTED = {
    "a trigger that keeps what is deleted": [
        "CREATE TABLE kept (body BLOB)",
        "CREATE TRIGGER keep AFTER DELETE ON events BEGIN INSERT INTO kept VALUES (old.body); END",
    ],
    "a trigger and nothing else": [
        "CREATE TRIGGER t AFTER INSERT ON audit BEGIN UPDATE parties SET role = 'monitor'; END"
    ],
    "a trigger that never ends": [f"CREATE TRIGGER t BEFORE INSERT ON audit BEGIN {ENDLESS}; END"],
    "a view in place of a table": [
        "ALTER TABLE readers RENAME TO readers_",
        f"CREATE VIEW readers AS SELECT *, ({ENDLESS}) AS more FROM readers_",
    ],
    "a view in place of the version": [
        "DROP TABLE alembic_version",
        f"CREATE VIEW alembic_version AS SELECT ({ENDLESS}) AS version_num",
    ],
    "one more table": ["CREATE TABLE more (a)"],
    "one more column": ["ALTER TABLE tokens ADD COLUMN more VARCHAR"],
    "a table that checks with its own words": [
        "DROP TABLE readers",
        "CREATE TABLE readers (plan VARCHAR NOT NULL, name VARCHAR NOT NULL, may BOOLEAN NOT NULL "
        "CHECK (may), PRIMARY KEY (plan, name), FOREIGN KEY(plan) REFERENCES plans (id))",
    ],
    "an index": ["CREATE INDEX i ON events (body)"],
    "an index over an expression": ["CREATE INDEX i ON events (length(body))"],
    "a virtual table": ["CREATE VIRTUAL TABLE v USING fts5(a)"],
    "a table too few": ["DROP TABLE readers"],
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(tmp_path / "aggregator")
    set_up_aggregator(made)
    return made


def plant(file: Path, statements: list[str]) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as link:
        for statement in statements:
            link.execute(statement)


def signed_again(backup: Path, settings: Settings) -> None:
    """By somebody who has the admin key too: the files are what the signed list says."""
    content = json.loads((backup / MANIFEST).read_text())
    told = {k: v for k, v in content.items() if k not in ("admin_key", "signature")}
    told["files"] = {name: _digest(path) for name, path in _files(backup) if name != MANIFEST}
    (backup / MANIFEST).write_text(json.dumps(_signed(told, load_admin(settings.folder))))


@pytest.mark.parametrize("what", leading(PLANTED, 3))
def test_a_database_with_anything_planted_is_refused_on_every_way_to_it(
    settings: Settings, tmp_path: Path, what: str
) -> None:
    back_up(settings, tmp_path / "backup")
    plant(tmp_path / "backup" / "aggregator.db", PLANTED[what])
    signed_again(tmp_path / "backup", settings)
    with pytest.raises(ForeignSchema):
        put_back(tmp_path / "backup", Settings(tmp_path / "new"))
    plant(settings.folder / "aggregator.db", PLANTED[what])
    for way in (lambda: open_store(settings), lambda: Database.migrated(settings.where)):
        with pytest.raises(ForeignSchema):
            way()
    with pytest.raises(ForeignSchema):
        back_up(settings, tmp_path / "another")
    at = ["--folder", str(settings.folder)]
    for verb in (["audit", "verify"], ["study", "status"], ["migrate"], ["new-admin-key"]):
        refused = CliRunner().invoke(app, [*verb, *at])
        assert isinstance(refused.exception, ForeignSchema), (verb, refused.output)


def test_the_digests_are_those_of_what_the_migrations_make(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(database.MIGRATIONS))
    config.set_main_option("version_locations", str(database.MIGRATIONS / "versions"))
    assert set(SCHEMAS) == set(database.REVISIONS)
    for revision in database.REVISIONS:
        engine = database._engine(tmp_path / f"{revision}.db")
        with engine.connect() as tx, tx.begin():
            config.attributes["connection"] = tx
            command.upgrade(config, revision)
            assert schema.described(tx) in SCHEMAS[revision]
            if revision == "0001":  # what version 0.1.0 made, before there were migrations
                tx.execute(sa.text("DROP TABLE alembic_version"))
                assert schema.described(tx) in SCHEMAS[revision]
        engine.dispose()


def test_a_vacuumed_database_is_the_same_to_the_eye(settings: Settings) -> None:
    plant(settings.folder / "aggregator.db", ["VACUUM"])
    open_store(settings).close()


def test_nothing_in_a_schema_may_call_what_sqlite_calls_unsafe(settings: Settings) -> None:
    engine = database._engine(settings.folder / "aggregator.db")
    with engine.connect() as tx:
        assert tx.execute(sa.text("PRAGMA trusted_schema")).scalar_one() == 0
    engine.dispose()


def test_a_page_that_does_not_fit_is_found_by_verify(settings: Settings) -> None:
    file = settings.folder / "aggregator.db"
    with closing(sqlite3.connect(file)) as link:
        root = link.execute("SELECT rootpage FROM sqlite_master WHERE name = 'revocations'").fetchone()[0]
        size = link.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(file.read_bytes())
    data[(root - 1) * size + 3 : (root - 1) * size + 5] = b"\x7f\x7f"  # cells that the page has no room for
    file.write_bytes(data)
    refused = CliRunner().invoke(app, ["audit", "verify", "--folder", str(settings.folder)])
    assert isinstance(refused.exception, DamagedDatabase)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER keep BEFORE UPDATE ON events FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE keep AS ON DELETE TO events DO INSTEAD NOTHING",
        "ALTER TABLE readers RENAME TO readers_; CREATE VIEW readers AS SELECT * FROM readers_",
    ],
)
def test_postgresql_with_a_trigger_a_rule_or_a_view_is_refused(cluster: Cluster, statement: str) -> None:
    url = cluster.url(cluster.database())
    Database(url).close()
    run(url, *statement.split("; "))
    with pytest.raises(ForeignSchema):
        Database(url)


def test_a_backup_of_another_key_or_with_a_changed_list_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    backup, other = tmp_path / "backup", Settings(tmp_path / "other")
    back_up(settings, backup)
    set_up_aggregator(other)
    back_up(other, tmp_path / "of-another")
    with pytest.raises(OtherKey):  # whole and well signed, by somebody else
        restore(check(tmp_path / "of-another", admin_key=noted(backup)), Settings(tmp_path / "new"))
    for typed in ("", noted(backup)[:-1], noted(backup)[:19]):
        with pytest.raises(OtherKey):
            check(backup, admin_key=typed)
    check(backup, admin_key=noted(backup).lower().replace("-", " "))
    content = json.loads((backup / MANIFEST).read_text())
    for name in ("created", "head"):
        (backup / MANIFEST).write_text(json.dumps({**content, name: "changed"}))
        with pytest.raises(NotThere, match="does not fit its signature"):
            check(backup, admin_key=noted(backup))
    assert not (tmp_path / "new").exists()


def test_an_unsigned_backup_of_an_earlier_version_is_taken_on_purpose_only(
    settings: Settings, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    back_up(settings, backup)
    key = noted(backup)
    content = json.loads((backup / MANIFEST).read_text())
    plain = {k: v for k, v in content.items() if k not in ("admin_key", "signature")}
    (backup / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(NotSigned):
        restore(check(backup, admin_key=key), Settings(tmp_path / "new"))
    at = ["--folder", str(tmp_path / "new"), "--yes"]
    refused = CliRunner().invoke(app, ["restore", str(backup), *at])
    assert isinstance(refused.exception, NotSigned)
    taken = CliRunner().invoke(app, ["restore", str(backup), *at, "--accept-unsigned"])
    assert taken.exit_code == 0, taken.output


def test_no_link_in_a_backup_or_a_folder_is_followed(settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not ours")
    (settings.folder / "models").mkdir(exist_ok=True)
    os.symlink(secret, settings.folder / "models" / "m")
    with pytest.raises(NotThere, match="link"):
        back_up(settings, tmp_path / "one")
    (settings.folder / "models" / "m").unlink()
    back_up(settings, tmp_path / "two")
    for name, target in (("models/more", secret), ("more", tmp_path)):
        os.symlink(target, tmp_path / "two" / name)
        with pytest.raises(NotThere, match="link"):
            put_back(tmp_path / "two", Settings(tmp_path / "new"))
        (tmp_path / "two" / name).unlink()
    os.mkfifo(tmp_path / "two" / "pipe")
    with pytest.raises(NotThere, match="no file"):
        put_back(tmp_path / "two", Settings(tmp_path / "new"))


def test_the_settings_of_a_backup_are_shown_and_asked_for(settings: Settings, tmp_path: Path) -> None:
    elsewhere = Settings(
        settings.folder, database="postgresql://medveil:hunter2@evil.example/x", blobs="s3://theirs/x"
    )
    told = dict(opens(elsewhere))
    assert "evil.example" in told["database"]
    assert "hunter2" not in told["database"]
    assert told["models"] == "s3://theirs/x"
    back_up(settings, tmp_path / "backup")
    at = ["restore", str(tmp_path / "backup"), "--folder", str(tmp_path / "new")]
    refused = CliRunner().invoke(app, [*at, "--admin-key", noted(tmp_path / "backup")])
    assert isinstance(refused.exception, NotConfirmed)
    assert "listens" in refused.output
    assert not (tmp_path / "new").exists()


def test_the_fingerprint_is_shown_when_the_backup_is_made(settings: Settings, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["backup", str(tmp_path / "b"), "--folder", str(settings.folder)])
    assert noted(tmp_path / "b") in made.output
    with closing(sqlite3.connect(tmp_path / "b" / "aggregator.db")):
        key = bytes.fromhex(json.loads((tmp_path / "b" / MANIFEST).read_text())["admin_key"])
    assert fingerprint(key) == noted(tmp_path / "b")
