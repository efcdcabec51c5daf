"""The inventory: which hosts, groups and connections a database means."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from moatvpn.config import ConnectionConfig, connection_from_dict
from moatvpn.credentials import with_credentials
from moatvpn.errors import ConfigError
from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import Inventory, build_inventory, build_portals
from moatvpn.fleet.models import Status

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]

PORTAL = "portal1.example.net"
EVERYWHERE = ("0.0.0.0/0", "::/0")


def build(database: Database, now: datetime) -> Inventory:
    with database.read() as session:
        return build_inventory(session, now)


def connections(inventory: Inventory, host: str) -> list[ConnectionConfig]:
    """Return a host's connections, as a box would read them."""
    return [connection_from_dict(each) for each in inventory.hosts[host]["moatvpn_connections"]]


@pytest.fixture
def five(
    database: Database, portal_texts: Texts, customer: Make, key: Key, now: datetime
) -> Database:
    """Five customers, one of each status; all boxes but the ordered moat have a key."""
    statuses = ("ordered", "shipped", "active", "suspended", "revoked")
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        keys.record_key(session, PORTAL, key(100), now)
        rows: list[tuple[int | None, Texts]] = [
            (None, customer(number, isp=f"ISP {number % 2}"))
            for number in range(1, len(statuses) + 1)
        ]
        store.add_customers(session, rows, "five", now)
        for number in range(2, 6):
            keys.record_key(session, f"m{number:04}.moats.example.net", key(number), now)
        for number, status in enumerate(statuses, start=1):
            store.set_customer(session, f"c{number:04}", {"status": status}, now)
    return database


def test_groups(five: Database, now: datetime) -> None:
    moats = [f"m{number:04}.moats.example.net" for number in range(1, 6)]
    assert build(five, now).groups == {
        "moats": moats,
        "portals": [PORTAL],
        "portal_portal1_example_net": moats,
        "status_ordered": moats[:1],
        "status_shipped": moats[1:2],
        "status_active": moats[2:3],
        "status_suspended": moats[3:4],
        "status_revoked": moats[4:],
        "isp_isp_0": moats[1::2],
        "isp_isp_1": moats[0::2],
    }


def test_a_portal_serves_shipped_and_active_customers_with_a_key(
    five: Database, key: Key, now: datetime
) -> None:
    shipped, active = connections(build(five, now), PORTAL)
    assert (shipped.name, active.name) == ("c0002", "c0003")
    assert shipped == ConnectionConfig(
        name="c0002",
        remote_identity="m0002.moats.example.net",
        remote_public_keys=(key(2),),
        local_selectors=EVERYWHERE,
        remote_selectors=("10.201.2.0/24", "fd00:201:0:2::/64"),
    )


def test_a_moat_seeks_its_portal_unless_suspended_or_revoked(
    five: Database, key: Key, now: datetime
) -> None:
    inventory = build(five, now)
    found = {
        number: connections(inventory, f"m{number:04}.moats.example.net") for number in range(1, 6)
    }
    assert [len(found[number]) for number in range(1, 6)] == [1, 1, 1, 0, 0]
    assert found[3] == [
        ConnectionConfig(
            name="portal1",
            remote_identity=PORTAL,
            remote_public_keys=(key(100),),
            local_selectors=("10.201.3.0/24", "fd00:201:0:3::/64"),
            remote_selectors=EVERYWHERE,
            remote_address="198.51.100.2",
            initiate=True,
        )
    ]


def test_only_valid_keys_count(five: Database, key: Key, now: datetime) -> None:
    start = now + timedelta(days=2)
    moat = "m0003.moats.example.net"
    with five.write() as session:
        keys.record_key(session, moat, key(33), now, replace=True, not_before=start)
        keys.record_key(session, PORTAL, key(100), now, not_after=start)
    before, after = build(five, start - timedelta(seconds=1)), build(five, start)
    assert connections(before, PORTAL)[1].remote_public_keys == (key(3),)
    assert connections(after, PORTAL)[1].remote_public_keys == (key(33),)
    assert len(connections(before, moat)) == 1
    assert connections(after, moat) == []


