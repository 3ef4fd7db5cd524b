"""The tables of version 0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "settings",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
    )
    op.create_table(
        "parties",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("enrolled", sa.Float, nullable=False),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("plan", sa.String, nullable=False),
        sa.Column("admin_signature", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("opened", sa.Float, nullable=False),
        sa.Column("outcome", sa.String),
        sa.Column("report", sa.JSON),
    )
    op.create_table(
        "events",
        sa.Column("plan", sa.String, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("version", sa.JSON, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
    )
    op.execute("INSERT INTO settings VALUES ('schema', '1')")
