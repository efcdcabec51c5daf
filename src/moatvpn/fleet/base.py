"""What all tables of the customer database share: names of constraints, moments, subnets."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, MetaData, String, TypeDecorator
from sqlalchemy.dialects.postgresql import CIDR
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

# The newest file of migrations/versions; a database of another layout is refused.
SCHEMA_REVISION = "0004"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, in UTC whatever the database's own idea of time zones is."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store a moment as UTC without a zone; a moment without a zone is a mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return what was stored, as UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


class Subnet(TypeDecorator[str]):
    """A network, text such as 10.1.2.0/24 to Python, in a form that a database can compare.

    PostgreSQL has a type for it. SQLite has none: there it is the first and the last address as
    hexadecimal digits, 0a010200-0a0102ff, which sort as the addresses do.
    """

    impl = String
    cache_ok = True

    def __init__(self, version: int) -> None:
        """Hold networks of one IP version, 4 or 6."""
        super().__init__()
        self.version = version
        self.digits = 8 if version == 4 else 32

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the database's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(CIDR())
        return dialect.type_descriptor(String(2 * self.digits + 1))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Store a network that is written in canonical form."""
        if value is None or dialect.name == "postgresql":
            return value
        network = ipaddress.ip_network(value)
        first, last = int(network.network_address), int(network.broadcast_address)
        return f"{first:0{self.digits}x}-{last:0{self.digits}x}"

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Return what was stored, in canonical form."""
        if value is None or dialect.name == "postgresql":
            return None if value is None else str(value)
        first, last = (int(part, 16) for part in value.split("-"))
        length = 4 * self.digits - (first ^ last).bit_length()
        if self.version == 4:
            return str(ipaddress.IPv4Network((first, length)))
        return str(ipaddress.IPv6Network((first, length)))


class Base(DeclarativeBase):
    """The base of all tables."""

    # Constraints have names, so that a later version can change them on any database.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def moment_text(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, None for none."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
