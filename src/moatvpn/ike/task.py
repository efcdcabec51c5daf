"""The contract of an exchange that we start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, encode_certificate_request, parse_notify

if TYPE_CHECKING:
    from moatvpn.ike.ike_sa import IkeSa

Payloads = Sequence[tuple[int, bytes]]


class Task(Protocol):
    """One exchange of ours: build the request, take the response.

    build returns the payloads, or None where there is nothing left to do. complete gets the
    payloads of the authenticated response and may raise PeerError, which fails the IKE SA. What
    build reserved is complete's to keep or to give back; where complete raises, or there is never
    a response, abandon gives it back.
    """

    exchange: Exchange

    def build(self, now: float) -> Payloads | None:
        """Return the payloads of the request."""
        ...

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Take the response."""
        ...

    def abandon(self) -> None:
        """Give back what the request reserved: it will not be answered."""
        ...

    def move(self, sa: IkeSa) -> bool:
        """Before build: run on sa, which has replaced our IKE SA; False where that has no use."""
        ...


class PlainTask:
    """What tasks have in common that reserve nothing and mean one IKE SA only."""

    def abandon(self) -> None:
        """Do nothing: nothing was reserved."""

    def move(self, sa: IkeSa) -> bool:
        """Return that there is no use for it on sa."""
        del sa
        return False


def body_of(payloads: Sequence[RawPayload], kind: int) -> bytes | None:
    """Return the body of the first payload of a type, or None."""
    return next((p.body for p in payloads if p.type == kind), None)


def notifies_of(payloads: Sequence[RawPayload]) -> list[Notify]:
    """Return all notifies among payloads."""
    return [parse_notify(p.body) for p in payloads if p.type == PayloadType.NOTIFY]


def certificate_request(authorities: Sequence[bytes]) -> Payloads:
    """Return the CERTREQ payload that wants certificates of these CAs; none where there is none."""
    body = encode_certificate_request(authorities)
    return [(PayloadType.CERTREQ, body)] if authorities else []
