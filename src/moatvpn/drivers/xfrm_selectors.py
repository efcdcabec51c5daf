"""Traffic selectors as the kernel's policies take them: prefixes, and ports under masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import summarize_address_range

from moatvpn.drivers.xfrm_messages import Selector
from moatvpn.wire.selectors import ANY_PROTOCOL, LAST_PORT, Network, TrafficSelector

_PORT_BITS = 16


def masked_ports(start: int, end: int) -> list[tuple[int, int]]:
    """Return pairs of value and mask that match the ports from start to end, and no others."""
    found = []
    while start <= end:
        # The largest block that begins at start and does not go beyond end.
        bits = _PORT_BITS if start == 0 else (start & -start).bit_length() - 1
        while start + (1 << bits) - 1 > end:
            bits -= 1
        found.append((start, LAST_PORT & ~((1 << bits) - 1)))
        start += 1 << bits
    return found


def _networks(selector: TrafficSelector) -> list[Network]:
    return list(summarize_address_range(selector.start, selector.end))


def kernel_selectors(
    whence: Iterable[TrafficSelector], to: Iterable[TrafficSelector]
) -> Iterator[Selector]:
    """Yield what together selects the raw packets from whence to the others."""
    targets = list(to)
    for source in whence:
        for target in targets:
            protocols = {source.protocol, target.protocol} - {ANY_PROTOCOL}
            if source.start.version == target.start.version and len(protocols) <= 1:
                yield from _between(source, target, protocols.pop() if protocols else ANY_PROTOCOL)


def _between(source: TrafficSelector, target: TrafficSelector, protocol: int) -> Iterator[Selector]:
    for near in _networks(source):
        for far in _networks(target):
            for source_port in masked_ports(source.start_port, source.end_port):
                for target_port in masked_ports(target.start_port, target.end_port):
                    yield Selector(
                        str(near.network_address), near.prefixlen,
                        str(far.network_address), far.prefixlen,
                        protocol, source_port, target_port,
                    )  # fmt: skip
