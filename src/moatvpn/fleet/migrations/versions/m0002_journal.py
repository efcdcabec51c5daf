"""What operators did and are doing: audit, locks, operations, claims, configurations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables, and leave the layout's number to Alembic."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=253), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "configurations",
        sa.Column("box", sa.String(length=253), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.CheckConstraint("serial > 0", name="ck_configurations_serial"),
        sa.PrimaryKeyConstraint("box", name="pk_configurations"),
    )
    op.create_table(
        "locks",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("taken", sa.DateTime(), nullable=False),
        sa.Column("expires", sa.DateTime(), nullable=False),
        sa.CheckConstraint("expires > taken", name="ck_locks_expires"),
        sa.PrimaryKeyConstraint("name", name="pk_locks"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("began", sa.DateTime(), nullable=False),
        sa.Column("ended", sa.DateTime(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (ended IS NULL)", name="ck_operations_ended"),
        sa.CheckConstraint("state IN ('running', 'stopped', 'done')", name="ck_operations_state"),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    op.create_index("ix_operations_kind", "operations", ["kind"])
    op.create_table(
        "claims",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("customer_id", sa.String(length=63), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("expires", sa.DateTime(), nullable=False),
        sa.Column("used", sa.DateTime(), nullable=True),
        sa.Column("used_key", sa.String(length=60), nullable=True),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.CheckConstraint("(used IS NULL) = (used_key IS NULL)", name="ck_claims_used"),
        sa.CheckConstraint("expires > created", name="ck_claims_expires"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name="fk_claims_customer_id"),
        sa.PrimaryKeyConstraint("id", name="pk_claims"),
        sa.UniqueConstraint("token_hash", name="uq_claims_token_hash"),
    )
    op.create_index("ix_claims_customer_id", "claims", ["customer_id"])
    op.create_table(
        "operation_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("operation_id", sa.Integer(), nullable=False),
        sa.Column("box", sa.String(length=253), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("changed", sa.DateTime(), nullable=False),
        sa.CheckConstraint("attempts >= 0", name="ck_operation_steps_attempts"),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name="fk_operation_steps_operation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_operation_steps"),
        sa.UniqueConstraint("operation_id", "box", name="uq_operation_steps_operation_id"),
    )
    op.drop_table("fleet_schema")
