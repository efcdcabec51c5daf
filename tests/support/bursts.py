"""Bursts of envelopes to send, and what has arrived, envelope by envelope."""

from __future__ import annotations

from collections.abc import Iterable

from moatvpn.esp.burst import Arrival, Burst
from moatvpn.wire.endpoint import Endpoint


def burst(
    *envelopes: bytes, to: Endpoint, tos: int = 0, source: str = "", whole: bool = False
) -> Burst:
    """Return a burst; all envelopes but the last have the length of the first."""
    data = memoryview(b"".join(envelopes))
    return Burst(data, len(envelopes[0]), to, bool(to.port), tos, source, whole)


def each(arrivals: Iterable[Arrival]) -> list[tuple[bytes, Endpoint, int]]:
    """Return the octets, the source and the TOS octet of each envelope that has arrived."""
    return [
        (bytes(data[at : at + size]), source, tos)
        for data, size, source, tos in arrivals
        for at in range(0, len(data), size)
    ]
