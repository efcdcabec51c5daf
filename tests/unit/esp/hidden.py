"""A moat that hides its traffic, its portal, and the wild path between them, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from esp_peers import MOAT, PORTAL, Ends, Peer

from moatvpn.esp.burst import Burst
from moatvpn.esp.child import ChildSa
from moatvpn.esp.tfc import NO_TFC, Tfc
from moatvpn.wire.algorithms import CipherSuite

STEP = 0.001  # seconds between two rounds of the loop, at least


class Seen(NamedTuple):
    """One envelope of the moat's on the wild path: what whoever watches it knows."""

    when: float
    octets: int  # of the whole outer packet
    tos: int
    spi: int
    whole: bool


class Path:
    """Both peers and what lies between them. carries is octets of an outer packet.

    back is what the portal hides; agreed are further fields of both ChildSa. seen are the moat's
    envelopes, came the raw packets that the portal got out of them.
    """

    def __init__(
        self,
        tfc: Tfc,
        suite: CipherSuite = CipherSuite.AES_256_GCM,
        back: Tfc = NO_TFC,
        **agreed: Any,
    ) -> None:
        self.now = 1000.0
        self.carries = 1500
        self.udp = True
        self.tfc, self.back = tfc, back
        self.suite = suite
        self.agreed = agreed
        self.seen: list[Seen] = []
        self.came: list[bytes] = []
        self.moat, self.portal = Peer("portal1", PORTAL), Peer("c0001", MOAT)
        self.install(1)

    def install(self, number: int, line: int = 0) -> None:
        """Put the CHILD_SA of that number in use on a line, beside those before it."""
        ends = Ends(number, suite=self.suite)
        portal = replace(self._agreed(ends.portal), tfc=self.back, line=line)
        self.portal.esp.install(portal, MOAT, activate_outbound=True)
        moat = replace(self._agreed(ends.moat), tfc=self.tfc, line=line)
        self.moat.esp.install(moat, PORTAL, activate_outbound=True)

    def _agreed(self, child: ChildSa) -> ChildSa:
        return replace(child, **{"aggfrag": True, "private_blocks": True, **self.agreed})

    def send(self, *packets: bytes, offload: bytes = b"") -> None:
        """Have the moat send raw packets that its TUN device has at one reading."""
        raws = [(memoryview(packet), offload) for packet in packets]
        self._cross(self.moat.esp.encapsulate(raws, self.now), self.portal)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        ends = ((self.moat, self.portal), (self.portal, self.moat))
        while self.now < end:
            timers = [each.esp.get_timer() for each, _ in ends]
            due = min((timer for timer in timers if timer is not None), default=end)
            self.now = min(end, max(due, self.now + STEP))
            for sender, receiver in ends:
                timer = sender.esp.get_timer()
                if timer is not None and timer <= self.now:
                    self._take(sender, sender.esp.late(self.now))
                    self._cross(sender.esp.due(self.now), receiver)

    def _cross(self, bursts: Any, receiver: Peer) -> None:
        headers = 28 if self.udp else 20
        burst: Burst
        for burst in bursts:
            data = bytes(burst.data)
            assert len(data) <= 65_507
            for at in range(0, len(data), burst.size):
                envelope = data[at : at + burst.size]
                octets = len(envelope) + headers
                if receiver is self.portal:
                    spi = int.from_bytes(envelope[:4], "big")
                    self.seen.append(Seen(self.now, octets, burst.tos, spi, burst.whole))
                if octets <= self.carries or not burst.whole:
                    arrival = (memoryview(envelope), len(envelope), receiver.other, burst.tos)
                    self._take(receiver, receiver.esp.decapsulate([arrival], self.now))

    def _take(self, receiver: Peer, arrived: Any) -> None:
        packets = [b"".join(pieces) for each in arrived for pieces, _ in each.packets]
        if receiver is self.portal:
            self.came += packets

    def watch(self) -> None:
        """Forget what has been seen, and has come, so far."""
        self.seen, self.came = [], []

    @property
    def spis(self) -> list[int]:
        """Return the SPIs of the moat's envelopes that have been seen."""
        return sorted({each.spi for each in self.seen})

    @property
    def sizes(self) -> set[int]:
        """Return the lengths of outer packets that have been seen."""
        return {each.octets for each in self.seen}


def per_second(seen: Sequence[Seen], start: float, seconds: int) -> list[int]:
    """Return how many envelopes were seen in each second from start on."""
    return [
        sum(start + number < each.when <= start + number + 1 for each in seen)
        for number in range(seconds)
    ]
