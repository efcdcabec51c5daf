"""Netlink's frames and attributes: written and read back, and any octets come to an end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moatvpn.drivers.netlink_codec import attribute, attributes, message, messages


def test_messages_are_found_one_after_the_other() -> None:
    data = message(0x10, 1, 7, b"body") + message(3, 0, 8, b"")
    assert list(messages(data)) == [(0x10, 7, b"body"), (3, 8, b"")]


def test_attributes_are_found_whatever_their_length() -> None:
    data = attribute(1, b"a") + attribute(2, b"") + attribute(0x8000 | 3, b"four")
    assert len(data) % 4 == 0
    assert attributes(data) == {1: b"a", 2: b"", 3: b"four"}


def test_what_is_cut_is_left_out() -> None:
    data = attribute(1, b"whole") + attribute(2, b"cut")[:-2]
    assert attributes(data) == {1: b"whole"}
    assert list(messages(message(1, 0, 1, b"12345678")[:-1])) == []


@given(st.binary(max_size=200))
def test_any_octets_come_to_an_end(data: bytes) -> None:
    assert len(list(messages(data))) <= len(data) // 16
    assert len(attributes(data)) <= len(data) // 4
