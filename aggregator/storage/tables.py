"""The tables of the aggregator's database as this version of the program expects them.

``aggregator/migrations`` makes them; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

META = sa.MetaData()
SETTINGS = sa.Table(
    "settings",
    META,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used", sa.Boolean, nullable=False, default=False),
)
PARTIES = sa.Table(
    "parties",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("enrolled", sa.Float, nullable=False),
)
PLANS = sa.Table(
    "plans",
    META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("admin_signature", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False, default=False),
)
APPROVALS = sa.Table(
    "approvals",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
REFUSALS = sa.Table(
    "refusals",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("stands", sa.Boolean, nullable=False),
)
ATTEMPTS = sa.Table(
    "attempts",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("outcome", sa.String),
    sa.Column("report", sa.JSON),
)
EVENTS = sa.Table(
    "events",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
VERSIONS = sa.Table(
    "versions",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.JSON, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
)
AUDIT = sa.Table(
    "audit",
    META,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
REVOCATIONS = sa.Table(
    "revocations",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("revoked", sa.Float, nullable=False),
)
API_TOKENS = sa.Table(
    "api_tokens",
    META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
)
READERS = sa.Table(
    "readers",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("may", sa.Boolean, nullable=False),
)
DIRECTIVES = sa.Table(
    "directives",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("word", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
SESSIONS = sa.Table(
    "sessions",
    META,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("shown", sa.String, nullable=False),
    sa.Column("way", sa.String, nullable=False),
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("ends", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
)
SESSION_USES = sa.Table(
    "session_uses",
    META,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("used", sa.Float, nullable=False),
)
SIGN_IN_LINKS = sa.Table(
    "sign_in_links",
    META,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used", sa.Float),
)
LOCAL_ADMINS = sa.Table(
    "local_admins",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kept", sa.String, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("made", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
)
UNRECORDED = (AUDIT, SESSION_USES)
"""Tables of whose rows the audit log does not tell: itself, and when each session was used last.

Who changes the latter behind the log's back keeps a session open until its end, which the log does tell.
"""


def at(table: sa.Table, key: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    """The condition for rows whose columns have these values."""
    return [table.c[name] == value for name, value in key.items()]


def subject(table: sa.Table, values: Mapping[Any, Any]) -> str:
    """What the audit log calls a row: its table and its primary key."""
    return "/".join([table.name, *(str(values[c.name]) for c in table.primary_key)])
