"""Netlink messages are read without trust, and a flock of changes is one."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.drivers.netlink import Debounce, tells_of_change

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE = 16, 17, 20, 21, 24, 25
NEW_NEIGHBOUR = 28
CHANGES = {NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE}


def message(kind: int, body: bytes = b"") -> bytes:
    padding = bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + padding


@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_addresses_links_and_routes_are_changes(kind: int) -> None:
    assert tells_of_change(message(kind, bytes(8)))


def test_a_change_behind_other_messages_is_seen() -> None:
    assert tells_of_change(message(NEW_NEIGHBOUR, bytes(5)) + message(NEW_ADDRESS))
    assert not tells_of_change(message(NEW_NEIGHBOUR, bytes(5)) + message(NEW_NEIGHBOUR))


def test_a_length_of_zero_ends_the_reading() -> None:
    assert not tells_of_change(struct.pack("=IHHII", 0, NEW_NEIGHBOUR, 0, 1, 0) + message(NEW_LINK))


@given(st.binary(max_size=200))
def test_any_octets_come_to_an_end(data: bytes) -> None:
    kinds = {int.from_bytes(data[at + 4 : at + 6], sys.byteorder) for at in range(0, 200, 4)}
    assert not tells_of_change(data) or kinds & CHANGES


def test_a_flock_of_changes_is_one() -> None:
    debounce = Debounce()
    assert debounce.deadline() is None
    for now in (10.0, 10.1, 10.2):
        debounce.note(now)
        assert not debounce.fire(now)
    deadline = debounce.deadline()
    assert deadline == pytest.approx(10.45)
    assert debounce.fire(10.45)
    assert debounce.deadline() is None
    assert not debounce.fire(11.0)


def test_changes_without_end_do_not_put_it_off_for_ever() -> None:
    debounce = Debounce()
    for tenth in range(100, 120):
        debounce.note(tenth / 10)
    assert debounce.deadline() == pytest.approx(12.0)
    assert debounce.fire(12.0)
