"""SQLite files share what a statement was made into, and nothing else."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from medveil.sqlite import open_sqlite

TABLE = sa.Table("things", sa.MetaData(), sa.Column("name", sa.String), sa.Column("size", sa.Integer))


def test_a_statement_is_compiled_once_and_each_file_gives_its_own_rows(tmp_path: Path) -> None:
    told, hits = [], []
    for name in ("first", "second"):
        engine = open_sqlite(tmp_path / f"{name} ?#.db")
        with engine.begin() as tx:
            TABLE.create(tx)
            tx.execute(TABLE.insert().values(name=name, size=len(name)))
            result = tx.execute(sa.select(TABLE.c.name).where(TABLE.c.size == len(name)))
            hits.append(result.context.cache_hit is engine.dialect.CACHE_HIT)
            told.append(result.scalars().all())
        engine.dispose()
    assert told == [["first"], ["second"]]
    assert hits == [False, True]
    assert {path.name for path in tmp_path.iterdir()} == {"first ?#.db", "second ?#.db"}
