"""The CHILD_SAs of one connection: which one is used, and which are on their way out.

They belong to the connection, not to one IKE SA: a rekey of the IKE SA hands them on as they are
(RFC 7296, 2.18). A connection uses one at a time; the others are replaced, or redundant (2.8.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moatvpn.esp.child import ChildSa
from moatvpn.ike.context import Context
from moatvpn.ike.events import ChildActivate, ChildDown, ChildUp
from moatvpn.ike.informational import DeleteTask
from moatvpn.ike.rekey import RekeyChildTask
from moatvpn.ike.scheduler import Deadline
from moatvpn.wire.ike_payloads import NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa

LINGER_SECONDS = 5.0  # a replaced CHILD_SA still decrypts what is under way
DELETE_AFTER = 2.0  # seconds from a rekey to the Delete of what it replaced
MOST_CHILDREN = 8  # of one connection: more than any crossing of rekeys leaves
REFUSED_SECONDS = 60.0  # until a rekey that the peer will not do is tried again
MOST_FAILURES = 60  # TEMPORARY_FAILUREs in a row, some two minutes of them (2.25)


@dataclass(slots=True)
class ChildRecord:
    """One CHILD_SA and what is going on with it.

    successor is the inbound SPI of what replaces it, once there is such a one. rekeying: our
    request to replace it is in flight; if the peer replaces it meanwhile, rival_nonce is the
    lowest nonce of the peer's exchange. redundant: it lost against its rival. active: we send on
    it, or did. leaving: it has been deleted, and decrypts for a little longer. failures counts
    rekeys that had to wait.
    """

    child: ChildSa
    ends: Deadline
    successor: int | None = None
    rekeying: bool = False
    rival_nonce: bytes | None = None
    redundant: bool = False
    active: bool = False
    leaving: bool = False
    failures: int = 0


class Children:
    """The CHILD_SAs of a connection by inbound SPI, oldest first."""

    def __init__(self, context: Context, connection: Connection) -> None:
        self._context = context
        self._connection = connection
        self.records: dict[int, ChildRecord] = {}

    def current(self) -> ChildRecord | None:
        """Return the one that nothing replaces, or None."""
        return next((r for r in self.records.values() if r.successor is None), None)

    def by_peer_spi(self, spi_out: int) -> ChildRecord | None:
        """Return the CHILD_SA, not deleted yet, whose outbound SPI is spi_out."""
        return next(
            (r for r in self.records.values() if r.child.spi_out == spi_out and not r.leaving), None
        )

    @property
    def full(self) -> bool:
        """Return whether the peer has to delete some before it makes another."""
        return len(self.records) >= MOST_CHILDREN

    def rekeying(self) -> bool:
        """Return whether a request of ours to replace one is in flight."""
        return any(record.rekeying for record in self.records.values())

    # Coming

    def add(
        self, sa: IkeSa, child: ChildSa, replaces: int | None, activate: bool, now: float
    ) -> ChildRecord:
        """Enter a CHILD_SA and hand it to the data plane. activate: send on it at once."""
        lifetime = self._connection.config.child_lifetime * self._context.lifetime_part()
        ends = self._context.scheduler.at(now + lifetime, lambda at: self.rekey(child.spi_in, at))
        record = self.records[child.spi_in] = ChildRecord(child, ends, active=activate)
        self._context.events.append(ChildUp(child, sa.remote, replaces, activate))
        return record

    def activate(self, spi_in: int) -> None:
        """Send on a CHILD_SA from now on, unless it or one that came after it is in use.

        News of an older rekey may come late, and sending goes only forwards.
        """
        spis = list(self.records)
        if spi_in not in self.records:
            return
        if any(self.records[spi].active for spi in spis[spis.index(spi_in) :]):
            return
        self.records[spi_in].active = True
        self._context.events.append(ChildActivate(self._connection.config.name, spi_in))

    # Going

    def gone(self, spi_in: int) -> None:
        """Forget a CHILD_SA, if it is there, and let its SPI go."""
        record = self.records.pop(spi_in, None)
        if record is None:
            return
        record.ends.cancel()
        self._context.child_spis.discard(spi_in)
        self._context.events.append(ChildDown(self._connection.config.name, spi_in))
        for other in self.records.values():
            if other.successor == spi_in and other.rekeying:
                other.successor = other.rival_nonce = None  # the rival has given way

    def clear(self) -> None:
        """Forget all of them."""
        for spi_in in list(self.records):
            self.gone(spi_in)

    def deleted(self, record: ChildRecord, now: float) -> None:
        """Take in that the peer deleted a CHILD_SA, or confirmed our deletion of it."""
        spi_in = record.child.spi_in
        if record.successor is None:
            self.gone(spi_in)
            if not self.records:
                self._connection.childless("the peer deleted the CHILD_SA", now)
            return
        if not record.redundant:
            self.activate(record.successor)
        if not record.leaving:
            record.leaving = True
            record.ends.cancel()
            forget = now + LINGER_SECONDS
            record.ends = self._context.scheduler.at(forget, lambda _: self.gone(spi_in))

    def delete_later(self, spi_in: int, now: float) -> None:
        """Delete a CHILD_SA that has a successor, once what is under way has arrived."""
        self._context.scheduler.at(now + DELETE_AFTER, lambda at: self.delete(spi_in, at))

    def delete(self, spi_in: int, now: float) -> None:
        """Delete a CHILD_SA, if it is still there."""
        sa = self._connection.sa
        if sa is not None and spi_in in self.records:
            sa.start(DeleteTask(self._connection, spi_in), now)

    # Being replaced

    def rekey(self, spi_in: int | None, now: float) -> None:
        """Rekey one CHILD_SA, or with None the one in use."""
        sa = self._connection.sa
        if sa is None:
            return
        for spi, record in list(self.records.items()):
            current = record.successor is None and not record.rekeying
            if current and spi_in in (None, spi):
                sa.start(RekeyChildTask(self._connection, sa, spi), now)

    def rekey_refused(self, spi_in: int, notify: int, now: float) -> None:
        """Take in that the peer would not rekey a CHILD_SA, and answered with notify instead."""
        record = self.records.get(spi_in)
        if record is None or record.successor is not None:
            return  # the peer has replaced it itself, and did not see our request in time (2.8.1)
        name = self._connection.config.name
        self._context.notice(name, "warning", f"CHILD_SA rekey refused, notify {notify}")
        if notify == NotifyType.CHILD_SA_NOT_FOUND:
            self.gone(spi_in)
            if not self.records:
                self._connection.childless("the peer has no such CHILD_SA", now)
            return
        wait = REFUSED_SECONDS
        if notify == NotifyType.TEMPORARY_FAILURE:
            wait = 1.0
            record.failures += 1
            if record.failures == MOST_FAILURES:
                self._connection.childless("the peer's state is another than ours", now)
                return
        wait *= 1.0 + 2.0 * self._context.fraction()
        self._context.scheduler.at(now + wait, lambda at: self.rekey(spi_in, at))
