"""What the admin has said of a plan: that it is paused, goes on, is stopped or withdrawn, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table; nothing was said yet."""
    op.create_table(
        "directives",
        sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("word", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
