"""Which raw packets an SA's selectors select."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from esp_peers import ALL, CORP, CORP6, HOME, PC, PC6, STRANGER, TCP, UDP, ipv4, ipv6

from moatvpn.esp.selectors import Matcher
from moatvpn.wire.ip import read_header
from moatvpn.wire.selectors import TrafficSelector


def matches(matcher, packet):
    version, _, source, destination = read_header(packet)
    return matcher.matches(packet, version, source, destination)


def one(address, protocol=0, ports=(0, 65535)):
    address = ip_address(address)
    return (TrafficSelector(address, address, protocol, *ports),)


DNS = bytes.fromhex("c001 0035 0008 0000")
FROM_DNS = bytes.fromhex("0035 c001 0008 0000")


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(), True),
        (ipv6(), True),
        (ipv4(source=STRANGER), False),
        (ipv4(source="10.201.0.255"), False),
        (ipv4(source="10.201.1.0"), True),
        (ipv4(source="10.201.1.255"), True),
        (ipv4(source=CORP, target=PC), False),
        (ipv6(source="fd00:201:2::1"), False),
        (ipv6(source="::ac9:10a"), False),  # the number of an IPv4 address of ours
    ],
)
def test_addresses(packet, expected):
    assert matches(Matcher(HOME, ALL), packet) is expected


def test_a_family_without_selectors_is_not_selected():
    assert not matches(Matcher(HOME[:1], ALL), ipv6())
    assert not matches(Matcher(HOME, ALL[:1]), ipv6())
    assert not matches(Matcher((), ()), ipv4())


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(DNS), True),
        (ipv4(DNS, protocol=TCP), False),
        (ipv4(FROM_DNS), False),
        (ipv4(DNS[:3]), False),
        (ipv4(DNS, protocol=1), False),
        (ipv4(DNS, target=STRANGER), False),
    ],
)
def test_protocol_and_port(packet, expected):
    assert matches(Matcher(one(PC), one(CORP, UDP, (53, 53))), packet) is expected


def test_a_port_range_holds_both_its_ends():
    for ports, expected in (
        ((53, 60), True),
        ((50, 53), True),
        ((54, 60), False),
        ((0, 52), False),
    ):
        assert matches(Matcher(one(PC), one(CORP, UDP, ports)), ipv4(DNS)) is expected


def test_source_ports_are_those_of_the_source_side():
    assert matches(Matcher(one(PC, UDP, (53, 53)), one(CORP)), ipv4(FROM_DNS))
    assert not matches(Matcher(one(PC, UDP, (53, 53)), one(CORP)), ipv4(DNS))


def test_a_protocol_alone_selects_fragments_and_a_port_does_not():
    later = ipv6(bytes((UDP, 0)) + (64).to_bytes(2, "big") + bytes(4) + DNS, protocol=44)
    assert matches(Matcher(one(PC6, UDP), one(CORP6, UDP)), later)
    assert not matches(Matcher(one(PC6, TCP), one(CORP6, TCP)), later)
    assert not matches(Matcher(one(PC6, UDP), one(CORP6, UDP, (53, 53))), later)


def test_a_later_fragment_cannot_pass_for_another_protocol():
    """Its bytes look like a destination option before TCP, and are the middle of something."""
    disguise = bytes((60, 0)) + (64).to_bytes(2, "big") + bytes(4) + bytes((TCP, 0)) + bytes(14)
    assert not matches(Matcher(one(PC6, TCP), one(CORP6, TCP)), ipv6(disguise, protocol=44))


def test_any_of_several_selectors_will_do():
    side = (*one(STRANGER), *one(CORP, TCP), *one(CORP, UDP, (53, 53)))
    assert matches(Matcher(ALL, side), ipv4(DNS))
    assert matches(Matcher(ALL, side), ipv4(FROM_DNS, protocol=TCP))
    assert not matches(Matcher(ALL, side), ipv4(FROM_DNS))
    assert matches(Matcher(ALL, side), ipv4(target=STRANGER, protocol=1))
