"""Notifies about how raw packets go into envelopes: AGGFRAG (RFC 9347, 6.1.4), and our own."""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_payloads import Notify, NotifyType

DONT_FRAGMENT = 0x01  # its sender takes no raw packet that spans envelopes
CONGESTION_CONTROL = 0x02  # its sender wants reports, which we don't make
# How our private notify begins: the number is anybody's to use (RFC 7296, 3.10.1).
MAGIC = b"moatvpn"
PRIVATE_BLOCKS = 0x01  # super-packets and path probes travel as private AGGFRAG blocks


def use_aggfrag() -> Notify:
    """Return the notify that offers or takes AGGFRAG, without requirements of ours."""
    return Notify(NotifyType.USE_AGGFRAG, b"\x00")


def parse_use_aggfrag(notify: Notify) -> bool:
    """Return whether the peer forbids raw packets that span envelopes to it.

    Raises PeerError where the notify is malformed, or requires what we don't do: then AGGFRAG is
    not to be used.
    """
    if len(notify.data) != 1:
        why = f"USE_AGGFRAG of {len(notify.data)} octets"
        raise PeerError(DropReason.IKE_AGGFRAG_REFUSED, why)
    flags = notify.data[0]
    if flags & ~DONT_FRAGMENT:
        raise PeerError(DropReason.IKE_AGGFRAG_REFUSED, f"USE_AGGFRAG with flags {flags:#04x}")
    return bool(flags & DONT_FRAGMENT)


def private_features(features: int) -> Notify:
    """Return the private notify that offers or takes features, bits such as PRIVATE_BLOCKS."""
    return Notify(NotifyType.MOAT_FEATURES, MAGIC + bytes((features,)))


def parse_private_features(notify: Notify) -> int:
    """Return the features in our private notify, 0 in another vendor's of the same number.

    Octets that follow are for later versions.
    """
    data = notify.data
    return data[len(MAGIC)] if data.startswith(MAGIC) and len(data) > len(MAGIC) else 0
