"""Envelopes whose length tells nothing of what is in them (RFC 9347, 2.2.2; RFC 4303, 2.7)."""

from __future__ import annotations

from moatvpn.esp.sad import Pair
from moatvpn.esp.sizes import outer_of, payload_in
from moatvpn.wire.aggfrag import HEADER_LENGTH, NEXT_HEADER_AGGFRAG
from moatvpn.wire.esp import TRAILER_LENGTH

UNPADDED = bytes((0, NEXT_HEADER_AGGFRAG))  # the trailer of a payload that fits exactly
_LONGEST = 0xFFFF  # octets of an outer packet


def filled(plaintext: bytes, room: int) -> bytes:
    """Return the plaintext of an AGGFRAG payload filled up to room octets of blocks.

    The octets are zero, which is padding, as long as no block is open at the end of plaintext.
    """
    end = len(plaintext) - TRAILER_LENGTH - plaintext[-TRAILER_LENGTH]
    return plaintext[:end].ljust(HEADER_LENGTH + room, b"\0") + UNPADDED


def padded(pair: Pair, payload: bytes) -> bytes:
    """Return a payload that cannot be split with zero octets behind it, up to the size of all.

    Those that are longer are padded up to the next multiple of that size, as outer packets: the
    network may fragment them, and what shows is the multiple.
    """
    size = outer_of(pair)
    times = max(1, len(payload) // size)
    while (octets := times * size) < _LONGEST and payload_in(pair, octets) < len(payload):
        times += 1
    return payload.ljust(payload_in(pair, min(octets, _LONGEST)), b"\0")
