"""The notifies of a redirect: which gateway, and the initiator's nonce (RFC 5685, 9)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_payloads import Notify, NotifyType

_IPV4, _IPV6, _FQDN = 1, 2, 3


def redirect(gateway: str, nonce: bytes = b"") -> Notify:
    """Return REDIRECT to a gateway, by address or domain name; nonce in IKE_SA_INIT only."""
    return Notify(NotifyType.REDIRECT, _encode(gateway) + nonce)


def redirected_from(gateway: str) -> Notify:
    """Return REDIRECTED_FROM, with the address of who redirected us."""
    return Notify(NotifyType.REDIRECTED_FROM, _encode(gateway))


def parse_redirect(data: bytes) -> tuple[str, bytes]:
    """Return the gateway, an address or a domain name, and the nonce in REDIRECT's data."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise PeerError(DropReason.IKE_MALFORMED, "redirect too short")
    kind, identity, nonce = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
    try:
        if kind == _FQDN:
            return identity.decode("ascii").lower(), nonce
        if (kind, len(identity)) in ((_IPV4, 4), (_IPV6, 16)):
            family = IPv4Address if kind == _IPV4 else IPv6Address
            return str(family(identity)), nonce
    except ValueError as error:
        raise PeerError(DropReason.IKE_MALFORMED, "redirect to no name") from error
    raise PeerError(DropReason.IKE_MALFORMED, f"redirect to an identity of type {kind}")


def _encode(gateway: str) -> bytes:
    try:
        address = ip_address(gateway)
    except ValueError:
        kind, octets = _FQDN, gateway.encode("ascii")
    else:
        kind, octets = (_IPV4 if address.version == 4 else _IPV6), address.packed
    return bytes((kind, len(octets))) + octets
