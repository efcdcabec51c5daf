"""Envelopes that leave together: one burst costs one call of the kernel's, whatever it holds."""

from __future__ import annotations

from typing import NamedTuple

from moatvpn.wire.endpoint import Endpoint

MAX_ENVELOPES = 64  # the kernel's own bound of one UDP_SEGMENT send
MAX_OCTETS = 65_507  # what an IPv4 header and a UDP header leave of 65,535

# Envelopes that came together, back to back; how long each is but for the last, which may be
# shorter; where they came from (port 0: as IP protocol 50); and the TOS octet of the headers
# outside of them. The octets are valid until the socket is asked again.
Arrival = tuple[memoryview, int, Endpoint, int]


class Burst(NamedTuple):
    """Envelopes (ESP packets from the SPI on) back to back, to one peer and under one header.

    data is at most MAX_OCTETS, and at most MAX_ENVELOPES of size octets each; only the last may be
    shorter. udp: in UDP to peer, else as IP protocol 50 to its host. tos is the outer header's
    octet of DSCP and ECN. source is the address of ours to send from, empty for the one that the
    kernel's routing takes. whole: nobody may fragment the envelopes (DF); else anybody may.
    """

    data: memoryview
    size: int
    peer: Endpoint
    udp: bool
    tos: int
    source: str
    whole: bool
