"""One connection: keeps an IKE SA and a CHILD_SA up for as long as it is configured."""

from __future__ import annotations

from dataclasses import dataclass

from moatvpn.config import ConnectionConfig
from moatvpn.esp.child import ChildSa
from moatvpn.ike import init
from moatvpn.ike.context import Context
from moatvpn.ike.events import ChildActivate, ChildDown, ChildUp, IkeDown, IkeUp, PeerMoved
from moatvpn.ike.ike_sa import ChildRecord, IkeSa
from moatvpn.ike.informational import DeleteTask, LivenessTask
from moatvpn.ike.init import InitSecrets
from moatvpn.ike.rekey import RekeyChildTask, RekeyIkeTask
from moatvpn.ike.scheduler import Deadline
from moatvpn.ike.state import State
from moatvpn.wire.endpoint import IKE_PORT, Endpoint

RETRY_SECONDS = 1.0
START_SPREAD = 0.2  # seconds over which connections of one box start, so that they don't at once
UNANSWERED_SECONDS = 2.0  # traffic out and none in for this long: ask whether the peer lives
LINGER_SECONDS = 5.0  # a replaced CHILD_SA still decrypts what is under way
DELETE_AFTER = 2.0  # seconds from a rekey to the Delete of what it replaced


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """How a connection is doing. Times are those of the daemon's clock, in seconds.

    state is "established", "connecting" (we initiate) or "waiting" (for the peer to call).
    """

    name: str
    state: str
    role: str
    peer: Endpoint | None
    nat: bool
    spi_i: bytes
    spi_r: bytes
    established_at: float | None
    ike_rekey_at: float | None
    child_rekey_at: float | None


