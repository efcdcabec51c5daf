"""The form of ESP packets: start, associated data, padding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.esp import (
    ICV_LENGTH,
    MIN_LENGTH,
    extended_associated_data,
    split_trailer,
    start,
    trailer,
)


def test_start_is_spi_low_half_and_the_whole_number_as_iv():
    assert start(0x01020304, 5).hex(" ", 4) == "01020304 00000005 00000000 00000005"
    assert start(0xFFFFFFFF, 0x1_0000_0002).hex(" ", 4) == "ffffffff 00000002 00000001 00000002"


def test_extended_associated_data_holds_the_high_half():
    expected = "01020304 00000001 00000002"
    assert extended_associated_data(0x01020304, 0x1_0000_0002).hex(" ", 4) == expected


def test_the_shortest_packet():
    assert len(start(1, 1)) + len(trailer(0, 59)) + ICV_LENGTH == MIN_LENGTH == 36


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "01 02 02 04"),
        (1, "01 01 04"),
        (2, "00 04"),
        (3, "01 02 03 03 04"),
        (4, "01 02 02 04"),
        (1500, "01 02 02 04"),
    ],
)
def test_trailer(length, expected):
    assert trailer(length, 4).hex(" ") == expected


@given(st.binary(max_size=300), st.integers(0, 255))
def test_what_is_padded_is_split_again(payload, next_header):
    plaintext = payload + trailer(len(payload), next_header)
    assert len(plaintext) % 4 == 0
    assert split_trailer(plaintext) == (len(payload), next_header)


@pytest.mark.parametrize("pad", range(256))
def test_every_pad_length_a_peer_may_choose(pad):
    padding = bytes(range(1, pad + 1))
    assert split_trailer(b"payload" + padding + bytes((pad, 4))) == (7, 4)
    assert split_trailer(padding + bytes((pad, 59))) == (0, 59)
    with pytest.raises(PeerError):
        split_trailer(padding + bytes(((pad + 1) % 256 or 1, 4)))


@pytest.mark.parametrize(
    "plaintext",
    [b"", b"\x04", bytes.fromhex("01020404"), bytes.fromhex("00000204"), bytes.fromhex("02010204"),
     bytes.fromhex("aabb01ff0204"), bytes.fromhex("ffff")],
)  # fmt: skip
def test_wrong_padding(plaintext):
    with pytest.raises(PeerError) as raised:
        split_trailer(plaintext)
    assert raised.value.reason is DropReason.ESP_BAD_PADDING


@given(st.binary(max_size=300))
def test_hostile_plaintexts_are_split_or_refused(plaintext):
    try:
        length, next_header = split_trailer(plaintext)
    except PeerError:
        return
    pad = len(plaintext) - length - 2
    assert plaintext == plaintext[:length] + bytes(range(1, pad + 1)) + bytes((pad, next_header))
