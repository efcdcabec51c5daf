"""A customer database as the tests of the fleet want it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moatvpn.config import ED25519_SPKI_PREFIX
from moatvpn.fleet.commands import app
from moatvpn.fleet.database import Database, database_url

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


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/moat.sqlite"


@pytest.fixture
def database(url: str) -> Database:
    made = Database(database_url(url))
    made.create()
    return made


@pytest.fixture
def fleet(url: str) -> Callable[..., Result]:
    """moat-fleet on an empty file: call it with a command's words."""
    runner = CliRunner()

    def run(*words: str) -> Result:
        return runner.invoke(app, ["--database", url, *words])

    return run
