"""What tests do to the aggregator's database behind its back."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from aggregator.storage.store import Store


def run(where: Path | str, *statements: str) -> None:
    """Statements in one transaction."""
    address = f"sqlite:///{where}" if isinstance(where, Path) else where
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    with engine.begin() as tx:
        for statement in statements:
            tx.execute(sa.text(statement))


def takes_the_lead(store: Store) -> bool:
    """Whether the lead is to be had: PostgreSQL lets go of a lock a moment after its connection has ended."""
    deadline = time.monotonic() + 120
    while not (taken := store.transactions.lead()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return taken


def to_version_1(where: Path | str) -> None:
    """What version 0.1.0 would have left in place of this database: the same rows, nothing newer."""
    run(
        where,
        "DROP TABLE directives",
        *(f"DROP TABLE {name}" for name in ("local_admins", "sign_in_links", "session_uses", "sessions")),
        "DROP TABLE refusals",
        "DROP TABLE readers",
        "DROP TABLE api_tokens",
        "DROP TABLE revocations",
        "DROP TABLE audit",
        "DROP TABLE alembic_version",
        "DELETE FROM settings WHERE key = 'lead'",
        "UPDATE settings SET value = '1' WHERE key = 'schema'",
    )
