"""Long messages, their fragments, and what tests of them look at."""

from __future__ import annotations

import struct

from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    moat_config,
    portal_config,
)

from moatvpn.counters import DropReason
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import (
    HEADER_LENGTH,
    Exchange,
    PayloadType,
)
from moatvpn.wire.ike_payloads import Notify

# So many that IKE_AUTH takes some 4 KB each way.
NETWORKS = tuple(f"10.{100 + n // 256}.{n % 256}.0/24" for n in range(0, 240, 2))
COUNTED = (
    DropReason.IKE_FRAGMENT_UNEXPECTED,
    DropReason.IKE_FRAGMENT_REPEATED,
    DropReason.IKE_FRAGMENT_LIMIT,
    DropReason.IKE_NOT_AUTHENTIC,
    DropReason.IKE_MALFORMED,
    DropReason.IKE_UNEXPECTED_MESSAGE_ID,
)


def long_pair(network: Network) -> tuple[Peer, Peer]:
    """Return a moat and its portal, about to connect, whose IKE_AUTH is long in both directions."""
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, remote_selectors=NETWORKS), network.now)
    moat.ike.add_connection(moat_config(portal, local_selectors=NETWORKS), network.now)
    return moat, portal


def is_fragment(datagram: Datagram) -> bool:
    return datagram.data[16] == PayloadType.SKF


def fragment_of(datagram: Datagram) -> tuple[int, int]:
    number, total = struct.unpack_from("!HH", datagram.data, HEADER_LENGTH + 4)
    return number, total


def drops(peer: Peer) -> dict[DropReason, int]:
    return {reason: n for reason in COUNTED if (n := peer.counters.value(reason))}


def waiting(peer: Peer) -> int:
    return len(peer.ike._context.reassembly)


def long_request(sa: IkeSa, octets: int = 2000) -> tuple[bytes, ...]:
    """Return an authentic liveness check with a notify that nobody knows, in fragments."""
    body = [(PayloadType.NOTIFY, Notify(40000, bytes(octets)).encode())]
    return sa.datagrams(Exchange.INFORMATIONAL, sa.next_request, False, body)


def piece(sa: IkeSa, number: int, total: int, inner: bytes, message_id: int | None = None) -> bytes:
    """Return one authentic fragment of a request of sa's owner."""
    asked = sa.next_request if message_id is None else message_id
    message = (Exchange.INFORMATIONAL, asked, False)
    start = struct.pack("!HH", number, total)
    return sa._protect(PayloadType.SKF, message, PayloadType.NOTIFY, start, inner)


def deliver(peer: Peer, sa: IkeSa, data: bytes, now: float) -> list[bytes]:
    """Hand one datagram of sa's owner to its peer; return what that sends."""
    peer.ike.receive_datagram(Datagram(data, sa.remote, sa.local), now)
    return [datagram.data for datagram in peer.ike.datagrams_to_send()]
