"""A tunnel over a path that loses, overtakes and doubles envelopes; the portal tells how many.

moat                          path                           portal
ESP 1, 2, 3, 4, ...  ------>  1, 3, 2, 2, 5, ...  ------>    4 lost, 2 reordered, 1 repeated
                     <------  the same            <------    ESP 1, 2, 3, 4, ...
"""

from __future__ import annotations

from typing import Any

import pytest
from lossy_path import LossyPath
from memory_lab import BACK, MOAT_WILD, OUT, Lab

from moatvpn.drivers.memory import WildPacket

SENT = 10_000


def no_log(*_: object) -> None:
    """Say nothing."""


@pytest.mark.parametrize("loss", [0, 0.001, 0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("overtaken", "to_portal"), [(0, True), (0.01, False), (0.1, True), (0.1, False)]
)
def test_the_estimate_is_within_a_tenth_of_the_truth(
    loss: float, overtaken: float, to_portal: bool
) -> None:
    seed = (loss, overtaken, to_portal)
    path = LossyPath[WildPacket](seed, loss=loss, overtaken=overtaken, doubled=0.01)
    lab = Lab("udp", no_log)
    lab.run(1.0)
    assert lab.carries()
    sender, receiver, raw, name = (
        (lab.moat, lab.portal, OUT, "m0001")
        if to_portal
        else (lab.portal, lab.moat, BACK, "portal1")
    )
    before = receiver.engine.show(name, lab.now)

    def carry(packet: WildPacket) -> Any:
        way_there = (packet.source.host == MOAT_WILD) == to_portal
        return path(packet) if way_there and not packet.ike else (packet,)

    lab.network.path = carry
    receiver.tun.delivered.clear()
    for _ in range(SENT):
        sender.tun.waiting.append(raw)
        sender.turn()
        receiver.turn()
    for packet in path.flush():
        receiver.host.arrive(packet)
    receiver.turn()
    row = receiver.engine.show(name, lab.now)
    sent = path.carried + path.lost
    assert sent >= SENT
    assert row["lost_in"] == pytest.approx(path.lost, rel=0.1, abs=0.5)
    assert row["loss_in"] == pytest.approx(path.lost / sent, rel=0.1, abs=0.5 / sent)
    assert row["reordered_in"] == path.reordered
    assert row["envelopes_in"] - before["envelopes_in"] == path.carried
    assert row["late_in"] == row["skipped_in"] == 0
    # What came twice was refused, and is no loss.
    assert receiver.counters.snapshot()["esp-replayed"] > 0
