"""A path in virtual time, with a PathMtu at one end and a peer that answers its probes."""

from __future__ import annotations

import heapq
import math
import random

from moatvpn.esp.path_mtu import PathMtu

TRAFFIC = 0.25  # seconds between two words of full envelopes, while there is traffic


class SimulatedPath:
    """Carries whole packets up to mtu octets, answers them, and loses them by chance.

    loss is that of each way, delay the round-trip time, of which up to jitter more makes packets
    overtake each other; twice is how often answers are doubled. sizes records (when, size) of each
    change, probes (when, size) of each probe.
    """

    def __init__(self, mtu, *, rtt=0.02, jitter=0.0, loss=0.0, twice=0.0, largest=1500, seed=1):
        self.mtu, self.rtt, self.jitter, self.loss, self.twice = mtu, rtt, jitter, loss, twice
        self.random = random.Random(seed)
        self.now = 0.0
        self.traffic = False
        self.path = PathMtu(self.now, largest=largest, seed=seed)
        self.answers: list[tuple[float, int]] = []
        self.sizes = [(0.0, self.path.size)]
        self.probes: list[tuple[float, int]] = []
        self.longest_search = 0
        self._begun = 0
        self._send()

    @property
    def size(self):
        return self.path.size

    def run(self, seconds, until=lambda: False):
        """Let seconds pass, or less where until becomes true; return when that was."""
        end = self.now + seconds
        while not until():
            timer = self.path.get_timer()
            next_word = (math.floor(self.now / TRAFFIC) + 1) * TRAFFIC if self.traffic else math.inf
            arrival = self.answers[0][0] if self.answers else math.inf
            then = min(math.inf if timer is None else timer, next_word, arrival)
            if then > end:
                self.now = end
                break
            self.now = max(self.now, then)
            if then == arrival:
                self.path.answered(heapq.heappop(self.answers)[1], self.now)
            if then == next_word:
                self.path.sent_full(self.now)
            self._send()
        return self.now

    def search(self):
        """Let the search that is under way come to its end; return how long that took."""
        begun = self.now
        return self.run(60, until=lambda: self.path.get_timer() is None) - begun

    def settle(self, mtu, seconds):
        """Return how long it takes, from now on, until size fits mtu to a grain for good."""
        begun = self.now
        self.run(seconds)
        assert self.size == mtu // 4 * 4
        return max(self.sizes[-1][0] - begun, 0.0)

    def _send(self):
        for identifier, size in self.path.probes(self.now):
            self.probes.append((self.now, size))
            if size > self.mtu or self._lost() or self._lost():
                continue
            for _ in range(1 + (self.random.random() < self.twice)):
                delay = self.rtt + self.random.random() * self.jitter
                heapq.heappush(self.answers, (self.now + delay, identifier))
        assert self.path.probes(self.now) == []
        if self.path.size != self.sizes[-1][1]:
            self.sizes.append((self.now, self.path.size))

    def _lost(self):
        return self.random.random() < self.loss
