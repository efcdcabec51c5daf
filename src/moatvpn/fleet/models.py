"""The customer database's tables: one record of a customer yields all that a box is told.

Everything that a schema can hold is in the schema: identities and keys are unique, a status is one
of the known ones. What takes a trigger (no two private subnets overlap, a status changes as in
TRANSITIONS only, the audit is never rewritten) is made by the migrations, for each database in its
own words.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moatvpn.fleet.base import Base, Subnet, UtcDateTime


class Status(StrEnum):
    """Where a customer stands; only shipped and active ones get through a portal."""

    ORDERED = "ordered"
    SHIPPED = "shipped"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


# The statuses that each may be followed by. A revoked customer begins anew, with a new key.
TRANSITIONS = {
    Status.ORDERED: (Status.SHIPPED, Status.ACTIVE, Status.SUSPENDED, Status.REVOKED),
    Status.SHIPPED: (Status.ORDERED, Status.ACTIVE, Status.SUSPENDED, Status.REVOKED),
    Status.ACTIVE: (Status.SUSPENDED, Status.REVOKED),
    Status.SUSPENDED: (Status.ORDERED, Status.SHIPPED, Status.ACTIVE, Status.REVOKED),
    Status.REVOKED: (Status.ORDERED,),
}


class WildMode(StrEnum):
    """How a moat gets its wild-side address."""

    DHCP = "dhcp"
    STATIC = "static"


def _subnet_check(column: str, digits: int) -> CheckConstraint:
    """Return the form that Subnet has in SQLite; PostgreSQL's own type needs none."""
    first, last = f"substr({column}, 1, {digits})", f"substr({column}, {digits + 2})"
    return CheckConstraint(
        f"length({column}) = {2 * digits + 1} AND {column} NOT GLOB '*[^0-9a-f-]*'"
        f" AND substr({column}, {digits + 1}, 1) = '-' AND {first} <= {last}",
        name=column,
    ).ddl_if(dialect="sqlite")


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    names = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({names})", name=column)


class Box(Base):
    """What a moat and a portal share: an FQDN identity, unique over both, and public keys."""

    __tablename__ = "boxes"
    __table_args__: tuple[Any, ...] = (CheckConstraint("kind IN ('moat', 'portal')", name="kind"),)
    __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012 - SQLAlchemy reads it so

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    identity: Mapped[str] = mapped_column(String(253), unique=True)
    public_keys: Mapped[list[PublicKey]] = relationship(
        back_populates="box", order_by="PublicKey.id"
    )


class Portal(Box):
    """The corporate end of many tunnels.

    Addresses are text in canonical form. Those named *_address are CIDR: the portal's own
    address with its network's prefix length. corporate_gateway is where traffic from tunnels
    goes that is not for the corporate network: the corporate firewall. pool is the aggregate of
    the moats' private subnets; tunnel_address, in it, answers traceroute. private_prefix is the
    prefix length of the IPv4 private subnets given out (those of IPv6 are always /64, which
    stateless address configuration needs: RFC 4862).
    """

    __tablename__ = "portals"
    __mapper_args__ = {"polymorphic_identity": "portal"}  # noqa: RUF012 - SQLAlchemy reads it so

    id: Mapped[int] = mapped_column(ForeignKey("boxes.id"), primary_key=True)
    wild_interface: Mapped[str] = mapped_column(String(15))
    wild_address: Mapped[str] = mapped_column(String(43), unique=True)
    wild_gateway: Mapped[str] = mapped_column(String(39))
    corporate_interface: Mapped[str] = mapped_column(String(15))
    corporate_address: Mapped[str] = mapped_column(String(43))
    corporate_address6: Mapped[str] = mapped_column(String(43))
    corporate_gateway: Mapped[str] = mapped_column(String(39))
    corporate_gateway6: Mapped[str] = mapped_column(String(39))
    pool: Mapped[str] = mapped_column(String(43), unique=True)
    pool6: Mapped[str] = mapped_column(String(43), unique=True)
    tunnel_address: Mapped[str] = mapped_column(String(43), unique=True)
    tunnel_address6: Mapped[str] = mapped_column(String(43), unique=True)
    private_prefix: Mapped[int]
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    changed: Mapped[datetime] = mapped_column(UtcDateTime)


