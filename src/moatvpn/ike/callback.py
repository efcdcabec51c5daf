"""A portal that has restarted calls its moats where they last were.

portal                                                    moat
HDR, SAi1, KEi, Ni, N(NAT…)  ------------>                has no IKE SA, or one that is dead
                              <------------  HDR, SAr1, KEr, Nr, N(NAT…)
HDR, SK{IDi, CERT, …}         ------------>
                              <------------  HDR, SK{IDr, CERT, …}

The moats call, too, as soon as they notice. Where both calls of one connection cross, one survives
on both sides: the moat's own, once its IKE_AUTH has left, because the portal may have taken it;
before that the portal's, because the moat's own can still be dropped without anybody else knowing.
So a portal takes whatever its moat calls with, and a moat turns its portal away for a while
(TEMPORARY_FAILURE) where its own call has got that far. See settle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moatvpn.counters import DropReason
from moatvpn.ike.refusal import RefusalError
from moatvpn.ike.state import State
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT, Endpoint
from moatvpn.wire.ike_payloads import Notify, NotifyType

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.context import Context
    from moatvpn.ike.ike_sa import IkeSa
    from moatvpn.ike.scheduler import Deadline

MOST_CALLING = 64  # calls of ours under way at once
CALL_EVERY = 0.01  # seconds from one call to the next, so that traffic and moats have their share
CALL_SECONDS = 3.5  # an IKE_SA_INIT of ours, sent three times, gives way to the next one then
MOST_CALLS = 4  # of one connection; after that it is up to the moat alone
CALL_AGAIN = 10.0  # seconds to the second call, twice that to the third and so on


class Callers:
    """The addresses from which peers may call us whom we call ourselves, by connection.

    Whoever is at none of them is not worth an answer from a box that waits for nobody (an address
    proves nothing: IKE_AUTH does that).
    """

    def __init__(self) -> None:
        self._hosts: Counter[str] = Counter()
        self._of: dict[str, frozenset[str]] = {}

    def expect(self, connection: str, hosts: Iterable[str]) -> None:
        """Let the peer of a connection call from hosts, and from nowhere else."""
        new = frozenset(hosts)
        old = self._of.pop(connection, frozenset())
        if new:
            self._of[connection] = new
        self._hosts.update(new - old)
        for host in old - new:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def known(self, host: str) -> bool:
        """Return whether any connection's peer may call from host."""
        return host in self._hosts

    def may_call(self, connection: str, host: str) -> bool:
        """Return whether the peer of that connection may call from host."""
        return host in self._of.get(connection, ())


@dataclass(slots=True)
class _Target:
    """Where the peer of a connection was last, and how often we have called it there."""

    peer: Endpoint
    calls: int = 0


class Callbacks:
    """Calls remembered peers, in random order, a bounded number of them at once.

    A connection leaves it when it is up, whoever called, or when it is removed.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._targets: dict[str, _Target] = {}
        self._waiting: list[str] = []  # may name some that have left meanwhile
        self._calling: set[str] = set()
        self._next: Deadline | None = None

    def remember(self, connection: str, peer: Endpoint, now: float) -> None:
        """Call the peer of a connection at the address that it authenticated from last."""
        if connection not in self._targets:
            self._waiting.append(connection)
        self._targets[connection] = _Target(peer)
        self._plan(now)

    def left(self, connection: str, now: float) -> None:
        """Take in that a connection is up, or is no more."""
        if self._targets.pop(connection, None) is not None:
            self._calling.discard(connection)
            self._plan(now)

    def failed(self, connection: str, now: float) -> None:
        """Take in that a call came to nothing; try again later, a few times."""
        self._calling.discard(connection)
        self._plan(now)
        target = self._targets.get(connection)
        if target is None:
            return
        if target.calls >= MOST_CALLS:
            del self._targets[connection]
            self._context.notice(connection, "info", f"nobody answers at {target.peer}")
            return
        wait = CALL_AGAIN * 2.0 ** (target.calls - 1) * (0.75 + 0.5 * self._context.fraction())
        self._context.scheduler.at(now + wait, lambda at: self._again(connection, at))

    def _again(self, connection: str, now: float) -> None:
        if connection in self._targets:
            self._waiting.append(connection)
            self._plan(now)

    def _plan(self, now: float) -> None:
        if self._next is None and self._waiting and len(self._calling) < MOST_CALLING:
            wait = CALL_EVERY * (0.5 + self._context.fraction())
            self._next = self._context.scheduler.at(now + wait, self._call)

    def _call(self, now: float) -> None:
        self._next = None
        name = self._pick()
        connection = self._context.connections.get(name) if name is not None else None
        if name is not None and connection is not None:
            target = self._targets[name]
            target.calls += 1
            self._calling.add(name)
            sa = call(connection, target.peer, now)
            if sa is None:
                self.failed(name, now)
            else:
                self._context.scheduler.at(
                    now + CALL_SECONDS, lambda at: give_up(connection, sa, at)
                )
        self._plan(now)

    def _pick(self) -> str | None:
        waiting = self._waiting
        while waiting:
            index = int(self._context.fraction() * len(waiting))
            waiting[index], waiting[-1] = waiting[-1], waiting[index]
            name = waiting.pop()
            if name in self._targets:
                return name
        return None


def call(connection: Connection, peer: Endpoint, now: float) -> IkeSa | None:
    """Start an IKE SA with the peer of a connection at peer; None where there is no way now.

    A NAT in front of the peer lets in only what comes from the port that the peer has sent to.
    """
    port = IKE_PORT if peer.port == IKE_PORT else NAT_PORT
    return connection.attempt_at(peer, port, now)


def give_up(connection: Connection, sa: IkeSa, now: float) -> None:
    """End a call that nobody has answered. One whose IKE_AUTH has left has its full time."""
    if sa.state is State.INIT_SENT:
        connection.sa_failed(sa, "no answer to our call", now)


def settle(connection: Connection, sa: IkeSa) -> None:
    """Raise RefusalError where the call that made sa has to give way to our own.

    That is where our own IKE_AUTH has left, or has been answered since the peer's call came in:
    the peer has taken our call, or is about to, and has dropped its own.
    """
    if not connection.config.initiate:
        return
    ours, attempt = connection.sa, connection.attempt
    calling = attempt is not None and attempt[0].state is State.AUTH_SENT
    answered = ours is not None and ours.initiator and ours.established_at >= sa.began_at
    if calling or answered:
        later = Notify(NotifyType.TEMPORARY_FAILURE)
        raise RefusalError(DropReason.IKE_CROSSED_CALL, later, "our own call goes on instead")
