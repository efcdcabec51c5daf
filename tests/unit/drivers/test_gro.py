"""Datagrams that the kernel has put together are told apart by their first octets (RFC 3948)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.drivers.gro import is_plain, split
from moatvpn.wire.endpoint import KEEPALIVE

ESP = b"\x01\x02\x03\x04esp"
LOW_SPI = b"\x00\x02\x03\x04esp"  # an SPI that begins with the marker's first octet
IKE = bytes(4) + b"ike"


@pytest.mark.parametrize(
    ("datagrams", "envelopes", "messages"),
    [
        ([ESP], [ESP], []),
        ([IKE], [], [b"ike"]),
        ([ESP, ESP, ESP], [ESP * 3], []),
        ([ESP, LOW_SPI, ESP], [ESP + LOW_SPI + ESP], []),
        ([ESP, ESP, b"short"], [ESP * 2 + b"short"], []),
        ([IKE, ESP, ESP], [ESP * 2], [b"ike"]),
        ([ESP, IKE, ESP, ESP], [ESP, ESP * 2], [b"ike"]),
        ([ESP, ESP, IKE], [ESP * 2], [b"ike"]),
        ([IKE, IKE, ESP, IKE], [ESP], [b"ike", b"ike", b"ike"]),
        ([ESP, ESP, bytes(4)], [ESP * 2], [b""]),
        ([ESP, ESP, b"\x00"], [ESP * 2 + b"\x00"], []),
        ([ESP, ESP, KEEPALIVE], [ESP * 2], []),
        ([KEEPALIVE, KEEPALIVE], [], []),
        ([KEEPALIVE, b"\x01", KEEPALIVE], [b"\x01"], []),
        # Not a marker, though eight octets of zero stand there.
        ([bytes(2), bytes(2), bytes(2), bytes(2)], [bytes(8)], []),
    ],
)
def test_datagrams_are_told_apart(
    datagrams: list[bytes], envelopes: list[bytes], messages: list[bytes]
) -> None:
    data, size = memoryview(b"".join(datagrams)), len(datagrams[0])
    assert split(data, size) == (envelopes, messages)
    if is_plain(data, size):
        assert (envelopes, messages) == ([bytes(data)], [])


@pytest.mark.parametrize("last", [b"", b"\xff", b"\xff\xff", ESP])
def test_envelopes_alone_are_seen_at_a_glance(last: bytes) -> None:
    assert is_plain(memoryview(ESP * 40 + last), len(ESP)) is (last != KEEPALIVE)
    assert not is_plain(memoryview(ESP * 40 + LOW_SPI), len(ESP))  # looked at twice


@given(
    st.lists(
        st.sampled_from((b"\x00\x00\x00\x00", b"\x00\x00\x00", b"\xff", b"\x01", b"\x00")),
        min_size=1,
    ).map(b"".join),
    st.integers(min_value=1, max_value=9),
)
def test_what_is_plain_is_split_into_itself(octets: bytes, size: int) -> None:
    data = memoryview(octets)
    envelopes, messages = split(data, size)
    marked = 4 * len(messages) + sum(map(len, messages))
    assert sum(map(len, envelopes)) + marked <= len(octets)
    if is_plain(data, size):
        assert (envelopes, messages) == ([octets], [])
