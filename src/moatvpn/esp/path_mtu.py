"""What the path to the peer carries, measured by authenticated probes alone (RFC 8899).

No ICMP has any part in it. A search sends probes of several sizes at once, round by round. What is
answered is carried; what goes unanswered in MAX_PROBES probes, in rounds of which something else
was answered, is too large. A round that nothing is answered of says nothing about sizes: then the
peer is gone, or the path carries nothing at all.

Nothing is sent, and no timer runs, but for a search, and a search begins with a new path or with
traffic. Where RFC 8899 is read freely:

- The probes of a round go out together, some ten packets, which is what TCP begins with, too
  (RFC 6928). One a round trip (section 3, 7) would take many round trips, each of them slow.
- A probe is waited for by the round-trip time as measured, not for a second or more
  (PROBE_TIMER, 5.1.1): with its control beside it, a probe that is only late decides nothing.
- BASE is 576 octets (5.1.2: 1200). It is what traffic goes out with until the first answer, one
  round trip later: a size too small costs a few envelopes more, one too large costs the packets.
"""

from __future__ import annotations

BASE = 576  # octets; every path is taken to carry this (RFC 1122, 3.3.2)
GRAIN = 4  # octets; envelopes are padded to a multiple of this (RFC 4303, 2.4)
# Octets, each a multiple of GRAIN: Ethernet with large frames and without, PPPoE, IP in IP, clouds,
# WireGuard, mobile and satellite lines, what IPv6 asks for, ...
USUAL = (9000, 1500, 1492, 1480, 1460, 1420, 1400, 1280, 1124, BASE)
MAX_PROBES = 3  # unanswered ones of a size that make it too large (RFC 8899, 5.1.2)

# Between confirmations of the size in use, while there is traffic. A TCP transfer that a smaller
# path brings to a stop tries again after 0.2, 0.6, 1.4 and 3 s: so it goes on at the third.
CONFIRM_SECONDS = 0.5
RAISE_SECONDS = 600.0  # until more is asked for again (PMTU_RAISE_TIMER, 5.1.1) ...
DOUBT_SECONDS = 60.0  # ... and where size is new: by loss it may be too small, or not for long

_FIRST_WAIT = 1.0  # seconds for an answer, as long as the round-trip time is unknown
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 2.0
_NEW_SIZES = 4  # sizes between two known ones that a round asks for
_RETRIES = 3  # sizes that a round asks for again, the smallest first
_SILENT_ROUNDS = 3  # after which a search gives up
_MOST_ROUNDS = 24  # of one search, whatever the path does
_IDENTIFIERS = 1 << 32


class _Search:
    """One search: what it knows of sizes up to top, and what it is waiting for.

    low is the largest size answered, 0 for none; high the smallest that is too large. tries counts
    unanswered probes by size. planned is the round to send next; round, sent at since, the one that
    is waited for, where planned is empty. sent holds size and time of each unanswered probe; heard:
    one was answered since the round was sent. before is the size in use when the search began.
    """

    __slots__ = (
        "before", "heard", "high", "low", "planned", "round", "rounds", "sent", "since", "top",
        "tries",
    )  # fmt: skip

    def __init__(self, now: float, planned: list[int], top: int, before: int) -> None:
        self.since = now
        self.planned = planned
        self.round = planned
        self.rounds = 0
        self.top = top
        self.low, self.high = 0, top + GRAIN
        self.tries: dict[int, int] = {}
        self.sent: dict[int, tuple[int, float]] = {}
        self.heard = False
        self.before = before


