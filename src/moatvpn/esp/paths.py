"""When each connection's path MTU is to be probed, and its answers (esp.path_mtu decides what)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from moatvpn.esp.burst import Burst
from moatvpn.esp.outbound import Outbound
from moatvpn.esp.path_mtu import BASE, PathMtu
from moatvpn.esp.sad import Connection, Pair

_MOST_ANSWERS = 64  # to one peer's probes at a time
LARGEST = 1500  # octets that are asked for, where settings do not say how long envelopes are to be


class Paths:
    """The paths of all connections whose peers answer probes. connections is shared, by name."""

    def __init__(self, connections: dict[str, Connection], outbound: Outbound) -> None:
        self._connections = connections
        self._outbound = outbound
        self._changed: dict[str, Connection] = {}
        self._to_answer: list[Connection] = []
        # When paths want to be asked for probes, and the time of each that is on that heap.
        self._timers: list[tuple[float, str]] = []
        self._watched: dict[str, float] = {}
        self._started = 0

    def changed(self, connection: Connection) -> None:
        """Measure a connection's path anew: it is new, or leads elsewhere."""
        self._changed[connection.name] = connection

    def asked(self, pair: Pair, identifier: int) -> None:
        """Answer a probe of a pair's peer, unless too many wait for that."""
        connection = pair.connection
        if len(connection.answers) < _MOST_ANSWERS:
            connection.answers.append(identifier)
            self._to_answer.append(connection)

    def answered(self, pair: Pair, identifier: int, now: float) -> None:
        """Take in the answer to a probe of ours."""
        connection = pair.connection
        if connection.path is not None:
            connection.path.answered(identifier, now)
            self._watch(connection, connection.path)

    def sent(self, names: list[str], now: float) -> None:
        """Take in that these connections have sent, some of them more than any path carries."""
        for name in names:
            connection = self._connections.get(name)
            if connection is not None and connection.large and connection.path is not None:
                connection.large = False
                connection.path.sent_full(now)
                self._watch(connection, connection.path)

    def forget(self, name: str) -> None:
        """Forget a connection."""
        self._changed.pop(name, None)
        self._watched.pop(name, None)

    def get_timer(self) -> float | None:
        """Return when due has something: at once is 0; None where that is not known."""
        if self._changed or self._to_answer:
            return 0.0
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> Iterator[Burst]:
        """Yield the probes that are due, and the answers to the peers'."""
        waiting, self._to_answer = self._to_answer, []
        for connection in waiting:
            yield from self._outbound.answer(connection)
        changed, self._changed = self._changed, {}
        for connection in changed.values():
            yield from self._start(connection, now)
        while self._timers and self._timers[0][0] <= now:
            when, name = heapq.heappop(self._timers)
            known = self._connections.get(name)
            if self._watched.get(name) != when or known is None or known.path is None:
                continue  # an earlier time has come in place of this one
            del self._watched[name]
            yield from self._probe(known, known.path, now)

    def _start(self, connection: Connection, now: float) -> Iterator[Burst]:
        leader = connection.leader()
        largest = LARGEST if leader is None else leader.child.tfc.octets or LARGEST
        able = leader is not None and leader.child.private_blocks and leader.child.key_out
        if not able or largest <= BASE:
            connection.path = None
            return
        if connection.path is None:
            self._started += 1
            connection.path = PathMtu(now, largest=largest, seed=self._started)
        else:
            connection.path.path_changed(now)
        yield from self._probe(connection, connection.path, now)

    def _probe(self, connection: Connection, path: PathMtu, now: float) -> Iterator[Burst]:
        for identifier, octets in path.probes(now):
            yield from self._outbound.probe(connection, identifier, octets)
        self._watch(connection, path)

    def _watch(self, connection: Connection, path: PathMtu) -> None:
        """Ask a path for its probes at the time that it says now, unless that is settled."""
        timer = path.get_timer()
        name = connection.name
        if timer is None:
            self._watched.pop(name, None)
        elif timer != self._watched.get(name):
            self._watched[name] = timer
            heapq.heappush(self._timers, (timer, name))
