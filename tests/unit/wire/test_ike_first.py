"""The quick look at first requests: what it finds, and that it finds nothing wrong elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.wire.ike_first import cookie_answer, first_request, is_other_version, receiver_spi
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    NO_SPI,
    IkeHeader,
    PayloadType,
    encode_chain,
    parse_chain,
    parse_header,
)
from moatvpn.wire.ike_payloads import Notify, NotifyType, parse_notify

SPI_I, SPI_R, NONCE = b"initiate", b"responds", bytes(range(32))
COOKIE = (int(PayloadType.NOTIFY), Notify(NotifyType.COOKIE, b"cookie" * 3).encode())
OTHER = (int(PayloadType.NOTIFY), Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)).encode())
SA, KE = (int(PayloadType.SA), bytes(40)), (int(PayloadType.KE), bytes(36))
NI = (int(PayloadType.NONCE), NONCE)


def message(*payloads: tuple[int, bytes], spi_r: bytes = NO_SPI, message_id: int = 0) -> bytes:
    first, chain = encode_chain(payloads)
    length = HEADER_LENGTH + len(chain)
    return IkeHeader(SPI_I, spi_r, first, 34, True, False, message_id, length).encode() + chain


@pytest.mark.parametrize(
    ("payloads", "nonce", "cookie"),
    [
        ((SA, KE, NI), NONCE, b""),
        ((COOKIE, SA, KE, NI), NONCE, b"cookie" * 3),
        ((OTHER, SA, NI, KE), NONCE, b""),
        ((SA, COOKIE, KE, NI), NONCE, b""),  # a cookie stands first, or it is none (2.6)
        ((COOKIE, SA, KE), b"", b"cookie" * 3),
        ((SA, KE, (int(PayloadType.NONCE), bytes(15))), b"", b""),
        ((SA, KE, (int(PayloadType.NONCE), bytes(257))), b"", b""),
        ((), b"", b""),
        (((int(PayloadType.VENDOR), b"v"),) * 40 + (NI,), b"", b""),
    ],
)
def test_what_a_first_request_says(
    payloads: tuple[tuple[int, bytes], ...], nonce: bytes, cookie: bytes
) -> None:
    assert first_request(message(*payloads)) == (SPI_I, nonce, cookie)


@pytest.mark.parametrize(
    "data",
    [
        message(SA, KE, NI)[: HEADER_LENGTH - 1],
        message(SA, KE, NI, spi_r=SPI_R),
        message(SA, KE, NI, message_id=1),
        message(SA, KE, NI)[:17] + b"\x30" + message(SA, KE, NI)[18:],
        message(SA, KE, NI)[:19] + b"\x28" + message(SA, KE, NI)[20:],
        message(SA, KE, NI)[:19] + b"\x00" + message(SA, KE, NI)[20:],
        b"",
    ],
)
def test_what_is_no_first_request(data: bytes) -> None:
    assert first_request(data) is None


def test_whose_spi_is_whose() -> None:
    from_initiator = message(spi_r=SPI_R)
    assert receiver_spi(from_initiator) == SPI_R
    assert receiver_spi(from_initiator[:19] + b"\x20" + from_initiator[20:]) == SPI_I
    assert [receiver_spi(b"12"), receiver_spi(b"")] == [b"12", b""]


def test_the_answer_asks_for_the_cookie_and_is_shorter() -> None:
    request = message(SA, KE, NI)
    answer = cookie_answer(request, b"c" * 17)
    header = parse_header(answer)
    assert (header.spi_i, header.spi_r, header.exchange) == (SPI_I, NO_SPI, 34)
    assert (header.response, header.from_initiator, header.message_id) == (True, False, 0)
    (payload,) = parse_chain(header.next_payload, answer[HEADER_LENGTH:])
    assert parse_notify(payload.body) == Notify(NotifyType.COOKIE, b"c" * 17)
    assert len(answer) < len(request)


@given(st.binary(max_size=120), st.binary(max_size=60))
def test_hostile_octets_are_read_without_a_fault(tail: bytes, anything: bytes) -> None:
    for data in (anything, message()[:16] + tail, SPI_I + NO_SPI + b"\x28\x20\x22\x08" + tail):
        found = first_request(data)
        assert found is None or (found.spi_i == data[:8] and len(found.nonce) != 1)
        assert isinstance(is_other_version(data), bool)
        assert len(receiver_spi(data)) <= 8
