"""What the kernel has put together of one peer's datagrams (UDP_GRO), taken apart again.

It joins datagrams of equal length, and a shorter one at the end, whatever is in them. So on a port
of RFC 3948 an IKE message may stand between envelopes.
"""

from __future__ import annotations

from moatvpn.wire.endpoint import KEEPALIVE

NON_ESP_MARKER = bytes(4)  # RFC 3948, 2.2: no SPI is zero


def is_plain(data: memoryview, size: int) -> bool:
    """Return True only where all datagrams of size octets in data are envelopes.

    It may be False where they are, too: their first octets alone are looked at, since that costs
    the same for any number of them.
    """
    if len(data) <= size:
        return len(data) > 1 and data[0] != 0
    if size == 1 or 0 in data[::size].tobytes():
        return False
    keepalive_last = len(data) % size == 1 and data[-1] == KEEPALIVE[0]
    return not keepalive_last


def split(data: memoryview, size: int) -> tuple[list[memoryview], list[bytes]]:
    """Return the envelopes and the IKE messages in data, which are size octets each.

    Envelopes that follow each other stay together. Messages are without their marker; keepalives
    are left out.
    """
    envelopes: list[memoryview] = []
    messages: list[bytes] = []
    start = 0  # of the envelopes that have not been put away
    for offset in range(0, len(data), size):
        datagram = data[offset : offset + size]
        marked = datagram[: len(NON_ESP_MARKER)] == NON_ESP_MARKER
        if not marked and datagram != KEEPALIVE:
            continue
        if marked:
            messages.append(bytes(datagram[len(NON_ESP_MARKER) :]))
        if start < offset:
            envelopes.append(data[start:offset])
        start = offset + len(datagram)
    if start < len(data):
        envelopes.append(data[start:])
    return envelopes, messages
