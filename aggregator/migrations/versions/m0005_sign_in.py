"""People who sign in to the pages: their sessions, links that work once, and admins of this machine alone."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the tables; nobody is signed in yet."""
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("shown", sa.String, nullable=False),
        sa.Column("way", sa.String, nullable=False),
        sa.Column("begun", sa.Float, nullable=False),
        sa.Column("ends", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
    )
    op.create_table(
        "session_uses",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("used", sa.Float, nullable=False),
    )
    op.create_table(
        "sign_in_links",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("used", sa.Float),
    )
    op.create_table(
        "local_admins",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kept", sa.String, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
    )
