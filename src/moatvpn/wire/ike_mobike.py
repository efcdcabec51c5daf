"""The data of MOBIKE's notifies (RFC 4555, 4)."""

from __future__ import annotations

from ipaddress import ip_address

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_payloads import Notify, NotifyType

_LENGTHS = {NotifyType.ADDITIONAL_IP4_ADDRESS: 4, NotifyType.ADDITIONAL_IP6_ADDRESS: 16}
SHORTEST_COOKIE2, LONGEST_COOKIE2 = 8, 64  # octets (4.2.5)


def additional_address(host: str) -> Notify:
    """Return the notify that lists one more address of ours (4.2.2)."""
    packed = ip_address(host).packed
    kind = (
        NotifyType.ADDITIONAL_IP4_ADDRESS
        if len(packed) == 4
        else (NotifyType.ADDITIONAL_IP6_ADDRESS)
    )
    return Notify(kind, packed)


def parse_additional_address(notify: Notify) -> str:
    """Return the address that such a notify lists; raise PeerError where it is malformed."""
    if len(notify.data) != _LENGTHS[NotifyType(notify.type)]:
        raise PeerError(DropReason.IKE_MALFORMED, "additional address of the wrong length")
    return str(ip_address(notify.data))


def no_nats_allowed(source: Endpoint, destination: Endpoint) -> bytes:
    """Return the data of NO_NATS_ALLOWED: whence and where its message was sent (4.2.6)."""
    addresses = source.host_octets + destination.host_octets
    return addresses + source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")


def check_cookie2(cookie: bytes) -> bytes:
    """Return the data of a COOKIE2; raise PeerError where its length is not allowed."""
    if not SHORTEST_COOKIE2 <= len(cookie) <= LONGEST_COOKIE2:
        raise PeerError(DropReason.IKE_MALFORMED, f"COOKIE2 of {len(cookie)} octets")
    return cookie
