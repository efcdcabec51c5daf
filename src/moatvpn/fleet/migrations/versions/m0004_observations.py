"""What was last heard of each box, and what has been counted since the first time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "observations",
        sa.Column("box_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("answered", sa.DateTime(), nullable=True),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("up_for", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("policy", sa.String(length=64), nullable=True),
        sa.Column("policy_fault", sa.Text(), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=True),
        sa.Column("counters", sa.JSON(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("watched_seconds", sa.BigInteger(), nullable=False),
        sa.Column("up_seconds", sa.BigInteger(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "0 <= up_seconds AND up_seconds <= watched_seconds", name="ck_observations_seconds"
        ),
        sa.CheckConstraint("0 <= lost AND lost <= expected", name="ck_observations_envelopes"),
        sa.ForeignKeyConstraint(["box_id"], ["boxes.id"], name="fk_observations_box_id"),
        sa.PrimaryKeyConstraint("box_id", name="pk_observations"),
    )
