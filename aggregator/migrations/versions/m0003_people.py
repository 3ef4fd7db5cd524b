"""Who may read: revocations, API tokens of people, and the plans of each researcher."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables; nobody may read anything yet."""
    op.create_table(
        "revocations",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("revoked", sa.Float, nullable=False),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
    )
    op.create_table(
        "readers",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("may", sa.Boolean, nullable=False),
    )
