"""Re-authentication (RFC 7296, 2.8.3): a new IKE SA beside the old one, with no packet lost.

caller                                             called
                             <----  HDR, SK{N(AUTH_LIFETIME)}   where it is the called side that has
HDR, SK{} ---->                                                 another key now (RFC 4478)

HDR, SAi1, KEi, Ni, … ---->                        the old IKE SA goes on meanwhile
                             <----  HDR, SAr1, KEr, Nr, …
HDR, SK{IDi, CERT, AUTH, …} ---->                  without INITIAL_CONTACT
                             <----  HDR, SK{IDr, CERT, AUTH, …}
                             <----  HDR, SK{}      on the new IKE SA: does the caller have it?
HDR, SK{} ---->
HDR, SK{D} ---->                                   on the old IKE SA, a little later

The caller sends on the new CHILD_SA at once, the called side once it knows that the caller has it.
Until then it keeps what it had: a caller that does not accept the new proof says so, or is silent,
and nothing has changed. Of a box with two keys a connection then goes on with the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.ike.informational import DeleteIkeTask
from moatvpn.ike.part import Part
from moatvpn.ike.state import State
from moatvpn.ike.task import Payloads, PlainTask
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa

PROBE_AFTER = 0.5  # seconds from our IKE_AUTH answer to our asking whether it has come
DELETE_AFTER = 2.0  # seconds from the new IKE SA to the Delete of the old one
CLOSE_SECONDS = 30.0  # an IKE SA whose Delete never comes goes by itself
SPREAD_SECONDS = 0.02  # for each connection: so many of them don't re-authenticate at once


class Reauthentication(Part):
    """Whether one connection is to prove itself anew, and the IKE SA that is to be the next one.

    candidate is an IKE SA that the peer has set up beside ours, and that it may not have taken;
    spi_in is that of its CHILD_SA.
    """

    __slots__ = ("_asked", "candidate", "spi_in")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._asked = False
        self.candidate: IkeSa | None = None
        self.spi_in: int | None = None

    @property
    def due(self) -> bool:
        """Return whether we proved ourselves by another key than we should, or were asked to."""
        sa = self._sa
        if sa is None:
            return False
        key = self._connection.method(sa).public_key
        return self._asked or (key is not None and sa.local_key != key)

    def plan(self, now: float, spread: float = 0.0) -> bool:
        """Begin within spread seconds if it is due; return whether it is."""
        sa, connection = self._sa, self._connection
        if sa is None or not self.due:
            return False
        when = now + spread * sa.context.fraction()
        sa.context.scheduler.at(when, lambda at: connection.reauthentication.begin(at))
        return True

    def begin(self, now: float) -> None:
        """Call, or have the peer call, if it is due."""
        sa = self._sa
        if sa is None or not self.due or self.candidate is not None:
            return
        if self._connection.config.initiate:
            self._connection.begin(now)
        else:
            sa.start(LifetimeTask(), now)

    def asked(self, payloads: Sequence[Notify], now: float) -> None:
        """Take in that the peer gives us so many seconds to call anew (RFC 4478, 3)."""
        lifetime = lifetime_in(payloads)
        sa = self._sa
        if lifetime is None or sa is None or not self._connection.config.initiate:
            return
        connection, context = self._connection, sa.context

        def call(at: float) -> None:
            if connection.sa is not None and connection.sa.established_at <= now:
                connection.reauthentication._asked = True
                connection.begin(at)

        context.scheduler.at(now + lifetime * context.lifetime_part(), call)

    def ended(self) -> None:
        """Take in that a call of ours is up, or was refused: nobody is to be asked again."""
        self._asked = False

    # Where the peer has called beside what there is

    def offered(self, sa: IkeSa, spi_in: int, now: float) -> None:
        """Wait until the peer shows that it has sa, with the CHILD_SA that was made with it."""
        self.drop()
        self.candidate, self.spi_in = sa, spi_in
        sa.context.scheduler.at(now + PROBE_AFTER, lambda at: self._probe(sa, at))

    def _probe(self, sa: IkeSa, now: float) -> None:
        if self.candidate is sa:
            sa.start(ProbeTask(self._connection, sa), now)

    def used(self, sa: IkeSa, now: float) -> None:
        """Take in that the peer uses sa: if that is the candidate, it is our IKE SA now."""
        if self.candidate is sa and self.spi_in is not None:
            spi_in, self.candidate, self.spi_in = self.spi_in, None, None
            self._connection.take_over(sa, spi_in, now)

    def lost(self, sa: IkeSa) -> bool:
        """Take in that sa has ended; return whether it was the candidate, which changes nothing."""
        if self.candidate is not sa:
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """Forget the candidate, if there is one."""
        sa, spi_in = self.candidate, self.spi_in
        self.candidate = self.spi_in = None
        if sa is not None:
            sa.close()
        if spi_in is not None:
            self._connection.children.gone(spi_in)


def retire(old: IkeSa, now: float, *, delete: bool) -> None:
    """Let an IKE SA go that another has replaced; with delete it is we who delete it."""
    if old.state is not State.ESTABLISHED:
        return
    if old.rekey_at is not None:
        old.rekey_at.cancel()
    if old.rival is not None:
        old.rival[0].close_at(now + CLOSE_SECONDS)
        old.rival = None
    old.queue.clear()
    old.superseded = True
    old.move(State.REPLACED)
    old.close_at(now + CLOSE_SECONDS)
    if delete:
        old.context.scheduler.at(now + DELETE_AFTER, lambda at: old.start(DeleteIkeTask(old), at))


class LifetimeTask(PlainTask):
    """Have the peer prove itself, and us, anew at once (RFC 4478, 3)."""

    exchange = Exchange.INFORMATIONAL

    def build(self, now: float) -> Payloads:
        """Return the notify: no second is left."""
        notify = Notify(NotifyType.AUTH_LIFETIME, bytes(4))
        return [(PayloadType.NOTIFY, notify.encode())]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Do nothing: the peer calls."""


class ProbeTask(PlainTask):
    """Ask whether the peer has the IKE SA that it has set up."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, connection: Connection, sa: IkeSa) -> None:
        self._connection = connection
        self._sa = sa

    def build(self, now: float) -> Payloads:
        """Return nothing: any answer will do."""
        return []

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        """Go over to it."""
        self._connection.reauthentication.used(self._sa, now)


def lifetime_in(notifies: Sequence[Notify]) -> int | None:
    """Return the seconds that an AUTH_LIFETIME among notifies leaves, None where there is none."""
    found = (n.data for n in notifies if n.type == NotifyType.AUTH_LIFETIME and len(n.data) == 4)
    return next((int.from_bytes(data, "big") for data in found), None)
