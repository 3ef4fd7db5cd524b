"""Hospitals that take no part in a plan, or no part any more, with the reason that they give."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table; nobody has refused anything yet."""
    op.create_table(
        "refusals",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("stands", sa.Boolean, nullable=False),
    )
