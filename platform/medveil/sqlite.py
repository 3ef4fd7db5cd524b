"""SQLite files through SQLAlchemy: a statement is put into SQL once a process, whichever file it is for.

An engine of its own for each opening would do that anew, which takes longer than the statements themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

WAIT_S = 30
"""For another connection's transaction."""
_SQL: sa.util.LRUCache[Any, Any] = sa.util.LRUCache(1000)


class Dialect(SQLiteDialect_pysqlite):
    """All of one process are alike, for it has one SQLite: what was compiled for one serves the others."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is Dialect

    def __hash__(self) -> int:
        return hash(Dialect)


registry.register("sqlite.medveil", __name__, Dialect.__name__)


def open_sqlite(file: Path) -> sa.Engine:
    """An engine for a file; the file is made when somebody first connects."""
    return sa.create_engine(
        sa.URL.create("sqlite+medveil", database=str(file)),
        connect_args={"timeout": WAIT_S},
        execution_options={"compiled_cache": _SQL},
    )
