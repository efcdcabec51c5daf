"""Does a raw packet belong to an SA? (RFC 4301, 4.4.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from moatvpn.wire.ip import protocol_and_ports
from moatvpn.wire.selectors import ANY_PROTOCOL, LAST_PORT, TrafficSelector

_ALL_PORTS = (0, LAST_PORT)
Ranges = dict[int, tuple[tuple[int, int], ...]]
Side = tuple[TrafficSelector, ...]
Packet = bytes | memoryview


def _selects_all_of_its_addresses(selector: TrafficSelector) -> bool:
    ports = (selector.start_port, selector.end_port)
    return selector.protocol == ANY_PROTOCOL and ports == _ALL_PORTS


# All connections of a portal have one side in common, and each side is needed for both directions.
@lru_cache(maxsize=64)
def _ranges(side: Side) -> Ranges:
    """Return lowest and highest address of each selector, by IP version."""
    return {
        version: tuple((int(ts.start), int(ts.end)) for ts in side if ts.start.version == version)
        for version in (4, 6)
    }


def _selects(
    selector: TrafficSelector, version: int, address: int, protocol: int, port: int | None
) -> bool:
    if selector.start.version != version:
        return False
    if not int(selector.start) <= address <= int(selector.end):
        return False
    if selector.protocol not in (ANY_PROTOCOL, protocol):
        return False
    if (selector.start_port, selector.end_port) == _ALL_PORTS:
        return True
    # A packet whose ports are out of sight cannot satisfy a selector that asks for them.
    return port is not None and selector.start_port <= port <= selector.end_port


class Matcher:
    """Checks raw packets against the negotiated selectors of the two sides of an SA.

    whence selects sources and source ports, to selects destinations and destination ports.
    by_address: addresses say all, as of nearly every SA, and a packet need not be read any further.
    """

    __slots__ = ("_from_ranges", "_to", "_to_ranges", "_whence", "by_address")

    def __init__(self, whence: Sequence[TrafficSelector], to: Sequence[TrafficSelector]) -> None:
        self._whence, self._to = tuple(whence), tuple(to)
        self._from_ranges, self._to_ranges = _ranges(self._whence), _ranges(self._to)
        self.by_address = all(_selects_all_of_its_addresses(ts) for ts in (*whence, *to))

    def matches(
        self, packet: bytes | memoryview, version: int, source: int, destination: int
    ) -> bool:
        """Return whether packet goes from the one side to the other.

        packet is a whole IP packet; the rest is what wire.ip.read_header said of it.
        """
        for low, high in self._from_ranges[version]:
            if low <= source <= high:
                break
        else:
            return False
        for low, high in self._to_ranges[version]:
            if low <= destination <= high:
                break
        else:
            return False
        return self.by_address or self._matches_ports(packet, version, source, destination)

    def _matches_ports(
        self, packet: bytes | memoryview, version: int, source: int, destination: int
    ) -> bool:
        protocol, from_port, to_port = protocol_and_ports(packet)
        return any(
            _selects(ts, version, source, protocol, from_port) for ts in self._whence
        ) and any(_selects(ts, version, destination, protocol, to_port) for ts in self._to)
