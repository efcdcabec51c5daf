"""The Encrypted Fragment payload (RFC 7383, 2.5).

    generic header (4) | fragment number (2) | total fragments (2) | what an SK payload's body holds

It is the only payload of its message. Lengths are in octets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_header import GENERIC_LENGTH, HEADER_LENGTH

_FRAGMENT = struct.Struct("!HH")
FRAGMENT_LENGTH = _FRAGMENT.size


@dataclass(frozen=True, slots=True)
class Fragment:
    """Which fragment one is, counted from 1, and of how many."""

    number: int
    total: int

    def encode(self) -> bytes:
        """Return the octets that follow the generic header."""
        return _FRAGMENT.pack(self.number, self.total)


def parse_fragment(message: bytes) -> Fragment:
    """Return which fragment a message is whose first payload is an Encrypted Fragment.

    Raises PeerError where it cannot be one (2.6).
    """
    if len(message) < HEADER_LENGTH + GENERIC_LENGTH + FRAGMENT_LENGTH:
        raise PeerError(DropReason.IKE_MALFORMED, "fragment too short")
    number, total = _FRAGMENT.unpack_from(message, HEADER_LENGTH + GENERIC_LENGTH)
    if not 1 <= number <= total:
        raise PeerError(DropReason.IKE_MALFORMED, f"fragment {number} of {total}")
    return Fragment(number, total)
