"""What a database may hold besides rows: this program's tables, and nothing that acts by itself.

A trigger, a view or a rule in a restored file would run with the aggregator's rights whenever a row is read
or written. So the list of what a SQLite file holds is read before anything else in it: that list itself runs
nothing. Source: "Defense Against The Dark Arts", sqlite.org/security.html.
"""

from __future__ import annotations

import hashlib
import re

import sqlalchemy as sa

from medveil.errors import Error

SCHEMAS = {
    "0001": {"b74db620076d235a3d22fd2d80628b9d", "4ea8a766eb61848f0d7df481df3f8222"},
    "0002": {"c1221d48cc7ac00c35c5b1a4d239987e"},
    "0003": {"d10b43238329ab8ebbfd07b6c18aae9f"},
    "0004": {"4ea1d5344506521951a78355e8ecc6a0"},
    "0005": {"59735a1215035e7c4c9c68a211a23c0c"},
    "0006": {"4fefbd7b66c3c03baec35c734cdb254e"},
}
"""Digests of :func:`described` for each schema version: made by the migrations, or by version 0.1.0 before
there were any. A test makes them anew."""
_TABLES = sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master")
_TRIGGERS = sa.text(
    "SELECT 'trigger', t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = current_schema() AND NOT t.tgisinternal "
    "UNION ALL SELECT 'rule', r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') "
    "UNION ALL SELECT 'view', c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = current_schema() AND c.relkind IN ('v', 'm') AND c.relname = ANY(:ours)"
)


class ForeignSchema(Error):
    """A database that holds what this program never makes."""

    code = "foreign-schema"

    def __init__(self, *, found: str) -> None:
        super().__init__(
            what=f"The database holds something that MedVeil did not make: {found}.",
            meaning="It could change, keep or show rows behind the aggregator's back, so it was not opened.",
            remedy="Restore a backup that you trust, and find out who could write to this one.",
        )


class DamagedDatabase(Error):
    """A SQLite file whose pages do not fit together."""

    code = "damaged-database"

    def __init__(self) -> None:
        super().__init__(
            what="The database file is damaged: SQLite's own check does not pass.",
            meaning="Rows may be missing or doubled, so it is not used.",
            remedy="Restore the newest backup into a new folder, and look at this machine's disk.",
        )


def refuse_what_acts(tx: sa.Connection) -> None:
    """Whether nothing but ordinary tables is there. To be called before anything else is read.

    Raises: ForeignSchema.
    """
    for kind, name, _, sql in tx.execute(_TABLES):
        statement = _plain(sql or "")
        ordinary = kind == "table" and statement.startswith("create table")
        automatic = kind == "index" and sql is None
        if not (ordinary or automatic):
            raise ForeignSchema(found=f"a {kind} called {name}")


def check_tables(tx: sa.Connection, revision: str) -> None:
    """Whether the tables are exactly those of a schema version. Raises: ForeignSchema."""
    if described(tx) not in SCHEMAS[revision]:
        names = sorted(str(row.name) for row in tx.execute(_TABLES) if row.type == "table")
        raise ForeignSchema(found=f"tables other than those of version {revision}, among {', '.join(names)}")


def described(tx: sa.Connection) -> str:
    """A digest of every table and index of a SQLite database, however its statements are spaced."""
    rows = sorted((str(kind), str(name), _plain(sql or "")) for kind, name, _, sql in tx.execute(_TABLES))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]


def refuse_what_acts_in_postgres(tx: sa.Connection, ours: list[str]) -> None:
    """The same for PostgreSQL: no trigger or rule in our schema, and no view in place of a table of ours.

    Raises: ForeignSchema.
    """
    for kind, name in tx.execute(_TRIGGERS, {"ours": ours}):
        raise ForeignSchema(found=f"a {kind} called {name}")


def check_file(tx: sa.Connection) -> None:
    """SQLite's own look at every page. Raises: DamagedDatabase."""
    if tx.execute(sa.text("PRAGMA quick_check(1)")).scalar_one() != "ok":
        raise DamagedDatabase()


def _plain(sql: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.replace('"', "").lower().split()))
