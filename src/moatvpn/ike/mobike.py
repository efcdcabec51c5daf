"""MOBIKE (RFC 4555): the messages with which addresses change.

who steers                                  its peer
HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), N(COOKIE2)} ------->   (from the new address)
                             <-------  HDR, SK{N(NAT…), N(COOKIE2)}
                             <-------  HDR, SK{N(COOKIE2)}      (is it there?)
HDR, SK{N(COOKIE2)} ------->

Whoever set up the first IKE SA steers. A peer of it whose own address changes lists its addresses
from the new one instead (3.6), and leaves it to the other to update the SAs.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike import nat
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import Payloads, PlainTask, notifies_of
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_mobike import (
    additional_address,
    check_cookie2,
    no_nats_allowed,
    parse_additional_address,
)
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.config import ConnectionConfig
    from moatvpn.ike.connection import Connection

MOST_HOSTS = 8  # addresses of the peer's beyond the one in use; it may have told more
_COOKIE_LENGTH = 16
_LISTED = (NotifyType.ADDITIONAL_IP4_ADDRESS, NotifyType.ADDITIONAL_IP6_ADDRESS)
_LISTS = (*_LISTED, NotifyType.NO_ADDITIONAL_ADDRESSES)
_REFUSED = (NotifyType.UNACCEPTABLE_ADDRESSES, NotifyType.UNEXPECTED_NAT_DETECTED)


def _encode(*notifies: Notify) -> list[tuple[int, bytes]]:
    return [(PayloadType.NOTIFY, notify.encode()) for notify in notifies]


def _path(sa: IkeSa, local: Endpoint, remote: Endpoint) -> nat.Path:
    return nat.Path(sa.spi_i, sa.spi_r, local, remote)


def _own_addresses(sa: IkeSa) -> list[Notify]:
    """Return the list of our addresses but for the one that the message is sent from (3.6)."""
    return [additional_address(host) for host in sa.context.own_hosts if host != sa.local.host]


def listed_hosts(notifies: Sequence[Notify]) -> tuple[str, ...]:
    """Return the addresses that the peer lists, as many as we look at."""
    return tuple(parse_additional_address(n) for n in notifies if n.type in _LISTED)[:MOST_HOSTS]


# In IKE_AUTH


def offer(sa: IkeSa) -> list[tuple[int, bytes]]:
    """Return what our IKE_AUTH message says of MOBIKE (3.2, 3.4): nothing without NAT traversal.

    For without it every message would have to forbid NATs (3.9), and homes have NATs.
    """
    if not sa.mobility.nat_traversal:
        return []
    return _encode(Notify(NotifyType.MOBIKE_SUPPORTED), *_own_addresses(sa))


def agree(sa: IkeSa, payloads: Sequence[RawPayload]) -> bool:
    """Take in what the peer's IKE_AUTH message says; return whether both sides speak MOBIKE."""
    notifies = notifies_of(payloads)
    offered = any(n.type == NotifyType.MOBIKE_SUPPORTED for n in notifies)
    sa.mobility.supported = offered and sa.mobility.nat_traversal
    sa.mobility.peer_hosts = listed_hosts(notifies) if sa.mobility.supported else ()
    return sa.mobility.supported


def meets_a_nat(notifies: Sequence[Notify], local: Endpoint, remote: Endpoint) -> bool:
    """Return whether a message from remote to local forbids the NATs that it went through (3.9)."""
    expected = no_nats_allowed(remote, local)
    forbids = [n.data for n in notifies if n.type == NotifyType.NO_NATS_ALLOWED]
    return any(data != expected for data in forbids)


# In INFORMATIONAL, as its initiator


class LivenessTask(PlainTask):
    """Any response proves that the peer lives (2.4); with MOBIKE it shows new NATs, too (3.8)."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, connection: Connection, sa: IkeSa) -> None:
        self._connection = connection
        self._sa = sa
        self._built = 0

    def build(self, now: float) -> Payloads:
        """Return the NAT detection notifies, or nothing without MOBIKE."""
        sa = self._sa
        self._built = self._connection.addresses.changes
        if not sa.mobility.supported:
            return []
        return nat.payloads(_path(sa, sa.local, sa.remote), sa.mobility.force_udp)

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Have the addresses updated where the peer sees us as somebody else than before."""
        sa, addresses = self._sa, self._connection.addresses
        if sa is not self._connection.sa or self._built != addresses.changes:
            return
        seen = nat.see(_path(sa, sa.local, sa.remote), notifies_of(payloads))
        if seen is not None and sa.mobility.supported:
            addresses.compare(seen, now)


