"""Configuration payloads: round trips, octets by hand, and hostile ones (RFC 7296, 3.15)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_config import (
    MOST_VALUES,
    Assigned,
    Attribute,
    ConfigType,
    assigned_of,
    encode_reply,
    encode_request,
    parse_attributes,
)

ALL = Assigned(
    ("10.201.9.1", "fd00:201:9::1"),
    ("10.50.0.53", "fd00:50::53"),
    ("10.50.0.0/16", "fd00:50::/32"),
    ("corp.example", "lab.corp.example"),
)
EVERY = tuple(Attribute)


def test_the_octets_of_a_reply():
    told = Assigned(("10.201.9.1",), ("10.50.0.53",), ("10.50.0.0/16",), ("corp.example",))
    assert encode_reply(told, EVERY).hex() == (
        "02000000"  # CFG_REPLY
        "000100040ac90901"
        "000300040a320035"
        "000d00080a320000ffff0000"
        "0019000c" + b"corp.example".hex()
    )


def test_a_request_asks_for_one_of_everything():
    kind, attributes = parse_attributes(encode_request())
    assert kind == ConfigType.REQUEST
    assert attributes == [(attribute, b"") for attribute in Attribute]


def test_what_is_assigned_comes_back():
    kind, attributes = parse_attributes(encode_reply(ALL, EVERY))
    assert kind == ConfigType.REPLY
    assert assigned_of(attributes) == ALL


@pytest.mark.parametrize("wanted", Attribute)
def test_only_what_was_asked_for_is_told(wanted):
    _, attributes = parse_attributes(encode_reply(ALL, (wanted,)))
    assert {number for number, _ in attributes} == {wanted}


def test_unknown_and_empty_attributes_are_left_out_and_the_reserved_bit_ignored():
    attributes = [(7, b"strongSwan 5.9"), (20, b""), (16389, b"x"), (Attribute.IP4_DNS, b"")]
    assert assigned_of(attributes) == Assigned()
    body = b"\2\0\0\0" + b"\x80\1\0\4" + bytes((10, 1, 2, 3))
    assert assigned_of(parse_attributes(body)[1]).addresses == ("10.1.2.3",)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (Attribute.IP4_ADDRESS, b"\1\2\3"),
        (Attribute.IP6_ADDRESS, bytes(15)),
        (Attribute.IP4_DNS, bytes(5)),
        (Attribute.IP6_DNS, bytes(17)),
        (Attribute.IP4_SUBNET, bytes(7)),
        (Attribute.IP4_SUBNET, bytes((10, 0, 0, 0, 255, 0, 255, 0))),
        (Attribute.IP6_SUBNET, bytes(16) + b"\x81"),
        (Attribute.DNS_DOMAIN, b"corp.example\nnameserver 203.0.113.66"),
        (Attribute.DNS_DOMAIN, b"\xff"),
    ],
)
def test_values_of_the_wrong_shape(number, value):
    with pytest.raises(PeerError) as raised:
        assigned_of([(number, value)])
    assert raised.value.reason is DropReason.IKE_MALFORMED


@pytest.mark.parametrize("body", [b"", b"\2\0\0", b"\2\0\0\0\0", b"\2\0\0\0\0\1\0\5\1\2\3\4"])
def test_truncated_bodies(body):
    with pytest.raises(PeerError):
        parse_attributes(body)


def test_no_more_values_than_anybody_needs():
    body = b"\1\0\0\0" + b"\0\1\0\0" * MOST_VALUES
    assert len(parse_attributes(body)[1]) == MOST_VALUES
    with pytest.raises(PeerError):
        parse_attributes(body + b"\0\1\0\0")


@given(st.binary(max_size=200))
def test_hostile_octets_are_parsed_or_refused(octets):
    try:
        _, attributes = parse_attributes(octets)
        assigned_of(attributes)
    except PeerError:
        return
    assert len(attributes) <= MOST_VALUES


@given(
    st.lists(st.ip_addresses(), max_size=5),
    st.lists(st.ip_addresses(), max_size=5),
    st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), max_size=5),
    st.lists(st.tuples(st.ip_addresses(v=6), st.integers(0, 128)), max_size=5),
)
def test_round_trips(addresses, servers, four, six):
    networks = [str(IPv4Network((int(a), length), strict=False)) for a, length in four]
    networks += [str(IPv6Network((int(a), length), strict=False)) for a, length in six]
    told = Assigned(tuple(map(str, addresses)), tuple(map(str, servers)), tuple(networks))
    assert assigned_of(parse_attributes(encode_reply(told, EVERY))[1]) == told