def test_variables_of_a_portal(
    five: Database, portal_texts: Texts, key: Key, now: datetime
) -> None:
    variables = build(five, now).hosts[PORTAL]
    assert variables.pop("moatvpn_connections")
    expected = {f"portal_{name}": text for name, text in portal_texts.items() if name != "portal"}
    assert variables == expected | {
        "moatvpn_identity": PORTAL,
        "moatvpn_journal": "persistent",
        "moatvpn_revoked": {"keys": [key(5)], "identities": ["m0005.moats.example.net"]},
        "portal_wild_interface": "wild0",
        "portal_corporate_interface": "corp0",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"moat_wild_mode": "dhcp"}),
        (
            {
                "wild_mode": "static",
                "wild_address": "192.0.2.9/24",
                "wild_gateway": "192.0.2.1",
            },
            {
                "moat_wild_mode": "static",
                "moat_wild_address": "192.0.2.9/24",
                "moat_wild_gateway": "192.0.2.1",
            },
        ),
        (
            {"kidnet": "yes", "kidnet_subnet": "192.168.77.0/24"},
            {
                "moat_wild_mode": "dhcp",
                "moat_kidnet_enabled": True,
                "moat_kidnet_address": "192.168.77.1/24",
                "moat_kidnet_subnet": "192.168.77.0/24",
            },
        ),
        ({"kidnet": "no", "kidnet_subnet": "192.168.77.0/24"}, {"moat_wild_mode": "dhcp"}),
    ],
)
def test_variables_of_a_moat(
    database: Database,
    portal_texts: Texts,
    customer: Make,
    now: datetime,
    given: Texts,
    expected: dict[str, Any],
) -> None:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, customer(1) | given)], "one", now)
    assert build(database, now).hosts["m0001.moats.example.net"] == {
        "ansible_host": "10.201.1.1",
        "moatvpn_portal_address": "10.201.0.1",
        "moatvpn_identity": "m0001.moats.example.net",
        # Its portal has no key yet.
        "moatvpn_connections": [],
        "moat_wild_interface": "wild0",
        "moat_private_interface": "private0",
        "moat_private_address": "10.201.1.1/24",
        "moat_private_subnet": "10.201.1.0/24",
        "moat_private_address6": "fd00:201:0:1::1/64",
        "moat_private_subnet6": "fd00:201:0:1::/64",
        "moat_kidnet_enabled": False,
        **expected,
    }


def test_an_empty_database(database: Database, now: datetime) -> None:
    found = build(database, now)
    assert found.hosts == {}
    assert found.groups == {
        name: [] for name in ("moats", "portals", *(f"status_{status}" for status in Status))
    }


def test_the_number_of_queries_does_not_grow(
    five: Database, customer: Make, key: Key, now: datetime
) -> None:
    def queries() -> int:
        seen: list[str] = []

        def count(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if statement.startswith("SELECT"):
                seen.append(statement)

        with five.read() as session:
            engine = session.connection()
            event.listen(engine, "before_cursor_execute", count)
            build_inventory(session, now)
        return len(seen)

    assert queries() == 5
    with five.write() as session:
        rows: list[tuple[int | None, Texts]] = [
            (None, customer(number, status="active")) for number in range(10, 60)
        ]
        store.add_customers(session, rows, "many", now)
        for number in range(10, 60):
            keys.record_key(session, f"m{number:04}.moats.example.net", key(number), now)
    assert queries() == 5
    assert len(connections(build(five, now), PORTAL)) == 52


def test_portals_alone_have_no_connections_that_a_role_could_take(five: Database) -> None:
    with five.read() as session:
        found = build_portals(session)
    assert found.groups == {"portals": [PORTAL]}
    assert found.hosts[PORTAL]["moatvpn_connections"] is None
    with pytest.raises(ConfigError, match="connections"):
        with_credentials(found.hosts[PORTAL]["moatvpn_connections"], {}, "/etc")
