"""Does a raw packet belong to an SA? (RFC 4301, 4.4.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Sequence

from moatvpn.wire.ip import addresses, protocol_and_ports
from moatvpn.wire.selectors import ANY_PROTOCOL, LAST_PORT, TrafficSelector


def _addresses_only(selector: TrafficSelector) -> bool:
    whole = (selector.start_port, selector.end_port) == (0, LAST_PORT)
    return selector.protocol == ANY_PROTOCOL and whole


def _selects(
    selector: TrafficSelector, version: int, address: int, protocol: int, port: int | None
) -> bool:
    if selector.start.version != version:
        return False
    if not int(selector.start) <= address <= int(selector.end):
        return False
    if selector.protocol not in (ANY_PROTOCOL, protocol):
        return False
    if (selector.start_port, selector.end_port) == (0, LAST_PORT):
        return True
    # A packet whose ports are out of sight cannot satisfy a selector that asks for them.
    return port is not None and selector.start_port <= port <= selector.end_port


class Matcher:
    """Checks source and destination of raw packets against negotiated selectors."""

    __slots__ = ("_ranges", "_simple", "_to", "_whence")

    def __init__(self, whence: Sequence[TrafficSelector], to: Sequence[TrafficSelector]) -> None:
        self._whence, self._to = tuple(whence), tuple(to)
        self._simple = all(_addresses_only(ts) for ts in (*whence, *to))
        self._ranges = tuple(
            tuple((ts.start.version, int(ts.start), int(ts.end)) for ts in side)
            for side in (whence, to)
        )

    def matches(self, packet: bytes) -> bool:
        """Return whether packet, a whole IP packet, goes from the one side to the other."""
        version, source, destination = addresses(packet)
        if self._simple:
            return any(
                v == version and low <= source <= high for v, low, high in self._ranges[0]
            ) and any(
                v == version and low <= destination <= high for v, low, high in self._ranges[1]
            )
        protocol, from_port, to_port = protocol_and_ports(packet)
        return any(
            _selects(ts, version, source, protocol, from_port) for ts in self._whence
        ) and any(_selects(ts, version, destination, protocol, to_port) for ts in self._to)
