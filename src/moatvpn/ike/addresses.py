"""Where a connection's peer is, and where we are: how both follow changes.

With MOBIKE (RFC 4555) IKE speaks to a new address of the peer's at once, but traffic goes to
another host only once the peer has shown by a cookie that it is there: so nobody can have us flood
a third party. A new port at the host of before (a NAT's new mapping) needs no proof. Without MOBIKE
the peer is where its newest authentic packet came from (RFC 7296, 2.23).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moatvpn.ike.context import Context
from moatvpn.ike.events import LocalAddress, PeerMoved
from moatvpn.ike.mobike import PathTask, Request
from moatvpn.ike.part import Part
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa
    from moatvpn.ike.nat import Seen

# After an envelope made us ask for a proof elsewhere, no other envelope does for so long, unless
# the proof has come: an envelope's source is not authenticated, and whoever is on the path may
# change it.
HOLD_SECONDS = 10.0


class Addresses(Part):
    """The addresses of one connection.

    peer is where its traffic goes; the IKE SA's own addresses run ahead of it while the peer has
    not answered there. changes counts those of the IKE SA.
    """

    __slots__ = (
        "_calls", "_context", "_guess", "_hold", "_seen", "_task", "_told", "changes", "peer",
    )  # fmt: skip

    def __init__(self, context: Context, connection: Connection) -> None:
        super().__init__(connection)
        self._context = context
        self._task: PathTask | None = None
        self._seen: Seen | None = None  # what the peer's last update told of NATs
        self._hold = 0.0
        self._guess = False  # an envelope alone has told of the address that IKE speaks to
        self._calls = 0  # since there was an IKE SA
        self._told: tuple[str, ...] = ()  # further addresses of the peer, which outlive the IKE SA
        self.peer: Endpoint | None = None
        self.changes = 0

    def begin(self, sa: IkeSa) -> None:
        """Start with the addresses of a fresh IKE SA: those of IKE_AUTH (RFC 4555, 3.3)."""
        self.peer, self._task, self._seen = sa.remote, None, None
        self._hold, self._guess = 0.0, False
        self._calls, self._told = 0, sa.mobility.peer_hosts
        self.changes += 1
        self._tell_local(sa.local)

    def where_to_call(self, configured: str) -> str:
        """Return where to call the peer: where it is configured, then where it said it may be."""
        hosts = tuple(dict.fromkeys((configured, *self._told)))
        self._calls += 1
        return hosts[(self._calls - 1) % len(hosts)]

    def handed_over(self, sa: IkeSa, now: float) -> None:
        """Take in that sa replaces the IKE SA: what that one has in flight may go unanswered."""
        task = self._task
        if task is not None and task.built is not None:
            self._task = None
            self._ask(sa, task.announce, now)

    # Changes

    def _point(self, sa: IkeSa, local: Endpoint, remote: Endpoint) -> None:
        """Speak IKE from local to remote from now on."""
        if (sa.local, sa.remote) == (local, remote):
            return
        self.changes += 1
        self._guess = False
        if local.host != sa.local.host:
            self._tell_local(local)
        for each in (sa, sa.rival[0] if sa.rival is not None else sa):
            each.local, each.remote = local, remote

    def _tell_local(self, local: Endpoint) -> None:
        self._context.events.append(LocalAddress(self._connection.config.name, local.host))

    def _move(self, sa: IkeSa, peer: Endpoint, udp: bool) -> None:
        """Send traffic to peer from now on."""
        if (peer, udp) != (self.peer, sa.nat):
            self.peer, sa.nat = peer, udp
            self._context.events.append(PeerMoved(self._connection.config.name, peer, udp))
            self._connection.expect_calls()

    def _ask(self, sa: IkeSa, announce: bool, now: float) -> None:
        """Have the peer answer at the IKE SA's new addresses: what is in flight, and a cookie."""
        sa.resend(now)
        task = self._task
        if task is not None and task.built in (None, self.changes):
            task.announce |= announce
            return
        self._task = PathTask(self._connection, sa, announce)
        sa.start(self._task, now)

    def settled(self, task: PathTask) -> None:
        """Take in that a task is done with."""
        if task is self._task:
            self._task = None

    def answered_there(self, seen: Seen | None, now: float) -> None:
        """Take in that the peer has proved to be where the IKE SA speaks to.

        seen is what its answer tells of NATs. Only who steers goes by it; its peer goes by the
        update, for both sides have to encapsulate alike.
        """
        sa = self._sa
        if sa is None:
            return
        self._hold = 0.0
        if not sa.mobility.steers:
            seen, self._seen = self._seen, None
        udp = sa.nat
        if seen is not None:
            udp = sa.mobility.force_udp or seen.there or seen.here
            sa.behind_nat, sa.seen_as = seen.here, seen.as_seen
        self._move(sa, sa.remote, udp)
        self._connection.liveness.keep_mapping(now)

    def compare(self, seen: Seen, now: float) -> None:
        """Tell the peer anew where we are, if it sees something else than before (3.8)."""
        sa = self._sa
        if sa is None:
            return
        mapped = seen.here and seen.as_seen != sa.seen_as
        ours = seen.here != sa.behind_nat or mapped
        udp = sa.mobility.force_udp or seen.there or seen.here
        if ours or (sa.mobility.steers and udp != sa.nat):
            if not sa.mobility.steers:
                sa.behind_nat, sa.seen_as = seen.here, seen.as_seen
                self._connection.liveness.keep_mapping(now)
            self._ask(sa, True, now)

    # What the network tells

    def own_changed(self, now: float) -> bool:
        """Speak from the address that leads to the peer now; return whether it is another one."""
        sa = self._sa
        host = self._context.local_address(sa.remote.host) if sa is not None else None
        if sa is None or host is None or host == sa.local.host:
            return False
        self._point(sa, Endpoint(host, sa.local.port), sa.remote)
        if sa.mobility.supported:
            self._ask(sa, True, now)
        elif not sa.resend(now):
            self._connection.liveness.check(now)
        return True

    def envelope_from(self, source: Endpoint, now: float) -> None:
        """Take in that the newest authentic envelope came from elsewhere; port 0 keeps the port."""
        sa, peer = self._connection.sa, self.peer
        if sa is None or peer is None:
            return
        remote = Endpoint(source.host, source.port or sa.remote.port)
        if not sa.mobility.supported:
            self.follow(sa, remote, now)
        elif sa.behind_nat:
            return  # a NAT lets in what it likes: only whoever is in the open follows (2.23)
        elif remote.host == peer.host:
            self._point(sa, sa.local, remote)
            self._move(sa, remote, sa.nat)
            sa.resend(now)
        elif remote != sa.remote and now >= self._hold:
            self._hold, self._seen = now + HOLD_SECONDS, None
            self._point(sa, sa.local, remote)
            self._guess = True
            self._ask(sa, False, now)

    def follow(self, sa: IkeSa, remote: Endpoint, now: float) -> None:
        """Without MOBIKE: move everything to where the newest authentic packet came from."""
        if remote != sa.remote:
            self._point(sa, sa.local, remote)
            self._move(sa, remote, sa.nat)
            sa.resend(now)  # what is in flight went to where the peer is no more

    # What the peer tells

    def requested(self, request: Request, now: float) -> None:
        """Take in a request of the peer's that is about addresses; its response has left."""
        sa = self._sa
        if sa is None:
            return
        if request.hosts is not None:
            sa.mobility.peer_hosts = self._told = request.hosts
        if request.update:
            self._seen = request.seen
            self._point(sa, request.local, request.remote)
            if self.peer is not None and request.remote.host == self.peer.host:
                self.answered_there(None, now)
                sa.resend(now)
            else:
                self._ask(sa, False, now)
        elif request.hosts is not None and sa.mobility.steers and self._gone(request):
            self._point(sa, request.local, request.remote)
            self._ask(sa, False, now)
        elif request.seen is not None and sa.mobility.steers:
            self._shown(sa, request.seen, now)

    def _shown(self, sa: IkeSa, seen: Seen, now: float) -> None:
        """Take in what a check of the peer's shows us, who steer.

        It put our own check off, so a NAT that has gone must not wait for that. Only a match of the
        hashes shows anything: a request that is sent again, elsewhere, has those of where it went
        first.
        """
        if sa.behind_nat and not seen.here:
            self.compare(seen, now)

    def _gone(self, request: Request) -> bool:
        """Return whether the peer, which lists its addresses, is no more where its traffic goes."""
        peer, remote = self.peer, request.remote
        if peer is None or remote.host == peer.host:
            return remote != peer
        return peer.host not in (request.hosts or ())

    # Other ways

    def unanswered(self, sa: IkeSa, request: Sequence[bytes], now: float) -> None:
        """Take in that a request, of which these are the datagrams, goes unanswered.

        Who steers tries the peer's other addresses with it; the other goes back to the address that
        was proved last, unless it was the peer itself that told of the new one.
        """
        if sa is not self._connection.sa or not sa.mobility.supported or self.peer is None:
            return
        if self._connection.config.initiate and self.own_changed(now):
            return
        if not sa.mobility.steers:
            if self._guess:
                self._point(sa, sa.local, self.peer)
            return
        known = (self.peer.host, *sa.mobility.peer_hosts, self._connection.config.remote_address)
        for host in dict.fromkeys(known):
            own = self._context.local_address(host) if host is not None else None
            if host is not None and own is not None and host != sa.remote.host:
                local, remote = Endpoint(own, sa.local.port), Endpoint(host, NAT_PORT)
                self._context.outbox += [Datagram(data, local, remote) for data in request]

    def response_from(self, sa: IkeSa, local: Endpoint, remote: Endpoint, now: float) -> None:
        """Take in where an authentic response came from: another address that works, perhaps."""
        peer = self.peer
        if sa is not self._connection.sa or not sa.mobility.supported or not sa.mobility.steers:
            return
        if peer is None or remote == sa.remote:
            return
        config = self._connection.config
        if remote.host in (peer.host, config.remote_address, *sa.mobility.peer_hosts):
            self._point(sa, local, remote)
            if remote != peer:
                self._ask(sa, False, now)
