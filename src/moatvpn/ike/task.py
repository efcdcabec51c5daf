"""The contract of an exchange that we start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moatvpn.wire.ike_header import Exchange, RawPayload

Payloads = Sequence[tuple[int, bytes]]


class Task(Protocol):
    """One exchange of ours: build the request, take the response.

    build returns the payloads, or None where there is nothing left to do. complete gets the
    payloads of the authenticated response and may raise PeerError, which fails the IKE SA.
    """

    exchange: Exchange

    def build(self, now: float) -> Payloads | None:
        """Return the payloads of the request."""
        ...

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Take the response."""
        ...


def body_of(payloads: Sequence[RawPayload], kind: int) -> bytes | None:
    """Return the body of the first payload of a type, or None."""
    return next((p.body for p in payloads if p.type == kind), None)
