"""A customer database as the tests of the fleet want it."""

from __future__ import annotations

import base64
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playbook_stub import PlaybookStub
from postgresql import postgresql
from sqlalchemy import URL, create_engine, text
from typer.testing import CliRunner, Result

from moatvpn.config import ED25519_SPKI_PREFIX
from moatvpn.fleet import keys, store
from moatvpn.fleet.commands import app
from moatvpn.fleet.database import Database, database_url

_numbers = itertools.count()
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)

PORTAL = {
    "portal": "portal1.example.net",
    "wild_address": "198.51.100.2/24",
    "wild_gateway": "198.51.100.1",
    "corporate_address": "10.50.0.1/24",
    "corporate_address6": "fd00:50::1/64",
    "corporate_gateway": "10.50.0.10",
    "corporate_gateway6": "fd00:50::10",
    "pool": "10.201.0.0/16",
    "pool6": "fd00:201::/32",
    "tunnel_address": "10.201.0.1/32",
    "tunnel_address6": "fd00:201::1/128",
}

PORTAL2 = PORTAL | {
    "portal": "portal2.example.net",
    "wild_address": "198.51.100.3/24",
    "corporate_address": "10.50.0.2/24",
    "corporate_address6": "fd00:50::2/64",
    "pool": "10.202.0.0/16",
    "pool6": "fd00:202::/32",
    "tunnel_address": "10.202.0.1/32",
    "tunnel_address6": "fd00:202::1/128",
}


def customer_texts(number: int, **changes: str) -> dict[str, str]:
    return {
        "customer": f"c{number:04}",
        "name": f"Customer {number}",
        "isp": "Example Cable",
        "portal": "portal1.example.net",
        "moat": f"m{number:04}.moats.example.net",
    } | changes


def public_key(number: int) -> str:
    """Return the text of a key that is nobody's."""
    return base64.b64encode(ED25519_SPKI_PREFIX + number.to_bytes(32)).decode()


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def portal_texts() -> dict[str, str]:
    return dict(PORTAL)


@pytest.fixture
def portal2_texts() -> dict[str, str]:
    return dict(PORTAL2)


@pytest.fixture
def customer() -> Callable[..., dict[str, str]]:
    return customer_texts


@pytest.fixture
def key() -> Callable[[int], str]:
    return public_key


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: URL) -> URL:
    """A customer database without customers, which the tests' own are copies of."""
    made = _new_database(postgresql_server, "moat_template")
    database = Database(made)
    database.create()
    database.close()
    return made


def _new_database(server: URL, name: str, template: str = "template0") -> URL:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
    engine.dispose()
    return server.set(database=name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/moat.sqlite"


@pytest.fixture
def new_postgresql(postgresql_server: URL) -> Callable[..., str]:
    """Return the URL of a new, empty PostgreSQL database, or of a copy of another one."""

    def make(template: str = "template0") -> str:
        name = f"moat_{next(_numbers)}"
        made = _new_database(postgresql_server, name, template)
        return made.render_as_string(hide_password=False)

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of each kind, without a table yet."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("new_postgresql")())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A customer database without customers, which the tests' own are copies of."""
    path = tmp_path_factory.mktemp("template") / "moat.sqlite"
    database = Database(database_url(str(path)))
    database.create()
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A customer database of each kind, without customers yet."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "moat.sqlite")
        url = request.getfixturevalue("sqlite_url")
    else:
        request.getfixturevalue("postgresql_template")
        url = request.getfixturevalue("new_postgresql")("moat_template")
    made = Database(database_url(url), who="ada")
    yield made
    made.close()


@pytest.fixture
def fleet_at() -> Callable[[str], Callable[..., Result]]:
    """moat-fleet on the database of a URL: call it with a command's words."""
    runner = CliRunner()

    def at(url: str) -> Callable[..., Result]:
        return lambda *words: runner.invoke(app, ["--database", url, *words])

    return at


@pytest.fixture
def fleet(url: str, fleet_at: Callable[[str], Callable[..., Result]]) -> Callable[..., Result]:
    """moat-fleet on an empty file: call it with a command's words."""
    return fleet_at(url)


@pytest.fixture
def two_portals(database: Database) -> Callable[[int], Database]:
    """Return what adds both portals, and so many active customers of the first, all with keys."""

    def add(customers: int) -> Database:
        numbers = range(1, customers + 1)
        with database.write() as session:
            for number, texts in enumerate((PORTAL, PORTAL2)):
                store.add_portal(session, texts, NOW)
                keys.record_key(session, texts["portal"], public_key(100 + number), NOW)
            rows = [(None, customer_texts(number, status="active")) for number in numbers]
            store.add_customers(session, rows, "two portals", NOW)
            for number in numbers:
                moat = f"m{number:04}.moats.example.net"
                keys.record_key(session, moat, public_key(number), NOW)
        return database

    return add


@pytest.fixture
def playbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlaybookStub:
    """A program in ansible-playbook's place, and a playbook for it."""
    made = PlaybookStub(tmp_path)
    monkeypatch.setattr(sys, "executable", str(made.python))
    return made
