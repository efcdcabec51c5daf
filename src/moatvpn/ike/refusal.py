"""Errors of the peer's that it is told of, as a notify in a response (RFC 7296, 2.21)."""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_payloads import Notify, NotifyType


class RefusalError(PeerError):
    """A request that we understand and will not do. notify is the answer to it."""

    def __init__(self, reason: DropReason, notify: Notify, detail: str = "") -> None:
        super().__init__(reason, detail or f"answered with notify {notify.type}")
        self.notify = notify


class CriticalPayloadError(RefusalError):
    """A payload of a type that we don't know, and that its sender wants understood (2.5)."""

    def __init__(self, kind: int) -> None:
        notify = Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes((kind,)))
        super().__init__(DropReason.IKE_CRITICAL_PAYLOAD, notify, f"payload {kind}")
