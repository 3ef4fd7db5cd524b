"""One database behind the store: SQLite in a file, or PostgreSQL by its URL. Transactions, schema, errors.

SQLite keeps its rollback journal with ``synchronous=EXTRA`` and PostgreSQL its ``synchronous_commit``: what
was acknowledged is on the disk. Writers take turns, on both databases and across processes, so that each one
sees everything that was written before it.
"""

from __future__ import annotations

import io
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa

from aggregator.storage import schema
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.crashpoints import step
from aggregator.storage.editions import ChangeCounter, Editions
from aggregator.storage.leadlock import LeadLock
from aggregator.storage.tables import META
from medveil.errors import Error
from medveil.log import get_logger
from medveil.sqlite import open_sqlite

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Schema versions in order; the last is this program's. ``aggregator/migrations`` holds a file for each."""
MIGRATIONS = Path(__file__).parents[1] / "migrations"
WRITERS = 0x4D656456
"""PostgreSQL's advisory lock of a write transaction."""
POSTGRES_OPTIONS = {
    "connect_timeout": 3,
    "options": "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=60s",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "medveil-aggregator",
}
_TURN = sa.select(
    sa.func.set_config("idle_in_transaction_session_timeout", "5s", True),
    sa.func.pg_advisory_xact_lock(WRITERS),
)
"""Wait for one's turn to write; who then does nothing for five seconds is in nobody's way any more."""
log = get_logger()


class UnknownSchema(Error):
    """The database was written by another version."""

    code = "unknown-schema"

    def __init__(self, *, found: str) -> None:
        super().__init__(
            what=f"The database has schema version {found}; this program knows {REVISIONS[-1]} and older.",
            meaning="It was not opened, so nothing in it was changed.",
            remedy="Run the version of MedVeil that wrote it. There is no way back to an older schema.",
        )


class OldSchema(Error):
    """The database is from an earlier version and has not been migrated."""

    code = "old-schema"

    def __init__(self, *, found: str) -> None:
        super().__init__(
            what=f"The database has schema version {found}; this program works with {REVISIONS[-1]}.",
            meaning="It was not opened, so nothing in it was changed.",
            remedy="Stop every aggregator on this database, then run: medveil aggregator migrate.",
        )


class UnusableDatabase(Error):
    """A database address that cannot be used."""

    code = "unusable-database"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The database cannot be used: {problem}.",
            meaning="It was not opened, so nothing in it was changed.",
            remedy="Correct 'database' in aggregator.json or the variable MEDVEIL_DATABASE.",
        )


class StillRunning(Error):
    """Something that needs the aggregator to be stopped."""

    code = "still-running"

    def __init__(self) -> None:
        super().__init__(
            what="An aggregator is running on this database.",
            meaning="Nothing was changed.",
            remedy="Stop every aggregator process on it and run the command again.",
        )


