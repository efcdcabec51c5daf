"""How large envelopes are, and how much room that leaves in them. All lengths are in octets."""

from __future__ import annotations

from moatvpn.esp.path_mtu import BASE
from moatvpn.esp.sad import Pair
from moatvpn.wire.aggfrag import HEADER_LENGTH
from moatvpn.wire.esp import TRAILER_LENGTH

UNMEASURED = 1280  # of an outer packet to peers that answer no probes: nearly all paths' MTU
_OUTER_IPV4, _OUTER_UDP = 20, 8
SMALL = BASE - _OUTER_IPV4 - _OUTER_UDP  # of an envelope that any path carries


def outer_of(pair: Pair) -> int:
    """Return how long the outer packet of an envelope is at most: what the path carries.

    Where traffic is hidden, it may be less by settings, and each is that long. What a path carries
    that is not measured, settings may say, too.
    """
    path, octets = pair.connection.path, pair.child.tfc.octets
    if path is None:
        return octets or UNMEASURED
    return min(path.size, octets) if octets else path.size


def payload_in(pair: Pair, octets: int) -> int:
    """Return the length of the longest payload in an outer packet of so many octets."""
    outbound = pair.outbound
    octets -= _OUTER_IPV4 + outbound.overhead + (_OUTER_UDP if pair.connection.udp else 0)
    return octets - octets % outbound.alignment - TRAILER_LENGTH


def room_in(pair: Pair, octets: int) -> int:
    """Return how many octets of AGGFRAG blocks an outer packet of so many octets takes."""
    return payload_in(pair, octets) - HEADER_LENGTH


def room_of(pair: Pair) -> int:
    """Return how many octets of AGGFRAG blocks an envelope takes."""
    return room_in(pair, outer_of(pair))
