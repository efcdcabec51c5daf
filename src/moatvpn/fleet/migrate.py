"""The layout of a database's tables: which one it has, and the way to today's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from moatvpn.errors import OperatorError
from moatvpn.fleet.base import SCHEMA_REVISION

_VERSIONS = "alembic_version"
# Where the first version of moat-fleet, which knew no migrations, kept its number.
_OLD = "fleet_schema"


def layout(connection: Connection) -> str | None:
    """Return the revision of the tables' layout, None where there is no customer database."""
    tables = inspect(connection)
    if tables.has_table(_VERSIONS):
        # The table's name is a constant of this module.
        found = connection.execute(text(f"SELECT version_num FROM {_VERSIONS}"))  # noqa: S608
        return str(found.scalar_one())
    if tables.has_table(_OLD):
        found = connection.execute(text(f"SELECT version FROM {_OLD}"))  # noqa: S608
        return f"{found.scalar_one():04}"
    return None


def check_layout(connection: Connection, name: str) -> None:
    """Raise OperatorError where the database called name is absent or of another layout."""
    found = layout(connection)
    if found == SCHEMA_REVISION:
        return
    if found is None:
        raise absent(name)
    if found < SCHEMA_REVISION:
        raise OperatorError(
            name,
            f"its tables are of an older layout ({found}, now {SCHEMA_REVISION})",
            "Back it up, then run `moat-fleet upgrade`",
        )
    raise _newer(name, found)


def upgrade(connection: Connection, name: str) -> bool:
    """Bring the tables to today's layout, from none or any older one; tell whether that did work.

    All of it is in the connection's transaction: on an error nothing has changed. Raises
    OperatorError for a layout that this moat-fleet does not know yet.
    """
    # It takes as long to import as all else here.
    from alembic import command
    from alembic.config import Config

    found = layout(connection)
    if found == SCHEMA_REVISION:
        return False
    if found is not None and found > SCHEMA_REVISION:
        raise _newer(name, found)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    steps: list[tuple[Callable[[Config, str], None], str]] = [(command.upgrade, SCHEMA_REVISION)]
    if found is not None and not inspect(connection).has_table(_VERSIONS):
        steps.insert(0, (command.stamp, found))
    for step, revision in steps:
        step(config, revision)
    return True


def absent(name: str) -> OperatorError:
    """Return the error for a database that is not there, or has no tables of ours."""
    return OperatorError(name, "there is no customer database", "Run `moat-fleet init`")


def _newer(name: str, found: str) -> OperatorError:
    return OperatorError(
        name,
        f"its tables are of a newer layout ({found}) than this moat-fleet's ({SCHEMA_REVISION})",
        "Use the moat-fleet that made it",
    )
