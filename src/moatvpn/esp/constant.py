"""When the envelopes of constant rates leave, whether there is anything to carry or not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count, groupby

from moatvpn.counters import Counters
from moatvpn.esp.burst import Burst
from moatvpn.esp.outbound import Outbound
from moatvpn.esp.sad import Pair
from moatvpn.esp.stream import Stream


class ConstantRates:
    """The streams of all CHILD_SAs that have a constant rate: one for each line."""

    def __init__(self, outbound: Outbound, counters: Counters) -> None:
        self._outbound = outbound
        self._counters = counters
        self._new: list[Stream] = []
        # When streams are due; one that has ended is left out when its time comes.
        self._timers: list[tuple[float, int, Stream]] = []
        self._serial = count()

    def use(self, pair: Pair) -> None:
        """Take in that packets leave on pair from now on, in place of another one of its line."""
        if not pair.child.tfc.constant:
            return
        stream = next(
            (
                other.stream
                for other in pair.connection.pairs.values()
                if other.child.line == pair.child.line and other.stream is not None
            ),
            None,
        )
        if stream is None or stream.pair is None:
            stream = Stream(pair.child.tfc, self._counters)
            self._new.append(stream)
        pair.stream = stream
        stream.use(pair)

    def forget(self, pair: Pair) -> None:
        """Take in that a pair is no more: without one after it, its stream ends."""
        stream, pair.stream = pair.stream, None
        if stream is not None and stream.pair is pair:
            stream.end()

    def get_timer(self) -> float | None:
        """Return when due has something: at once is 0; None where there is no such stream."""
        if self._new:
            return 0.0
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> Iterator[Burst]:
        """Yield the envelopes that are due."""
        going, self._new = self._new, []
        for stream in going:
            stream.start(now)
        while self._timers and self._timers[0][0] <= now:
            going.append(heapq.heappop(self._timers)[2])
        for stream in going:
            yield from self._send(stream, now)
            if stream.pair is not None:
                heapq.heappush(self._timers, (stream.at, next(self._serial), stream))

    def _send(self, stream: Stream, now: float) -> Iterator[Burst]:
        pair, number = stream.pair, stream.due(now)
        if pair is None or not number:
            return
        whole = pair.connection.path is not None
        pair.connection.large = True
        plaintexts = (stream.plaintext(pair, now) for _ in range(number))
        for _, alike in groupby(plaintexts, len):
            # No TOS octet but 0: a raw packet's would show.
            yield from self._outbound.sealed(pair, 0, list(alike), whole=whole)
        self._outbound.note(pair, now)
