"""The CHILD_SAs of one connection: which are used, and which are on their way out.

They belong to the connection, not to one IKE SA: a rekey of the IKE SA hands them on as they are
(RFC 7296, 2.18). A connection has one line of them, or several side by side; of each line one is
used at a time, and the others are replaced, or redundant (2.8.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from moatvpn.config import MOST_LINES
from moatvpn.esp.child import ChildSa
from moatvpn.ike.child import Selectors, configured, pairs
from moatvpn.ike.context import Context
from moatvpn.ike.create_child import CreateChildTask
from moatvpn.ike.events import ChildActivate, ChildDown, ChildUp
from moatvpn.ike.informational import DeleteTask
from moatvpn.ike.part import Part
from moatvpn.ike.rekey import RekeyChildTask
from moatvpn.ike.scheduler import Deadline
from moatvpn.wire.ike_payloads import NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa

LINGER_SECONDS = 5.0  # a replaced CHILD_SA still decrypts what is under way
DELETE_AFTER = 2.0  # seconds from a rekey to the Delete of what it replaced
MOST_CHILDREN = 8  # of one line: more than any crossing of rekeys leaves
REFUSED_SECONDS = 60.0  # until a rekey that the peer will not do is tried again
MOST_FAILURES = 60  # TEMPORARY_FAILUREs in a row, some two minutes of them (2.25)


@dataclass(slots=True)
class ChildRecord:
    """One CHILD_SA and what is going on with it.

    successor is the inbound SPI of what replaces it, once there is such a one. rekeying: our
    request to replace it is in flight; if the peer replaces it meanwhile, rival_nonce is the
    lowest nonce of the peer's exchange. redundant: it lost against its rival. active: we send on
    it, or did. deleting: our Delete of it has left. leaving: it has been deleted, and decrypts for
    a little longer. failures counts rekeys that had to wait.
    """

    child: ChildSa
    ends: Deadline
    successor: int | None = None
    rekeying: bool = False
    rival_nonce: bytes | None = None
    redundant: bool = False
    active: bool = False
    deleting: bool = False
    leaving: bool = False
    failures: int = 0


class Children(Part):
    """The CHILD_SAs of a connection by inbound SPI, oldest first."""

    def __init__(self, context: Context, connection: Connection) -> None:
        super().__init__(connection)
        self._context = context
        self.records: dict[int, ChildRecord] = {}
        self.single_pairs = connection.config.child_sas == "per-pair"
        self.plain = False  # we have had an answer about AGGFRAG that we cannot go by

    def current(self, line: int) -> ChildRecord | None:
        """Return the one of a line that nothing replaces, or None."""
        of_line = (r for r in self.records.values() if r.child.line == line)
        return next((r for r in of_line if r.successor is None), None)

    def next_rekey(self) -> float | None:
        """Return when the next rekey of one that is used is due, or None."""
        ends = (r.ends.when for r in self.records.values() if r.successor is None)
        return min(ends, default=None)

    def wanted(self) -> list[Selectors]:
        """Return the networks of each line that we want where we call, the first one's first."""
        config = self._connection.config
        if self.single_pairs:
            return pairs(config)[:MOST_LINES]
        return [(configured(config.local_selectors), configured(config.remote_selectors))]

    def by_peer_spi(self, spi_out: int) -> ChildRecord | None:
        """Return the CHILD_SA, not deleted yet, whose outbound SPI is spi_out."""
        return next(
            (r for r in self.records.values() if r.child.spi_out == spi_out and not r.leaving), None
        )

    def full(self, line: int) -> bool:
        """Return whether the peer has to delete some of a line before it makes another."""
        return sum(r.child.line == line for r in self.records.values()) >= MOST_CHILDREN

    def crowded(self) -> bool:
        """Return whether there are as many lines as there may be."""
        return len({record.child.line for record in self.records.values()}) >= MOST_LINES

    def new_line(self) -> int:
        """Return the number of a line that the peer begins; those we want ourselves come first."""
        lines = [record.child.line for record in self.records.values()]
        return max([len(self.wanted()) - 1, *lines]) + 1

    def rekeying(self) -> bool:
        """Return whether a request of ours to replace one is in flight."""
        return any(record.rekeying for record in self.records.values())

    # Coming

    def add(
        self, sa: IkeSa, child: ChildSa, replaces: int | None, activate: bool, now: float
    ) -> ChildRecord:
        """Enter a CHILD_SA and hand it to the data plane. activate: send on it at once."""
        if self._sa is not None and child.udp != self._sa.nat:
            child = replace(child, udp=self._sa.nat)  # sa was replaced, and a NAT has come or gone
        lifetime = self._connection.config.child_lifetime * self._context.lifetime_part()
        ends = self._context.scheduler.at(now + lifetime, lambda at: self.rekey(child.spi_in, at))
        record = self.records[child.spi_in] = ChildRecord(child, ends, active=activate)
        peer = self._connection.addresses.peer or sa.remote
        self._context.events.append(ChildUp(child, peer, replaces, activate))
        return record

    def fill(self, now: float) -> None:
        """Make the CHILD_SAs that we want and do not have. The first one comes with IKE_AUTH."""
        sa = self._sa
        if sa is None or not self._connection.config.initiate or not self.single_pairs:
            return
        for line in range(len(self.wanted())):
            if self.current(line) is None:
                sa.start(CreateChildTask(self._connection, sa, line), now)

    def refused(self, line: int, notify: int, now: float) -> None:
        """Take in that the peer would not make the CHILD_SA of a line; try again later."""
        name = self._connection.config.name
        self._context.notice(name, "warning", f"CHILD_SA {line} refused, notify {notify}")
        wait = 1.0 if notify == NotifyType.TEMPORARY_FAILURE else REFUSED_SECONDS
        self._fill_later(wait, now)

    def _fill_later(self, wait: float, now: float) -> None:
        when = now + wait * (1.0 + 2.0 * self._context.fraction())
        self._context.scheduler.at(when, self.fill)

    def activate(self, spi_in: int) -> None:
        """Send on a CHILD_SA from now on, unless it or one of its line after it is in use.

        News of an older rekey may come late, and sending goes only forwards.
        """
        if spi_in not in self.records:
            return
        line = self.records[spi_in].child.line
        spis = [spi for spi, record in self.records.items() if record.child.line == line]
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

    def superseded(self, old: Sequence[int], by: int, wait: float, now: float) -> None:
        """Let CHILD_SAs go, in wait seconds, that went with an IKE SA which another replaced.

        They decrypt what is under way until then, and carry what has no other CHILD_SA yet.
        """
        for spi_in in old:
            record = self.records.get(spi_in)
            if record is not None:
                record.successor, record.deleting = by, True
                record.ends.cancel()
                forget = partial(self._forget, spi_in)
                record.ends = self._context.scheduler.at(now + wait + LINGER_SECONDS, forget)

    def _forget(self, spi_in: int, now: float) -> None:
        del now
        self.gone(spi_in)

    def deleted(self, record: ChildRecord, now: float) -> None:
        """Take in that the peer deleted a CHILD_SA, or confirmed our deletion of it."""
        spi_in = record.child.spi_in
        if record.successor is None:
            self._lost(spi_in, "the peer deleted the CHILD_SA", now)
            return
        if not record.redundant:
            self.activate(record.successor)
        if not record.leaving:
            record.leaving = True
            record.ends.cancel()
            forget = now + LINGER_SECONDS
            record.ends = self._context.scheduler.at(forget, lambda _: self.gone(spi_in))

    def _lost(self, spi_in: int, reason: str, now: float) -> None:
        """Forget a CHILD_SA that was in use: start over, or fill its place."""
        self.gone(spi_in)
        if self.records:
            self._fill_later(1.0, now)
        else:
            self._connection.childless(reason, now)

    def delete_later(self, spi_in: int, now: float) -> None:
        """Delete a CHILD_SA that has a successor, once what is under way has arrived."""
        self._context.scheduler.at(now + DELETE_AFTER, lambda at: self.delete(spi_in, at))

    def delete(self, spi_in: int, now: float) -> None:
        """Delete a CHILD_SA, if it is still there."""
        sa = self._sa
        if sa is not None and spi_in in self.records:
            sa.start(DeleteTask(self._connection, spi_in), now)

    # Being replaced

    def rekey(self, spi_in: int | None, now: float) -> None:
        """Rekey one CHILD_SA, or with None each that is in use."""
        sa = self._sa
        if sa is None:
            return
        for spi, record in list(self.records.items()):
            current = record.successor is None and not record.rekeying
            if spi == self._connection.reauthentication.spi_in:
                continue  # the peer may not have it
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
            self._lost(spi_in, "the peer has no such CHILD_SA", now)
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