class Customer(Base):
    """Who has a moat. id names the customer's connection on the portal."""

    __tablename__ = "customers"
    __table_args__ = (_one_of("status", Status),)

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    contact: Mapped[str] = mapped_column(Text)
    site_address: Mapped[str] = mapped_column(Text)
    isp: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(9), index=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    changed: Mapped[datetime] = mapped_column(UtcDateTime)
    moat: Mapped[Moat] = relationship(
        back_populates="customer", foreign_keys="Moat.customer_id", lazy="joined", innerjoin=True
    )


class Moat(Box):
    """The gateway box in a customer's home.

    serial and the MACs are those of the machine, None until it is known. In wild mode static,
    wild_address (CIDR) and wild_gateway say what DHCP would have said. private_subnet and
    private_subnet6 lie in the primary portal's pools. A kid-net that is on has a subnet; one that
    is off may keep its. The backup portal is recorded; no connection to it is made yet.
    """

    __tablename__ = "moats"
    __table_args__ = (
        _one_of("wild_mode", WildMode),
        CheckConstraint(
            "(wild_mode = 'static') = (wild_address IS NOT NULL)"
            " AND (wild_address IS NULL) = (wild_gateway IS NULL)",
            name="wild_static",
        ),
        CheckConstraint("kidnet_subnet IS NOT NULL OR NOT kidnet", name="kidnet"),
        CheckConstraint("wild_interface <> private_interface", name="interfaces"),
        CheckConstraint("backup_portal_id <> portal_id", name="backup_portal"),
        _subnet_check("private_subnet", 8),
        _subnet_check("private_subnet6", 32),
    )

    __mapper_args__ = {"polymorphic_identity": "moat"}  # noqa: RUF012 - SQLAlchemy reads it so

    id: Mapped[int] = mapped_column(ForeignKey("boxes.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), unique=True)
    portal_id: Mapped[int] = mapped_column(ForeignKey("portals.id"), index=True)
    backup_portal_id: Mapped[int | None] = mapped_column(ForeignKey("portals.id"))
    serial: Mapped[str | None] = mapped_column(String(64), unique=True)
    wild_mac: Mapped[str | None] = mapped_column(String(17), unique=True)
    private_mac: Mapped[str | None] = mapped_column(String(17), unique=True)
    wild_interface: Mapped[str] = mapped_column(String(15))
    private_interface: Mapped[str] = mapped_column(String(15))
    wild_mode: Mapped[str] = mapped_column(String(6))
    wild_address: Mapped[str | None] = mapped_column(String(43))
    wild_gateway: Mapped[str | None] = mapped_column(String(39))
    private_subnet: Mapped[str] = mapped_column(Subnet(4), unique=True)
    private_subnet6: Mapped[str] = mapped_column(Subnet(6), unique=True)
    kidnet: Mapped[bool]
    kidnet_subnet: Mapped[str | None] = mapped_column(String(43))
    policy: Mapped[str] = mapped_column(String(63))
    customer: Mapped[Customer] = relationship(back_populates="moat", foreign_keys=[customer_id])


class PublicKey(Base):
    """A key that a box may prove its identity with, from not_before until before not_after.

    key is base64 of SubjectPublicKeyInfo. One key belongs to one box for ever: a second box that
    shows it is a copy of the first.
    """

    __tablename__ = "public_keys"
    __table_args__ = (CheckConstraint("not_after >= not_before", name="validity"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    box_id: Mapped[int] = mapped_column(ForeignKey("boxes.id"), index=True)
    key: Mapped[str] = mapped_column(String(60), unique=True)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    not_after: Mapped[datetime | None] = mapped_column(UtcDateTime)
    box: Mapped[Box] = relationship(back_populates="public_keys")

    def end(self, moment: datetime) -> None:
        """End the key at moment, or before it begins, where it would be valid longer."""
        if self.not_after is None or self.not_after > moment:
            self.not_after = max(moment, self.not_before)

    def valid(self, moment: datetime) -> bool:
        """Tell whether the key counts at moment."""
        return self.not_before <= moment and (self.not_after is None or moment < self.not_after)