class Database:
    """An open database of this program's schema version; an empty one gets its tables.

    Args:
        where: the SQLite file, or the URL of a PostgreSQL database.
    Raises: UnusableDatabase, ForeignSchema, UnknownSchema, OldSchema, StorageFailed.
    """

    def __init__(self, where: Path | str, *, migrate: bool = False) -> None:
        self._engine, self._where = _engine(where), where
        self._sessions: WeakSet[Any] = WeakSet()
        self._counting = threading.Lock()
        if self.is_postgres:
            sa.event.listen(self._engine, "connect", self._count_session)
        self._lead = LeadLock(self._engine)
        self._counter: ChangeCounter | None = None
        self.editions = Editions(lambda: None if self._counter is None else self._counter.look())
        self.in_doubt = False
        """Whether a commit may have happened or not: what memory holds of the tables must be read again."""
        try:
            with self.read() as tx:
                self._check_durability(tx)
                found = _found(tx)
            if found is None or migrate:
                self._migrate()
            elif found != REVISIONS[-1]:
                raise OldSchema(found=found) if found in REVISIONS else UnknownSchema(found=found)
        except Error:
            self.close()
            raise
        if isinstance(where, Path):
            self._counter = ChangeCounter(where)

    @classmethod
    def migrated(cls, where: Path | str) -> Database:
        """The same, from whatever earlier version is there, in one transaction."""
        return cls(where, migrate=True)

    @property
    def is_postgres(self) -> bool:
        """Whether this is PostgreSQL; SQLite otherwise."""
        return self._engine.dialect.name == "postgresql"

    def check_file(self) -> None:
        """Look at every page of a SQLite file. Raises: DamagedDatabase, StorageFailed."""
        if not self.is_postgres:
            with self.read() as tx:
                schema.check_file(tx)

    def close(self) -> None:
        """Give its files, connections and the lead back."""
        self._lead.drop()
        self._engine.dispose()
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.close()

    def break_off(self) -> None:
        """End every session of this process with PostgreSQL where it stands; any thread may call it.

        Whoever waits for an answer gets StorageFailed instead, and the next question opens a new session. The
        lead is fenced by its number and survives. SQLite has no sessions, and nothing happens.
        """
        if not self.is_postgres:
            return
        log.error("database.broken-off")
        with self._counting:
            sessions = list(self._sessions)
        for session in sessions:
            with suppress(Exception), socket.socket(fileno=os.dup(session.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def _count_session(self, session: Any, _: Any) -> None:
        with self._counting:
            self._sessions.add(session)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that changes nothing. Raises: StorageFailed."""
        try:
            with self._engine.connect().execution_options(medveil_reads=True) as tx:
                yield tx
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise _failed(error) from error

    @contextmanager
    def write(self, name: str) -> Iterator[sa.Connection]:
        """A transaction that no other writer overlaps; committed at the end of the block.

        Args:
            name: of the change, for the crash points.
        Raises: StorageFailed. After it ``in_doubt`` tells whether the change may have been made all the same.
        """
        committing = False
        try:
            with self._engine.connect() as tx, tx.begin() as transaction:
                if self.is_postgres:
                    tx.execute(_TURN)
                yield tx
                committing = True
                with step(f"commit.{name}"):
                    transaction.commit()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            # A row that is there against our knowledge: an earlier commit was made after all.
            self.in_doubt |= committing or isinstance(error, sa.exc.IntegrityError)
            raise _failed(error) from error

    @contextmanager
    def part(self, tx: sa.Connection) -> Iterator[sa.Connection]:
        """A part of a write transaction that is undone alone if it raises.

        Raises: StorageFailed; the whole transaction is of no use then.
        """
        try:
            tx.exec_driver_sql("SAVEPOINT part")  # SQLAlchemy's own would be put into SQL anew each time
            try:
                yield tx
            except BaseException:
                if not tx.invalidated:  # nothing is left of it without its connection
                    tx.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
                    tx.exec_driver_sql("RELEASE SAVEPOINT part")
                raise
            tx.exec_driver_sql("RELEASE SAVEPOINT part")
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise _failed(error) from error

    def try_lead(self) -> bool:
        """Take or keep the lock of the one process that coordinates; whether it is held now.

        Raises: StorageFailed.
        """
        try:
            return self._lead.take()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise _failed(error) from error

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config(stdout=io.StringIO())
        config.set_main_option("path_separator", "os")
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("version_locations", str(MIGRATIONS / "versions"))
        try:
            with self._engine.connect() as tx, tx.begin():
                if self.is_postgres:
                    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS)))
                found = _found(tx)  # again: another process may have been faster
                if found is not None and found not in REVISIONS:
                    raise UnknownSchema(found=found)
                config.attributes["connection"] = tx
                if found is not None and not sa.inspect(tx).has_table("alembic_version"):
                    command.stamp(config, found)
                command.upgrade(config, REVISIONS[-1])
        except sa.exc.DBAPIError as error:
            raise _failed(error) from error

    def _check_durability(self, tx: sa.Connection) -> None:
        if self.is_postgres and tx.execute(sa.text("SHOW fsync")).scalar_one() == "off":
            raise UnusableDatabase(problem="its server runs with fsync=off, which loses data at a power cut")


@contextmanager
def alone(where: Path | str) -> Iterator[None]:
    """Keep every aggregator away for the length of the block. Raises: StillRunning, StorageFailed."""
    engine = _engine(where)
    lock = LeadLock(engine, idle="0")
    try:
        if not lock.take():
            raise StillRunning()
        yield
    except sa.exc.DBAPIError as error:
        raise _failed(error) from error
    finally:
        lock.drop()
        engine.dispose()


def schema_of(where: Path | str) -> str | None:
    """The schema version in a database; None if there is none. Raises: UnusableDatabase, StorageFailed."""
    if isinstance(where, Path) and not where.exists():
        return None
    engine = _engine(where)
    try:
        with engine.connect().execution_options(medveil_reads=True) as tx:
            return _found(tx)
    except sa.exc.DBAPIError as error:
        raise _failed(error) from error
    finally:
        engine.dispose()


def copy_database(source: Path, target: Path) -> None:
    """SQLite's own online copy: a consistent state, whoever writes meanwhile. Raises: StorageFailed."""
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise StorageFailed() from error


def shown_address(url: str) -> str:
    """The URL of a database as it may be shown: without a password."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "(no URL)"


def _engine(where: Path | str) -> sa.Engine:
    if isinstance(where, Path):
        engine = open_sqlite(where)
        sa.event.listen(engine, "connect", _durable_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        url = sa.make_url(where)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername != "postgresql+psycopg":
            raise UnusableDatabase(problem=f"{url.drivername} is neither a file nor postgresql")
        engine = sa.create_engine(url, pool_pre_ping=True, pool_timeout=10, connect_args=POSTGRES_OPTIONS)
    except sa.exc.ArgumentError as error:
        raise UnusableDatabase(problem="its address is no URL") from error
    except ModuleNotFoundError as error:
        problem = "the driver is missing; install it with: pip install 'psycopg[binary]'"
        raise UnusableDatabase(problem=problem) from error
    sa.event.listen(engine, "connect", _durable_postgres)
    return engine


def _found(tx: sa.Connection) -> str | None:
    """The revision that Alembic noted; version 0.1.0 noted its own before there was Alembic.

    Raises: ForeignSchema if there is anything beside the tables of that revision.
    """
    sqlite = tx.dialect.name == "sqlite"
    if sqlite:
        schema.refuse_what_acts(tx)
    else:
        schema.refuse_what_acts_in_postgres(tx, [*META.tables, "alembic_version"])
    found = _noted(tx)
    if sqlite and found in REVISIONS:
        schema.check_tables(tx, found)
    return found


def _noted(tx: sa.Connection) -> str | None:
    tables = set(sa.inspect(tx).get_table_names())
    if "alembic_version" in tables:
        return str(tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none())
    if "settings" in tables:
        found = tx.execute(sa.text("SELECT value FROM settings WHERE key = 'schema'")).scalar_one_or_none()
        return "0001" if found == "1" else str(found)
    return "of something else" if tables else None


def _durable_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, tables included
    durable = ("journal_mode=TRUNCATE", "synchronous=EXTRA", "foreign_keys=ON", "secure_delete=ON")
    for pragma in ("trusted_schema=OFF", *durable):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(tx: sa.Connection) -> None:
    reads = tx.get_execution_options().get("medveil_reads", False)
    tx.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _durable_postgres(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('synchronous_commit')")
        if cursor.fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit = on")
    connection.commit()


def _failed(error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> StorageFailed:
    """The kind of failure goes to the log, without statement and values."""
    log.error("storage.failed", reason=type(getattr(error, "orig", error)).__name__)
    return StorageFailed()
