"""Rules that a plain table cannot hold, in the words of each database.

No two private subnets overlap; a status is followed by certain others only; the audit is not
rewritten; a configuration's serial number only grows.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import sqlalchemy as sa
from alembic import op

from moatvpn.fleet.migrations.versions.m0001_customers import create_moats

revision = "0003"
down_revision = "0002"

# (column, digits of an address in hexadecimal)
SUBNETS = (("private_subnet", 8), ("private_subnet6", 32))

# (name, table, event, column, when it is refused, what is said)
RULES: tuple[tuple[str, str, str, str | None, str | None, str], ...] = (
    (
        "status",
        "customers",
        "UPDATE",
        "status",
        "OLD.status <> NEW.status AND OLD.status || ' ' || NEW.status NOT IN ("
        "'ordered shipped', 'ordered active', 'ordered suspended', 'ordered revoked',"
        " 'shipped ordered', 'shipped active', 'shipped suspended', 'shipped revoked',"
        " 'active suspended', 'active revoked',"
        " 'suspended ordered', 'suspended shipped', 'suspended active', 'suspended revoked',"
        " 'revoked ordered')",
        "no customer changes to that status from the present one",
    ),
    ("change", "audit", "UPDATE", None, None, "the audit is never changed"),
    ("delete", "audit", "DELETE", None, None, "nothing is deleted from the audit"),
    (
        "serial",
        "configurations",
        "UPDATE",
        "serial",
        "NEW.serial < OLD.serial",
        "a configuration's serial number only grows",
    ),
)


def upgrade() -> None:
    """Change the private subnets' form, and make the rules."""
    if op.get_bind().dialect.name == "postgresql":
        _postgresql()
    else:
        _sqlite()


def _postgresql() -> None:
    for column, _ in SUBNETS:
        op.execute(f"ALTER TABLE moats ALTER {column} TYPE cidr USING {column}::cidr")
        op.execute(
            f"ALTER TABLE moats ADD CONSTRAINT ex_moats_{column}"
            f" EXCLUDE USING gist ({column} inet_ops WITH &&)"
        )
    op.execute(
        "CREATE FUNCTION moat_refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation'; END $$"
    )
    for name, table, event, rule_column, condition, why in RULES:
        of = f" OF {rule_column}" if rule_column else ""
        when = f" WHEN ({condition})" if condition else ""
        said = why.replace("'", "''")
        op.execute(
            f"CREATE TRIGGER tr_{table}_{name} BEFORE {event}{of} ON {table}"
            f" FOR EACH ROW{when} EXECUTE FUNCTION moat_refuse('{said}')"
        )


def _sqlite() -> None:
    _convert_subnets()
    for column, digits in SUBNETS:
        # The subnets there are do not overlap; so the last one that begins before the new one's
        # end is the only one that can reach into it. '.' sorts behind the '-' of every range.
        last = (
            f"(SELECT substr({column}, {digits + 2}) FROM moats"  # noqa: S608 - of constants
            f" WHERE id <> NEW.id AND"
            f" {column} < substr(NEW.{column}, {digits + 2}) || '.'"
            f" ORDER BY {column} DESC LIMIT 1)"
        )
        for event, of in (("INSERT", ""), ("UPDATE", f" OF {column}")):
            _sqlite_trigger(
                f"tr_moats_{column}_{event.lower()}",
                f"AFTER {event}{of} ON moats",
                f"{last} >= substr(NEW.{column}, 1, {digits})",
                f"{column} overlaps another moat's",
            )
    for name, table, event, rule_column, condition, why in RULES:
        of = f" OF {rule_column}" if rule_column else ""
        _sqlite_trigger(f"tr_{table}_{name}", f"BEFORE {event}{of} ON {table}", condition, why)


def _sqlite_trigger(name: str, when: str, condition: str | None, why: str) -> None:
    said = why.replace("'", "''")
    op.execute(
        f"CREATE TRIGGER {name} {when}{f' WHEN {condition}' if condition else ''}"
        f" BEGIN SELECT RAISE(ABORT, '{said}'); END"
    )


def _convert_subnets() -> None:
    """Make the table moats anew, its subnets written as their first and last address."""
    connection = op.get_bind()
    rows = [dict(row) for row in connection.execute(sa.text("SELECT * FROM moats")).mappings()]
    op.drop_table("moats")
    create_moats(sa.String(17), sa.String(65), *(_form(*each) for each in SUBNETS))
    moats = sa.Table("moats", sa.MetaData(), autoload_with=connection)
    for row in rows:
        for column, digits in SUBNETS:
            row[column] = _range(row[column], digits)
    if rows:
        connection.execute(sa.insert(moats), rows)


def _form(column: str, digits: int) -> sa.CheckConstraint:
    first, last = f"substr({column}, 1, {digits})", f"substr({column}, {digits + 2})"
    return sa.CheckConstraint(
        f"length({column}) = {2 * digits + 1} AND {column} NOT GLOB '*[^0-9a-f-]*'"
        f" AND substr({column}, {digits + 1}, 1) = '-' AND {first} <= {last}",
        name=f"ck_moats_{column}",
    )


def _range(value: Any, digits: int) -> str:
    network = ipaddress.ip_network(value)
    first, last = int(network.network_address), int(network.broadcast_address)
    return f"{first:0{digits}x}-{last:0{digits}x}"
