"""What can be told of the first message of an exchange without an SA at almost no cost.

That is a request whose responder SPI is zero: IKE_SA_INIT, and whatever may stand in its place.
Nothing is checked here but what is read, and no payload is copied but nonce and cookie.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    NO_SPI,
    VERSION_OFFSET,
    PayloadType,
)
from moatvpn.wire.ike_payloads import MAX_NONCE, MIN_NONCE, Notify, NotifyType

_MAJOR_VERSION = 2
_FLAG_INITIATOR, _FLAG_RESPONSE = 0x08, 0x20
_FLAGS = _FLAG_INITIATOR | _FLAG_RESPONSE
_FIRST_MESSAGE_ID = bytes(4)
_MOST_COOKIE = 64  # octets (RFC 7296, 2.6)
_NOTIFY_HEAD = bytes(2)  # protocol and SPI size of a notify that is about no SA
_COOKIE_TYPE = NotifyType.COOKIE.to_bytes(2, "big")
# Public values of several kilooctets are for later exchanges, which can be fragmented (RFC 9370).
MAX_FIRST_LENGTH = 4096
_MOST_PAYLOADS = 32  # that are passed over on the way to the nonce
_read_generic = struct.Struct("!BBH").unpack_from


def receiver_spi(data: bytes) -> bytes:
    """Return the SPI that the receiver of a message chose, as far as there is one."""
    return data[8:16] if data[19:20] and data[19] & _FLAG_INITIATOR else data[:8]


def is_other_version(data: bytes) -> bool:
    """Return whether a message has a version octet, and one that is not ours."""
    return len(data) > VERSION_OFFSET and data[VERSION_OFFSET] >> 4 != _MAJOR_VERSION


class FirstRequest(NamedTuple):
    """The initiator's SPI, its nonce and its cookie; empty where there is none to be found."""

    spi_i: bytes
    nonce: bytes
    cookie: bytes


def first_request(data: bytes) -> FirstRequest | None:
    """Return what a first request of version 2 says, None for every other message.

    A cookie counts where it has to stand: as the first payload (RFC 7296, 2.6).
    """
    if len(data) < HEADER_LENGTH or data[8:16] != NO_SPI or is_other_version(data):
        return None
    if data[19] & _FLAGS != _FLAG_INITIATOR or data[20:24] != _FIRST_MESSAGE_ID:
        return None
    kind, offset, size = data[16], HEADER_LENGTH, len(data)
    cookie = nonce = b""
    for count in range(_MOST_PAYLOADS):
        if not kind or offset + GENERIC_LENGTH > size:
            break
        following, _, length = _read_generic(data, offset)
        start, offset = offset + GENERIC_LENGTH, offset + length
        if length < GENERIC_LENGTH or offset > size:
            break
        if kind == PayloadType.NONCE:
            if MIN_NONCE <= offset - start <= MAX_NONCE:
                nonce = data[start:offset]
            break
        if not count and kind == PayloadType.NOTIFY:
            body = data[start:offset]
            if body[:2] == _NOTIFY_HEAD and body[2:4] == _COOKIE_TYPE:
                cookie = body[4 : 4 + _MOST_COOKIE]
        kind = following
    return FirstRequest(data[:8], nonce, cookie)


def cookie_answer(request: bytes, cookie: bytes) -> bytes:
    """Return the response that asks for a first request again, with cookie before the rest."""
    body = Notify(NotifyType.COOKIE, cookie).encode()
    payload = bytes(2) + (GENERIC_LENGTH + len(body)).to_bytes(2, "big") + body
    return b"".join(
        (
            request[:16],
            bytes((PayloadType.NOTIFY, 0x20, request[18], _FLAG_RESPONSE)),
            _FIRST_MESSAGE_ID,
            (HEADER_LENGTH + len(payload)).to_bytes(4, "big"),
            payload,
        )
    )
