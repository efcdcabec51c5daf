"""Redirects (RFC 5685): a portal hands its moats over to another one.

    moat                                     portal
    HDR, SAi1, KEi, Ni, N(REDIRECT_SUPPORTED) ---->
                            <----  HDR, N(REDIRECT, gateway, Ni)            in clear (3)
                      or    <----  HDR, SK{IDr, AUTH, N(REDIRECT, gateway)} in IKE_AUTH (6)
                      or    <----  HDR, SK{N(REDIRECT, gateway)}            at any time (5)
    HDR, SK{} ---->

    moat                                     the other portal
    HDR, SAi1, KEi, Ni, N(REDIRECTED_FROM, portal) ---->   and so on

A moat goes to the gateways of its connection's settings and to nowhere else, and whoever answers
there proves the identity and a key that the settings have for it: so the redirect in clear, which
anybody on the path can send, leads to nobody new. What it has stays until the other one is up.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from moatvpn.config import Gateway
from moatvpn.ike.authentication.contract import Authentication
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.part import Part
from moatvpn.ike.task import Payloads, PlainTask, notifies_of
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType
from moatvpn.wire.ike_redirect import parse_redirect, redirect, redirected_from

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

MOST_REDIRECTS = 5  # within LOOP_SECONDS (7)
LOOP_SECONDS = 300.0
_ANNOUNCED = (NotifyType.REDIRECT_SUPPORTED, NotifyType.REDIRECTED_FROM)


class Redirects(Part):
    """Where one connection has been sent, or is to be sent.

    gateways are those that a moat may go to, each with what it proves itself by. target is the one
    that it has been sent to, None for the portal of its settings; pending: it is not there yet.
    to is where a portal sends this moat, None for nowhere.
    """

    __slots__ = ("_from", "_times", "gateways", "pending", "target", "to")

    def __init__(self, connection: Connection, gateways: Mapping[Gateway, Authentication]) -> None:
        super().__init__(connection)
        self.gateways = gateways
        self.target: Gateway | None = None
        self.pending = False
        self.to: str | None = None
        self._from = ""
        self._times: tuple[float, ...] = ()

    def announce(self) -> list[Notify]:
        """Return what our first request says of redirects (3)."""
        if not self.gateways:
            return []
        if self.pending and self._from:
            return [redirected_from(self._from)]
        return [Notify(NotifyType.REDIRECT_SUPPORTED)]

    def follow(self, where: str, sender: IkeSa, now: float) -> bool:
        """Go to another gateway, if it is one of ours and we have not been sent around."""
        connection, context = self._connection, sender.context
        gateway = next((g for g in self.gateways if where in (g.address, g.identity)), None)
        recent = tuple(when for when in self._times if when > now - LOOP_SECONDS)
        if gateway is None or gateway.address == sender.remote.host:
            what = f"redirect to {where} ignored: it is no other gateway of this connection"
        elif len(recent) >= MOST_REDIRECTS:
            what = f"redirect to {where} ignored: {MOST_REDIRECTS} within {LOOP_SECONDS:.0f} s"
        else:
            self._times = (*recent, now)
            self.target, self.pending, self._from = gateway, True, sender.remote.host
            context.notice(connection.config.name, "info", f"redirected to {where}")
            connection.begin(now)
            return True
        context.notice(connection.config.name, "warning", what)
        return False

    def failed(self, sa: IkeSa) -> None:
        """Take in that a call came to nothing: back to the portal of the settings, then."""
        if sa.gateway is not None and sa.gateway is self.target:
            self.target, self.pending = None, False

    def arrived(self, sa: IkeSa) -> bool:
        """Take in that sa is up; return whether what we had elsewhere is to be deleted now (5)."""
        moved, self.pending = self.pending and sa.gateway is not None, False
        return moved

    def renew(self, gateways: Mapping[Gateway, Authentication]) -> None:
        """Take the same gateways with other keys."""

        def same(old: Gateway | None) -> Gateway | None:
            return next((new for new in gateways if old is not None and new.is_where(old)), None)

        self.gateways, self.target = gateways, same(self.target)
        sas = [self._sa, *(self._connection.attempt or ())[:1]]
        sas += [sa.rival[0] for sa in sas if sa is not None and sa.rival is not None]
        for sa in sas:
            if sa is not None:
                sa.gateway = same(sa.gateway)


# What a portal says


def may_be_told(notifies: Sequence[Notify]) -> bool:
    """Return whether the sender of a first request understands redirects (3)."""
    return any(notify.type in _ANNOUNCED for notify in notifies)


def told_in_auth(connection: Connection, sa: IkeSa) -> Payloads:
    """Return the redirect for a peer that has proved who it is, if it is to be sent away (6)."""
    to = connection.redirects.to
    return _encode(redirect(to)) if to is not None and sa.redirectable else []


class RedirectTask(PlainTask):
    """Send the peer of an IKE SA away (5)."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    def build(self, now: float) -> Payloads:
        """Return the redirect."""
        return _encode(redirect(self._gateway))

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Do nothing: the peer deletes the IKE SA when it has another."""


def _encode(notify: Notify) -> list[tuple[int, bytes]]:
    return [(PayloadType.NOTIFY, notify.encode())]


# What a moat hears


def _heard(notifies: Sequence[Notify]) -> tuple[str, bytes] | None:
    data = next((n.data for n in notifies if n.type == NotifyType.REDIRECT), None)
    return parse_redirect(data) if data is not None else None


def heard_in_clear(
    connection: Connection, sa: IkeSa, nonce: bytes, notifies: Sequence[Notify], now: float
) -> bool:
    """Return whether an answer in clear sends us away; only with our nonce does it count (3)."""
    heard = _heard(notifies) if connection.redirects.gateways else None
    if heard is None or not hmac.compare_digest(heard[1], nonce):
        return False
    return connection.redirects.follow(heard[0], sa, now)


def heard(connection: Connection, sa: IkeSa, payloads: Sequence[RawPayload], now: float) -> bool:
    """Return whether an authentic message of the portal's sends us away (5, 6)."""
    if not connection.config.initiate or not connection.redirects.gateways:
        return False
    told = _heard(notifies_of(payloads))
    return told is not None and not told[1] and connection.redirects.follow(told[0], sa, now)
