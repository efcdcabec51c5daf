"""An inventory of the hosts that are named, and no others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import select

from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import Inventory, build_inventory, build_limited
from moatvpn.fleet.models import Moat, Portal

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]

PORTAL = "portal1.example.net"
PORTAL2 = "portal2.example.net"
ONE, TWO = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def three(
    database: Database,
    portal_texts: Texts,
    portal2_texts: Texts,
    customer: Make,
    key: Key,
    now: datetime,
) -> Database:
    """Two customers of one portal, and one of another; every box has a key."""
    with database.write() as session:
        rows: list[tuple[int | None, Texts]] = [
            (None, customer(1, status="active", isp="One")),
            (None, customer(2, status="active", isp="Two")),
            (None, customer(3, status="active", portal=PORTAL2)),
        ]
        store.add_portal(session, portal_texts, now)
        store.add_portal(session, portal2_texts, now)
        store.add_customers(session, rows, "three", now)
        for number, box in enumerate((PORTAL, PORTAL2, ONE, TWO, "m0003.moats.example.net")):
            keys.record_key(session, box, key(number), now)
    return database


def limited(database: Database, now: datetime, *names: str) -> tuple[Inventory | None, Inventory]:
    with database.read() as session:
        return build_limited(session, now, names), build_inventory(session, now)


def test_a_moat_is_as_ever_and_no_portal_has_connections(three: Database, now: datetime) -> None:
    found, whole = limited(three, now, ONE)
    assert found is not None
    assert list(found.hosts) == [ONE, PORTAL, PORTAL2]
    assert found.hosts[ONE] == whole.hosts[ONE]
    for portal in (PORTAL, PORTAL2):
        # Missing, not empty: a role that wants them must end, not take tunnels down.
        assert "moatvpn_connections" in whole.hosts[portal]
        expected = dict(whole.hosts[portal])
        del expected["moatvpn_connections"]
        assert found.hosts[portal] == expected


def test_groups_have_whom_there_is(three: Database, now: datetime) -> None:
    found, _ = limited(three, now, ONE)
    assert found is not None
    assert found.groups == {
        "isp_one": [ONE],
        "moats": [ONE],
        "portal_portal1_example_net": [ONE],
        "portals": [PORTAL, PORTAL2],
        "status_active": [ONE],
        "status_ordered": [],
        "status_revoked": [],
        "status_shipped": [],
        "status_suspended": [],
    }


@pytest.mark.parametrize("names", [(PORTAL,), (PORTAL, ONE)])
def test_a_portal_that_is_named_has_every_connection(
    three: Database, now: datetime, names: tuple[str, ...]
) -> None:
    found, whole = limited(three, now, *names)
    assert found is not None
    assert len(found.hosts[PORTAL]["moatvpn_connections"]) == 2
    for name in names:
        assert found.hosts[name] == whole.hosts[name]
    assert set(found.hosts) == {PORTAL2, *names}
    assert "moatvpn_connections" not in found.hosts[PORTAL2]


@pytest.mark.parametrize(
    "names",
    [("moats",), (ONE, "isp_one"), ("m0001*",), (f"!{ONE}",), ("localhost",), (ONE.upper(),)],
)
def test_what_is_no_hosts_name_is_not_guessed_at(
    three: Database, now: datetime, names: tuple[str, ...]
) -> None:
    found, _ = limited(three, now, *names)
    assert found is None


def test_so_many_that_nothing_is_saved(three: Database, now: datetime) -> None:
    found, _ = limited(three, now, *(f"m{number:04}.moats.example.net" for number in range(2000)))
    assert found is None


def test_one_named_twice(three: Database, now: datetime) -> None:
    found, _ = limited(three, now, ONE, ONE)
    assert found is not None
    assert found.groups["moats"] == [ONE]


def test_routes_of_customers_who_are_not_there_are_not_left_out_in_silence(
    three: Database, now: datetime
) -> None:
    """Two moats of the first pool are at the second portal; one of them is named."""
    with three.write() as session:
        new = session.scalars(select(Portal.id).where(Portal.identity == PORTAL2)).one()
        for moat in session.scalars(select(Moat).where(Moat.identity.in_((ONE, TWO)))):
            moat.portal_id = new
    found, whole = limited(three, now, ONE)
    assert found is not None
    assert found.hosts[ONE] == whole.hosts[ONE]
    for portal in (PORTAL, PORTAL2):
        routes = {name for name in whole.hosts[portal] if name.startswith("portal_moved_")}
        assert routes
        for name, value in found.hosts[portal].items():
            assert whole.hosts[portal][name] == value