class Connection:
    """The life of one configured connection."""

    def __init__(self, context: Context, config: ConnectionConfig, now: float) -> None:
        self._context = context
        self.config = config
        self.sa: IkeSa | None = None
        self.attempt: tuple[IkeSa, InitSecrets] | None = None
        self._retry: Deadline | None = None
        self._watch: Deadline | None = None
        self._unanswered: Deadline | None = None
        self._last_inbound = now
        self._removed = False
        if config.initiate:
            self._retry_at(now + START_SPREAD * context.fraction())

    # Setting up

    def _retry_at(self, when: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._context.scheduler.at(when, self.begin)

    def begin(self, now: float) -> None:
        """Start an IKE SA with the configured address, with everything fresh."""
        address = self.config.remote_address
        if self._removed or address is None:
            return
        if self.attempt is not None:
            self.attempt[0].close()
            self.attempt = None
        host = self._context.local_address(address)
        if host is None:
            self._retry_at(now + RETRY_SECONDS)
            return
        force_udp = self.config.encapsulation == "udp"
        local, remote = Endpoint(host, IKE_PORT), Endpoint(address, IKE_PORT)
        self.attempt = init.start(self._context, self.config.name, local, remote, force_udp, now)

    def established(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """Take a freshly authenticated IKE SA and its CHILD_SA, in place of any older one."""
        old = self.sa
        if self.attempt is not None and self.attempt[0] is not sa:
            self.attempt[0].close()
        self.attempt, self.sa = None, sa
        if sa.expires is not None:
            sa.expires.cancel()
        sa.forget_half_open()
        sa.move(State.ESTABLISHED)
        self.adopt(sa, now)
        self._context.events.append(IkeUp(self.config.name, sa.remote, sa.initiator))
        self.add_child(sa, child, None, True, now)
        if old is not None:
            self._discard(old)
        self._last_inbound = now
        self._watch_at(now + self.config.dpd_interval)

    def adopt(self, sa: IkeSa, now: float) -> None:
        """Make sa the IKE SA of this connection and plan its rekey."""
        self.sa = sa
        sa.connection = self.config.name
        sa.established_at = now
        when = now + self.config.ike_lifetime * self._part()
        sa.rekey_at = self._context.scheduler.at(when, self.rekey_ike)

    def _part(self) -> float:
        """Return which part of a lifetime to wait for a rekey, so that thousands don't at once."""
        return 0.8 + 0.15 * self._context.fraction()

    def _discard(self, sa: IkeSa) -> None:
        for spi in list(sa.children):
            self._child_gone(sa, spi)
        sa.close()

    # CHILD_SAs

    def add_child(
        self, sa: IkeSa, child: ChildSa, replaces: int | None, activate: bool, now: float
    ) -> None:
        """Enter a CHILD_SA and hand it to the data plane."""
        when = now + self.config.child_lifetime * self._part()
        record = ChildRecord(child)
        record.rekey_at = self._context.scheduler.at(
            when, lambda at: self.rekey_child(child.spi_in, at)
        )
        sa.children[child.spi_in] = record
        if replaces is not None and replaces in sa.children:
            sa.children[replaces].successor = child.spi_in
        self._context.events.append(ChildUp(child, sa.remote, replaces, activate))

    def _child_gone(self, sa: IkeSa, spi_in: int) -> None:
        record = sa.children.pop(spi_in, None)
        if record is None:
            return
        if record.rekey_at is not None:
            record.rekey_at.cancel()
        self._context.child_spis.discard(spi_in)
        self._context.events.append(ChildDown(self.config.name, spi_in))

    def child_deleted(self, sa: IkeSa, record: ChildRecord, now: float) -> None:
        """The peer deleted a CHILD_SA, or confirmed our deletion of it."""
        spi_in = record.child.spi_in
        if record.successor is None:
            self._child_gone(sa, spi_in)
            if not sa.children and self.config.initiate:
                self.sa_failed(sa, "the peer deleted the CHILD_SA", now)
            return
        if record.successor in sa.children:
            self._context.events.append(ChildActivate(self.config.name, record.successor))
        if record.rekey_at is not None:
            record.rekey_at.cancel()
        # An IKE SA rekey may have moved the record meanwhile: look for it where it is then.
        record.rekey_at = self._context.scheduler.at(
            now + LINGER_SECONDS, lambda _: self._child_gone(self.sa or sa, spi_in)
        )

    def delete_child_later(self, spi_in: int, now: float) -> None:
        """Delete a CHILD_SA that has a successor, once what is under way has arrived."""
        self._context.scheduler.at(now + DELETE_AFTER, lambda at: self._delete_child(spi_in, at))

    def _delete_child(self, spi_in: int, now: float) -> None:
        if self.sa is not None and spi_in in self.sa.children:
            self.sa.start(DeleteTask(self, self.sa, spi_in), now)

    def rekey_child(self, spi_in: int | None, now: float) -> None:
        """Rekey one CHILD_SA, or with None the one in use."""
        if self.sa is None:
            return
        for spi, record in list(self.sa.children.items()):
            current = record.successor is None and not record.rekeying
            if current and spi_in in (None, spi):
                self.sa.start(RekeyChildTask(self, self.sa, spi), now)

    def rekey_child_later(self, spi_in: int, now: float) -> None:
        """Try a rekey again that the peer could not do now (2.25)."""
        when = now + 1.0 + 2.0 * self._context.fraction()
        self._context.scheduler.at(when, lambda at: self.rekey_child(spi_in, at))

    def rekey_ike(self, now: float) -> None:
        """Rekey the IKE SA."""
        if self.sa is not None and not self.sa.rekeying:
            self.sa.start(RekeyIkeTask(self, self.sa), now)

    def rekey_ike_later(self, now: float) -> None:
        """Try the IKE SA's rekey again after a TEMPORARY_FAILURE."""
        when = now + 1.0 + 2.0 * self._context.fraction()
        self._context.scheduler.at(when, self.rekey_ike)

    # Liveness and addresses

    def inbound(self, now: float) -> None:
        """Something authentic came from the peer."""
        self._last_inbound = now
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None

    def outbound(self, now: float) -> None:
        """A packet went to the peer; if nothing comes back, ask soon."""
        if self._unanswered is None and self.sa is not None:
            self._unanswered = self._context.scheduler.at(now + UNANSWERED_SECONDS, self._no_answer)

    def _no_answer(self, now: float) -> None:
        self._unanswered = None
        self.check_liveness(now)

    def _watch_at(self, when: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._context.scheduler.at(when, self._look)

    def _look(self, now: float) -> None:
        if self.sa is None:
            return
        due = self._last_inbound + self.config.dpd_interval
        if due <= now:
            self.check_liveness(now)
            due = now + self.config.dpd_interval
        self._watch_at(due)

    def check_liveness(self, now: float) -> None:
        """Ask the peer whether it lives, unless some request waits for it already."""
        if self.sa is not None and self.sa.pending is None:
            self.sa.start(LivenessTask(), now)

    def local_address_changed(self, now: float) -> None:
        """Our own address may be another one: speak from it at once."""
        if not self.config.initiate:
            return
        if self.sa is None:
            self.begin(now)
            return
        host = self._context.local_address(self.sa.remote.host)
        if host is None or host == self.sa.local.host:
            return
        self.sa.local = Endpoint(host, self.sa.local.port)
        if not self.sa.resend(now):
            self.check_liveness(now)

    def peer_moved(self, peer: Endpoint) -> None:
        """The peer's address is another one; port 0 keeps the port."""
        if self.sa is None:
            return
        remote = Endpoint(peer.host, peer.port or self.sa.remote.port)
        if remote != self.sa.remote:
            self.sa.remote = remote
            self._context.events.append(PeerMoved(self.config.name, remote))

    # Ending

    def sa_failed(self, sa: IkeSa, reason: str, now: float) -> None:
        """An IKE SA of ours is dead: forget it and, if it is our part, start over."""
        if self.attempt is not None and self.attempt[0] is sa:
            sa.close()
            self.attempt = None
            self._retry_at(now + RETRY_SECONDS * self._context.fraction())
            return
        if sa is not self.sa:
            sa.close()  # one that a rekey has replaced already
            return
        self._discard(sa)
        self.sa = None
        self._context.events.append(IkeDown(self.config.name, reason))
        if self.config.initiate:
            self._retry_at(now)

    def remove(self, now: float) -> None:
        """End everything, and tell the peer once."""
        self._removed = True
        for timer in (self._retry, self._watch, self._unanswered):
            if timer is not None:
                timer.cancel()
        if self.attempt is not None:
            self.attempt[0].close()
            self.attempt = None
        if self.sa is not None:
            sa, self.sa = self.sa, None
            sa.send(DeleteTask.farewell(sa))
            self._discard(sa)
            self._context.events.append(IkeDown(self.config.name, "removed"))

    def status(self) -> ConnectionStatus:
        """Return how the connection is doing."""
        sa = self.sa
        current = next(
            (r for r in (sa.children.values() if sa else ()) if r.successor is None), None
        )
        idle = "connecting" if self.config.initiate else "waiting"
        return ConnectionStatus(
            name=self.config.name,
            state=State.ESTABLISHED.value if sa else idle,
            role="initiator" if self.config.initiate else "responder",
            peer=sa.remote if sa else None,
            nat=sa.nat if sa else False,
            spi_i=sa.spi_i if sa else b"",
            spi_r=sa.spi_r if sa else b"",
            established_at=sa.established_at if sa else None,
            ike_rekey_at=sa.rekey_at.when if sa and sa.rekey_at else None,
            child_rekey_at=current.rekey_at.when if current and current.rekey_at else None,
        )
