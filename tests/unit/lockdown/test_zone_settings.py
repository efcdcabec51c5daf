"""Boxes that cannot be: what is wrong with each, said to who has to mend it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from lockdown_boxes import KID, MOAT, PORTAL, SSH, further, moat

from moatvpn.errors import ConfigError
from moatvpn.lockdown.homes import moat_box, portal_box
from moatvpn.lockdown.matrix import matrix
from moatvpn.lockdown.ruleset import ruleset
from moatvpn.lockdown.zones import LOCAL, Kind, box_from_dict

ZONES = [
    {"name": "wild", "kind": "wild", "interface": "wild0"},
    {
        "name": "home",
        "kind": "private",
        "interface": "home0",
        "subnet4": "10.1.1.0/24",
        "tunnel": "t",
    },
    {"name": "t", "kind": "tunnel", "interface": "moat0"},
]


def with_zone(index: int, **changes: Any) -> dict[str, Any]:
    zones = [dict(zone) for zone in ZONES]
    zones[index] |= changes
    return {"zones": zones}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no zones": ({}, "name 0 wild sides"),
    "zones that are no list": ({"zones": "wild0"}, "is 'wild0'"),
    "two wild sides": (with_zone(2, kind="wild", name="t"), "name 2 wild sides"),
    "a word that nobody knows": ({**with_zone(0), "speed": 1}, "speed: is not a setting"),
    "a kind that is none": (with_zone(0, kind="dmz"), "kind: is 'dmz'"),
    "the box as a zone": (with_zone(0, kind="local"), "kind: is 'local'"),
    "a name that breaks out": (with_zone(0, name="a }"), "name: is 'a }'"),
    "an interface that breaks out": (with_zone(0, interface='w" accept'), "interface: is"),
    "an interface twice": (with_zone(1, interface="wild0"), "have interface 'wild0' twice"),
    "loopback as a side": (with_zone(1, interface="lo"), "have interface 'lo' twice"),
    "a name twice": (with_zone(1, name="wild"), "have name 'wild' twice"),
    "no network": (with_zone(1, subnet4="10.1.1.1/24"), "has host bits set"),
    "the other family": (with_zone(1, subnet4="fd00::/64"), "is IPv6, not IPv4"),
    "a wild side with addresses": (
        with_zone(0, subnet4="192.0.2.0/24"),
        "is wild, and has a subnet",
    ),
    "a tunnel of nobody": (with_zone(1, tunnel="x"), "belongs to the tunnel 'x'"),
    "a tunnel of a tunnel": (with_zone(2, tunnel="t"), "has the tunnel 't'"),
    "subnets on both sides": (with_zone(2, subnet4="10.2.0.0/16"), "cannot be told apart"),
    "subnets that overlap": (with_zone(2, subnet4="10.1.0.0/16"), "share addresses"),
    "a service without zones": (
        {**with_zone(0), "services": [{**SSH, "zones": None}]},
        "zones: is",
    ),
    "a service by another protocol": (
        {**with_zone(0), "services": [{**SSH, "protocol": "gre"}]},
        "protocol: is 'gre'",
    ),
    "a port that is none": ({**with_zone(0), "services": [{**SSH, "port": 0}]}, "port: has 0"),
    "a port that is true": (
        {**with_zone(0), "services": [{**SSH, "port": True}]},
        "port: has True",
    ),
    "ssh on the wild side": (
        {**with_zone(0), "services": [{**SSH, "zones": ["wild"]}]},
        "let the wild side in to tcp port 22",
    ),
    "a home with further subnets": (
        with_zone(1, further=["10.1.2.0/24"]),
        "has further subnets",
    ),
    "further subnets that overlap": (
        {
            "zones": [
                {**ZONES[0]},
                {"name": "corp", "kind": "private", "interface": "corp0", "tunnel": "t"},
                {**ZONES[2], "subnet4": "10.1.0.0/16", "further": ["10.1.2.0/24"]},
            ]
        },
        "share addresses",
    ),
    "what is handed on without a pool": (
        {**with_zone(0), "handed_on": ["10.1.1.0/24"]},
        "10.1.1.0/24 lies in no pool here",
    ),
    "sources that are none": (
        {**with_zone(0), "services": [{**SSH, "sources": ["x"]}]},
        "sources: ",
    ),
    "ports where others are": ({**with_zone(0), "ike_ports": [20_000]}, "has 20000"),
    "a lease that is a word": ({**with_zone(0), "wild_dhcp": "no"}, "wild_dhcp: is 'no'"),
    "one MSS": ({**with_zone(0), "mss": [1360]}, "mss: is [1360]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_box_is_refused(name: str) -> None:
    record, why = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        box_from_dict(record, "box")
    assert why in str(caught.value)
    assert caught.value.what.startswith("box")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kid": {"interface": "kid0", "subnet": ""}}, "is IPv4 only"),
        ({"kid": True}, "kid: is True"),
        ({"vpns": {"a": 1}}, "vpns: is"),
        ({"vpns": [further(1), further(1)]}, "twice"),
        ({"vpns": [{**further(1), "private_subnet": "10.201.1.0/25"}]}, "share addresses"),
        ({"vpns": [{**further(1), "name": "a b"}]}, "name: is 'private-a b'"),
        ({"private_interface": None}, "interface: is None"),
    ],
)
def test_a_wrong_moat_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=None) as caught:
        moat_box(MOAT | changes, "moat")
    assert why in str(caught.value)


def test_a_portal_needs_its_pool() -> None:
    with pytest.raises(ConfigError, match="cannot be told apart"):
        portal_box(PORTAL | {"pool": None}, "portal")


def test_a_service_with_an_empty_list_of_sources_is_open_to_nobody() -> None:
    operators = {**SSH, "zones": ["tunnel"], "sources": []}
    box = moat(services=[operators])
    zones = {zone.name: zone for zone in box.zones}
    assert [each for each in matrix(box)[zones["tunnel"], LOCAL] if each.protocol == "tcp"] == []
    named = moat(services=[{**operators, "sources": ["10.50.0.0/24"]}])
    (only,) = (each for each in matrix(named)[zones["tunnel"], LOCAL] if each.protocol == "tcp")
    assert [str(each) for each in only.sources] == ["10.50.0.0/24"]


def test_further_vpns_have_tunnels_and_ports_of_their_own() -> None:
    box = moat(vpns=[further(1), further(2)], **KID)
    assert [(zone.name, zone.interface) for zone in box.of(Kind.TUNNEL)] == [
        ("tunnel", "moat0"),
        ("tunnel-vpn1", "moat1"),
        ("tunnel-vpn2", "moat2"),
    ]
    assert box.ike_ports == (500, 4500, 601, 4601, 602, 4602)


WORDS = ["wild", "private", "kid", "tunnel", "local", "wild0", "home0", "tcp", "10.1.1.0/24", ""]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 70_000)
    | st.sampled_from(WORDS)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*MOAT, *ZONES[1], *SSH, "ports", "kid", "vpns"]), inner)
    ),
    max_leaves=12,
)
records = st.dictionaries(
    st.sampled_from([*MOAT, "zones", "services", "outgoing", "ike_ports", "mss", "kid", "vpns"]),
    values,
)


@given(records)
def test_whatever_a_record_holds_is_a_box_or_is_refused(record: dict[str, Any]) -> None:
    for read in (box_from_dict, moat_box, portal_box):
        with suppress(ConfigError):
            ruleset(read(record, "box"))
        with suppress(ConfigError):
            ruleset(read(MOAT | record, "box"))
        with suppress(ConfigError):
            ruleset(read({"zones": ZONES} | record, "box"))
