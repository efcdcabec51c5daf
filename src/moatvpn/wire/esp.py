"""ESP packets (RFC 4303, 2), above all with a combined-mode algorithm (RFC 4106, 3; RFC 7634, 2).

    SPI (4) | sequence number, low half (4) | IV (8) | ciphertext | ICV (16)

and inside the ciphertext: payload | padding 1, 2, 3, ... | pad length (1) | next header (1).
With AES-CBC the IV is a block of the cipher's, and the ICV as long as the HMAC's is (RFC 3602, 3).
Lengths are in octets.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

HEADER_LENGTH = 8
IV_LENGTH = 8
ICV_LENGTH = 16
TRAILER_LENGTH = 2  # pad length and next header
ALIGNMENT = 4  # of payload and trailer together (2.4)
CIPHERTEXT_AT = HEADER_LENGTH + IV_LENGTH
# The shortest packet holds a trailer padded to the alignment, and no payload.
MIN_LENGTH = CIPHERTEXT_AT + ALIGNMENT + ICV_LENGTH

# An ESP packet cut up: SPI, low half of the sequence number, the next IV_LENGTH octets, the rest.
Part = tuple[int, int, bytes, bytes]

LAST_SEQUENCE = (1 << 32) - 1  # without extended sequence numbers

START = struct.Struct("!IIQ")  # what start returns; it can be packed into its place, too
# The packet's first HEADER_LENGTH octets, of its SPI and the low half of its number: they are what
# is authenticated beside the ciphertext ...
header = struct.Struct("!II").pack
# ... but where sequence numbers are extended. There it is the SPI and all 64 bits of the number
# (RFC 4106, 5; RFC 7634, 2.1).
extended_associated_data = struct.Struct("!IQ").pack
_PADDING = bytes(range(1, 256))
_LONGEST_ALIGNMENT = 16  # of any cipher's blocks
_TRAILERS = [_PADDING[:pad] + bytes((pad,)) for pad in range(_LONGEST_ALIGNMENT)]


def start(spi: int, sequence: int) -> bytes:
    """Return the 16 octets before the ciphertext; the IV is the whole 64-bit sequence number.

    Such an IV differs from packet to packet for as long as the number does, which is all that
    RFC 4106, 3.1 and RFC 7634, 2 ask of it.
    """
    return START.pack(spi, sequence & LAST_SEQUENCE, sequence)


def trailer(payload_length: int, next_header: int, alignment: int = ALIGNMENT) -> bytes:
    """Return the padding, pad length and next header that follow a payload (2.4).

    alignment is that of the cipher's blocks, in octets, where they are larger than ESP's own.
    """
    return _TRAILERS[-(payload_length + TRAILER_LENGTH) % alignment] + bytes((next_header,))


def split_trailer(plaintext: bytes) -> tuple[int, int]:
    """Return the length of the payload in plaintext, and the next header.

    Raises PeerError (ESP_BAD_PADDING) where the pad length does not fit or the padding is not
    1, 2, 3 and so on, which a receiver should check (2.4).
    """
    if len(plaintext) < TRAILER_LENGTH:
        raise PeerError(DropReason.ESP_BAD_PADDING, f"plaintext of {len(plaintext)} octets")
    padding = plaintext[-2]
    end = len(plaintext) - TRAILER_LENGTH - padding
    if end < 0 or plaintext[end:-TRAILER_LENGTH] != _PADDING[:padding]:
        raise PeerError(DropReason.ESP_BAD_PADDING, f"pad length {padding}")
    return end, plaintext[-1]


@lru_cache(maxsize=256)
def _part(size: int) -> struct.Struct:
    return struct.Struct(f"!II{IV_LENGTH}s{size - CIPHERTEXT_AT}s")


def parts_of(data: memoryview, size: int) -> list[Part]:
    """Cut up the ESP packets that lie back to back in data, of size octets each but the last.

    Raises PeerError (ESP_TOO_SHORT) where size is less than MIN_LENGTH. A last one that is shorter
    than that is left out.
    """
    if size < MIN_LENGTH or len(data) < MIN_LENGTH:
        raise PeerError(DropReason.ESP_TOO_SHORT, f"{min(size, len(data))} octets")
    if len(data) == size:
        return [_part(size).unpack(data)]
    end = len(data) // size * size
    parts: list[Part] = list(_part(size).iter_unpack(data[:end]))
    if len(data) - end >= MIN_LENGTH:
        parts.append(_part(len(data) - end).unpack(data[end:]))
    return parts


def whole(part: Part) -> bytes:
    """Return the ESP packet that was cut up into part."""
    spi, low, iv, rest = part
    return header(spi, low) + iv + rest