class PathTask(PlainTask):
    """Tell the peer our address, and have it prove by a cookie that it is at its own (3.5, 3.7).

    announce: our own address has changed, or a NAT's view of it. Where we steer, every such message
    updates the SAs; where we don't, it lists our addresses, or only asks for the cookie.
    """

    exchange = Exchange.INFORMATIONAL

    def __init__(self, connection: Connection, sa: IkeSa, announce: bool) -> None:
        self._connection = connection
        self._sa = sa
        self.announce = announce
        self.built: int | None = None  # the count of changes that it was built after
        self._cookie = b""

    def move(self, sa: IkeSa) -> bool:
        """Return that it is to run on sa, which has inherited the addresses."""
        self._sa = sa
        return True

    def abandon(self) -> None:
        """Take in that it will not be answered."""
        self._connection.addresses.settled(self)

    def build(self, now: float) -> Payloads | None:
        """Return the notifies, or None where the IKE SA has been replaced."""
        sa = self._sa
        if sa is not self._connection.sa:
            self.abandon()
            return None
        self.built = self._connection.addresses.changes
        self._cookie = sa.context.random(_COOKIE_LENGTH)
        notifies = []
        if sa.mobility.steers:
            notifies.append(Notify(NotifyType.UPDATE_SA_ADDRESSES))
        elif self.announce:
            notifies += _own_addresses(sa) or [Notify(NotifyType.NO_ADDITIONAL_ADDRESSES)]
        return [
            *_encode(*notifies),
            *nat.payloads(_path(sa, sa.local, sa.remote), sa.mobility.force_udp),
            *_encode(Notify(NotifyType.COOKIE2, self._cookie)),
        ]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Move the traffic, unless the addresses have changed again since the request was built.

        Then it may have been sent to several addresses, and says nothing of the newest.
        """
        sa, addresses = self._sa, self._connection.addresses
        addresses.settled(self)
        notifies = notifies_of(payloads)
        cookies = [n.data for n in notifies if n.type == NotifyType.COOKIE2]
        if not any(hmac.compare_digest(cookie, self._cookie) for cookie in cookies):
            raise PeerError(DropReason.IKE_COOKIE2, "COOKIE2 is not what we sent")
        if sa is not self._connection.sa or self.built != addresses.changes:
            return
        if any(n.type in _REFUSED for n in notifies):
            raise PeerError(DropReason.IKE_ADDRESSES_REFUSED, "the peer refuses our new address")
        seen = nat.see(_path(sa, sa.local, sa.remote), notifies)
        addresses.answered_there(seen, now)


# In INFORMATIONAL, as its responder


@dataclass(frozen=True, slots=True)
class Request:
    """What a request of the peer's means for addresses.

    answer goes into the response. local and remote are where it came in, and came from. update:
    the peer, which steers, moves the SAs to them. hosts: what else it can be reached at, if it
    said. seen: what its hashes tell.
    """

    answer: list[tuple[int, bytes]]
    local: Endpoint
    remote: Endpoint
    update: bool = False
    hosts: tuple[str, ...] | None = None
    seen: nat.Seen | None = None


def read(connection: Connection, sa: IkeSa, payloads: Sequence[RawPayload]) -> Request:
    """Return what is to be done about the addresses, and answered, to an INFORMATIONAL request."""
    notifies = notifies_of(payloads)
    local, remote = sa.asked_via or (sa.local, sa.remote)
    path = _path(sa, local, remote)
    cookies = [n for n in notifies if n.type == NotifyType.COOKIE2]
    answer = _encode(*(Notify(n.type, check_cookie2(n.data)) for n in cookies[:1]))
    seen = nat.see(path, notifies)
    if seen is not None:
        answer += nat.payloads(path, sa.mobility.force_udp)
    kinds = {n.type for n in notifies}
    update = NotifyType.UPDATE_SA_ADDRESSES in kinds and not sa.mobility.steers
    lists = not kinds.isdisjoint(_LISTS)
    if not sa.mobility.supported or not (update or lists):
        return Request(answer, local, remote, seen=seen)
    refusal = None
    if meets_a_nat(notifies, local, remote):
        refusal = NotifyType.UNEXPECTED_NAT_DETECTED
    elif not acceptable(connection.config, local, remote):
        refusal = NotifyType.UNACCEPTABLE_ADDRESSES
    if refusal is not None:
        sa.context.counters.drop(DropReason.IKE_ADDRESSES_REFUSED)
        text = f"address {remote} refused, notify {refusal.value}"
        sa.context.notice(connection.config.name, "warning", text)
        return Request(answer + _encode(Notify(refusal)), local, remote)
    hosts = listed_hosts(notifies) if lists else None
    return Request(answer, local, remote, update, hosts, seen)


def acceptable(config: ConnectionConfig, local: Endpoint, remote: Endpoint) -> bool:
    """Return whether a peer may be at remote: a single host's address, and outside of the tunnel.

    Envelopes to an address behind the peer would go into the tunnel themselves.
    """
    host = ip_address(remote.host)
    if host.is_multicast or host.is_unspecified or host.is_reserved or host.is_loopback:
        return False
    behind = (ip_network(selector) for selector in config.remote_selectors)
    return remote.host != local.host and not any(
        network.prefixlen and host in network for network in behind
    )