class PathMtu:
    """Measures what one path carries, in one direction.

    size is how many octets of whole outer IP packet it carries, a multiple of GRAIN: BASE until the
    first answer. measured: there has been an answer on this path. largest is the most that is worth
    asking for, the wild interface's MTU; seed makes the jitter. Identifiers are of 32 bits.
    """

    __slots__ = (
        "_confirm_at", "_identifier", "_largest", "_raise_at", "_rtt", "_search", "_seed",
        "_silent", "measured", "size",
    )  # fmt: skip

    def __init__(self, now: float, *, largest: int = 1500, seed: int = 0) -> None:
        self._largest = max(BASE, largest - largest % GRAIN)
        self._seed = seed
        self._identifier = 0
        self.path_changed(now)

    def path_changed(self, now: float) -> None:
        """Measure anew: there is another path. Answers to probes on the old one count no more."""
        self.size = BASE
        self.measured = False
        self._rtt = 0.0  # seconds: the last one, or what is left of a longer one
        self._silent = 0  # rounds in a row that nothing was answered of
        self._confirm_at = self._raise_at = now
        usual = [size for size in USUAL if size < self._largest]
        self._search: _Search | None = _Search(now, [self._largest, *usual], self._largest, BASE)

    def get_timer(self) -> float | None:
        """Return when probes wants to be called, None as long as there is nothing to wait for."""
        search = self._search
        if search is None:
            return None
        return search.since if search.planned else search.since + self._wait()

    def probes(self, now: float) -> list[tuple[int, int]]:
        """Return the probes to send now: (identifier, octets of the whole outer IP packet).

        A probe is sent in one piece (DF) or not at all. Where padding to a block's length leaves no
        envelope of just that size, the next smaller one stands for it, as it will for size.
        """
        timer = self.get_timer()
        search = self._search
        if search is None or timer is None or now < timer:
            return []
        if not search.planned:
            self._conclude(search, now)
            if self._search is None:
                return []
        search.round, search.planned = search.planned, []
        search.since = now
        first = self._identifier
        self._identifier += len(search.round)
        probes = [((first + n) % _IDENTIFIERS, size) for n, size in enumerate(search.round)]
        search.sent.update((identifier, (size, now)) for identifier, size in probes)
        return probes

    def answered(self, identifier: int, now: float) -> None:
        """Take the peer's authenticated answer to a probe; one we do not wait for means nothing.

        An answer that comes after its round still counts, as long as the search goes on, and takes
        back what has been concluded from its lack.
        """
        search = self._search
        sent = search.sent.pop(identifier, None) if search is not None else None
        if search is None or sent is None:
            return
        size, then = sent
        self._rtt = max(now - then, (self._rtt + now - then) / 2)
        self._silent = 0
        self.measured = search.heard = True
        self.size = max(self.size, size)
        search.low = max(search.low, size)
        if search.high - search.low <= GRAIN:
            self._finish(search, now)
        elif not search.planned and search.low >= max(search.round):
            self._conclude(search, now)

    def sent_full(self, now: float) -> None:
        """Take notice of traffic that a smaller path would lose: envelopes of more than BASE.

        Then, and only then, size is confirmed every CONFIRM_SECONDS (RFC 8899, 4.3), and more
        is asked for when it is time. Called at most a few times a second.
        """
        if self._search is not None or now < self._confirm_at:
            return
        top = self._largest if now >= self._raise_at else self.size
        if top > BASE:
            self._search = _Search(now, [self.size], top, self.size)
            self._confirm_at = now + CONFIRM_SECONDS

    def _wait(self) -> float:
        """Return for how many seconds to wait for a round: longer, the longer nothing comes."""
        wait = max(_SHORTEST_WAIT, 1.25 * self._rtt) if self.measured else _FIRST_WAIT
        return min(wait * (1 << min(max(self._silent - 1, 0), 8)), _LONGEST_WAIT)

    def _conclude(self, search: _Search, now: float) -> None:
        """End a round: judge what it has not got an answer to, and plan the next."""
        if search.heard:
            for size in search.round:
                if size > search.low:
                    tries = search.tries[size] = search.tries.get(size, 0) + 1
                    if tries >= MAX_PROBES:
                        search.high = min(search.high, size)
            search.tries = {
                size: tries for size, tries in search.tries.items()
                if search.low < size < search.high
            }  # fmt: skip
            if search.high <= self.size:  # a black hole (RFC 8899, 4.3)
                self.size = search.low
        else:
            self._silent += 1
            search.low = 0  # what was carried before the silence may be so no more
        search.heard = False
        search.rounds += 1
        over = search.rounds == _MOST_ROUNDS or (self._silent and not self._silent % _SILENT_ROUNDS)
        if over or 0 < search.low >= search.high - GRAIN:
            self._finish(search, now)
        else:
            search.planned = self._plan(search)
            search.since = now

    def _plan(self, search: _Search) -> list[int]:
        """Return the sizes of the next round, large ones first, so that none is overtaken.

        Each round has a probe that should be answered as its control. The size in use is asked for
        twice where it is in doubt: to take it for too large by mere loss is what must be rare.
        """
        doubted = [self.size] if self.size > search.low else []
        if not search.low:
            return [*doubted, BASE, BASE, *doubted] if self.size > BASE else [BASE, BASE]
        again = sorted(search.tries)[:_RETRIES]
        fence = min(again, default=search.high)
        new = [size for size in USUAL if search.low < size < fence]
        sizes = {*again, *(new or _between(search.low, fence))}.difference(doubted)
        return [*doubted, *sorted(sizes, reverse=True), search.low, *doubted]

    def _finish(self, search: _Search, now: float) -> None:
        """End the search. One that ended in silence has learnt nothing, and is made again."""
        self._search = None
        if search.low and (self.size != search.before or search.top == self._largest):
            # Jitter (the generator is Numerical Recipes'), so that tunnels don't keep step.
            self._seed = (self._seed * 1664525 + 1013904223) & 0xFFFFFFFF
            wait = RAISE_SECONDS if self.size == search.before else DOUBT_SECONDS
            self._raise_at = now + wait * (0.75 + 0.5 * self._seed / (1 << 32))


def _between(low: int, high: int) -> list[int]:
    """Return up to _NEW_SIZES multiples of GRAIN between low and high, evenly spread."""
    steps = (high - low) // GRAIN
    count = min(_NEW_SIZES, steps - 1)
    return [low + GRAIN * ((n + 1) * steps // (count + 1)) for n in range(count)]
