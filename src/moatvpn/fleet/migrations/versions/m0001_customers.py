"""The tables that the first version of moat-fleet made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of layout 1."""
    op.create_table(
        "boxes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("identity", sa.String(length=253), nullable=False),
        sa.CheckConstraint("kind IN ('moat', 'portal')", name="ck_boxes_kind"),
        sa.PrimaryKeyConstraint("id", name="pk_boxes"),
        sa.UniqueConstraint("identity", name="uq_boxes_identity"),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=False),
        sa.Column("site_address", sa.Text(), nullable=False),
        sa.Column("isp", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("changed", sa.DateTime(), nullable=False),
        sa.CheckConstraint(
            "status IN ('ordered', 'shipped', 'active', 'suspended', 'revoked')",
            name="ck_customers_status",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
    )
    op.create_index("ix_customers_status", "customers", ["status"])
    op.create_table(
        "fleet_schema",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_fleet_schema"),
    )
    op.create_table(
        "portals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("wild_interface", sa.String(length=15), nullable=False),
        sa.Column("wild_address", sa.String(length=43), nullable=False),
        sa.Column("wild_gateway", sa.String(length=39), nullable=False),
        sa.Column("corporate_interface", sa.String(length=15), nullable=False),
        sa.Column("corporate_address", sa.String(length=43), nullable=False),
        sa.Column("corporate_address6", sa.String(length=43), nullable=False),
        sa.Column("corporate_gateway", sa.String(length=39), nullable=False),
        sa.Column("corporate_gateway6", sa.String(length=39), nullable=False),
        sa.Column("pool", sa.String(length=43), nullable=False),
        sa.Column("pool6", sa.String(length=43), nullable=False),
        sa.Column("tunnel_address", sa.String(length=43), nullable=False),
        sa.Column("tunnel_address6", sa.String(length=43), nullable=False),
        sa.Column("private_prefix", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("changed", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["boxes.id"], name="fk_portals_id"),
        sa.PrimaryKeyConstraint("id", name="pk_portals"),
        sa.UniqueConstraint("pool", name="uq_portals_pool"),
        sa.UniqueConstraint("pool6", name="uq_portals_pool6"),
        sa.UniqueConstraint("tunnel_address", name="uq_portals_tunnel_address"),
        sa.UniqueConstraint("tunnel_address6", name="uq_portals_tunnel_address6"),
        sa.UniqueConstraint("wild_address", name="uq_portals_wild_address"),
    )
    op.create_table(
        "public_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("box_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=60), nullable=False),
        sa.Column("not_before", sa.DateTime(), nullable=False),
        sa.Column("not_after", sa.DateTime(), nullable=True),
        sa.CheckConstraint("not_after >= not_before", name="ck_public_keys_validity"),
        sa.ForeignKeyConstraint(["box_id"], ["boxes.id"], name="fk_public_keys_box_id"),
        sa.PrimaryKeyConstraint("id", name="pk_public_keys"),
        sa.UniqueConstraint("key", name="uq_public_keys_key"),
    )
    op.create_index("ix_public_keys_box_id", "public_keys", ["box_id"])
    create_moats(sa.String(43), sa.String(43))


def create_moats(subnet: sa.String, subnet6: sa.String, *checks: sa.CheckConstraint) -> None:
    """Make the table moats with its private subnets of these types."""
    op.create_table(
        "moats",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("customer_id", sa.String(length=63), nullable=False),
        sa.Column("portal_id", sa.Integer(), nullable=False),
        sa.Column("backup_portal_id", sa.Integer(), nullable=True),
        sa.Column("serial", sa.String(length=64), nullable=True),
        sa.Column("wild_mac", sa.String(length=17), nullable=True),
        sa.Column("private_mac", sa.String(length=17), nullable=True),
        sa.Column("wild_interface", sa.String(length=15), nullable=False),
        sa.Column("private_interface", sa.String(length=15), nullable=False),
        sa.Column("wild_mode", sa.String(length=6), nullable=False),
        sa.Column("wild_address", sa.String(length=43), nullable=True),
        sa.Column("wild_gateway", sa.String(length=39), nullable=True),
        sa.Column("private_subnet", subnet, nullable=False),
        sa.Column("private_subnet6", subnet6, nullable=False),
        sa.Column("kidnet", sa.Boolean(), nullable=False),
        sa.Column("kidnet_subnet", sa.String(length=43), nullable=True),
        sa.Column("policy", sa.String(length=63), nullable=False),
        sa.CheckConstraint(
            "(wild_mode = 'static') = (wild_address IS NOT NULL)"
            " AND (wild_address IS NULL) = (wild_gateway IS NULL)",
            name="ck_moats_wild_static",
        ),
        sa.CheckConstraint("wild_mode IN ('dhcp', 'static')", name="ck_moats_wild_mode"),
        sa.CheckConstraint("backup_portal_id <> portal_id", name="ck_moats_backup_portal"),
        sa.CheckConstraint("kidnet_subnet IS NOT NULL OR NOT kidnet", name="ck_moats_kidnet"),
        sa.CheckConstraint("wild_interface <> private_interface", name="ck_moats_interfaces"),
        sa.ForeignKeyConstraint(
            ["backup_portal_id"], ["portals.id"], name="fk_moats_backup_portal_id"
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name="fk_moats_customer_id"),
        sa.ForeignKeyConstraint(["id"], ["boxes.id"], name="fk_moats_id"),
        sa.ForeignKeyConstraint(["portal_id"], ["portals.id"], name="fk_moats_portal_id"),
        sa.PrimaryKeyConstraint("id", name="pk_moats"),
        sa.UniqueConstraint("customer_id", name="uq_moats_customer_id"),
        sa.UniqueConstraint("private_mac", name="uq_moats_private_mac"),
        sa.UniqueConstraint("private_subnet", name="uq_moats_private_subnet"),
        sa.UniqueConstraint("private_subnet6", name="uq_moats_private_subnet6"),
        sa.UniqueConstraint("serial", name="uq_moats_serial"),
        sa.UniqueConstraint("wild_mac", name="uq_moats_wild_mac"),
        *checks,
    )
    op.create_index("ix_moats_portal_id", "moats", ["portal_id"])
