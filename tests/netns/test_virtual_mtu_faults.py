"""Raw packets that are split over envelopes, where envelopes are lost, repeated and reordered."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import Box, wait_for
from crossings import tcp
from lossy_path import LossyPath
from relay import relay
from wild import CORP, PC, Wild, socket_in, wild

MEASURED = 30.0  # seconds
MEMORY = 60 << 10  # kibibytes that a moatd with one tunnel may have at most
OCTETS = 2 << 20
SIZE, HEADERS = 300, 28  # of a datagram


@pytest.fixture(scope="module", params=[("auto", 1500), ("udp", 576)], ids=["auto-1500", "udp-576"])
def tunnel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wild]:
    encapsulation, mtu = request.param
    with wild(tmp_path_factory.mktemp("wild"), encapsulation) as made:
        made.narrow(mtu)
        made.settle(MEASURED)
        yield made


def _memory(box: Box) -> int:
    """Return the most that a box's moatd has ever had in memory, in kibibytes."""
    assert box.daemon is not None
    status = Path(f"/proc/{box.daemon.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize(
    "faults",
    [
        {"doubled": 0.1},
        {"overtaken": 0.05, "depth": 4},
        {"loss": 0.005},
        {"loss": 0.005, "doubled": 0.02, "overtaken": 0.02, "depth": 30},
    ],
    ids=["doubled", "overtaken", "lost", "everything"],
)
def test_transfers_arrive_whole(tunnel: Wild, faults: dict[str, Any]) -> None:
    path = LossyPath[bytes](1, **faults)
    with (
        tunnel.unseen(),
        relay(tunnel, path),
        tcp(tunnel.pc, tunnel.corp, PC, OCTETS),
        tcp(tunnel.corp, tunnel.pc, CORP, OCTETS),
    ):
        pass
    assert (path.lost > 0) is ("loss" in faults)
    assert (path.reordered > 0) is ("overtaken" in faults)
    for box in (tunnel.moat, tunnel.portal):
        assert _memory(box) < MEMORY


def test_a_lost_envelope_costs_what_was_in_it(tunnel: Wild) -> None:
    """Datagrams are few at a time, so that none is lost but those of lost envelopes."""
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    # Whole ones, and one that goes on from the envelope before and one that goes on in the next.
    most = max(tunnel.path_mtu()) // (SIZE + HEADERS) + 2
    path, made_of = LossyPath[bytes](1, loss=0.02), random.Random(1)
    sent: dict[bytes, int] = {}
    with (
        tunnel.unseen(),
        relay(tunnel, path),
        socket_in(tunnel.pc, *kind) as source,
        socket_in(tunnel.corp, *kind) as sink,
    ):
        sink.bind((CORP, 0))
        sink.setblocking(False)
        for number in range(3000):
            data = number.to_bytes(4, "big") + made_of.randbytes(SIZE - 4)
            sent[data] = 0
            source.sendto(data, sink.getsockname())
            if number % 30 == 29:
                _collect(sink, sent)
        wait_for(lambda: _collect(sink, sent) == 0, "silence", 5)
        missing = sum(not times for times in sent.values())
        print(f"{path.lost} of {path.carried} envelopes were lost, and {missing} datagrams")
        assert path.lost > 0
        assert missing <= path.lost * most
    assert max(sent.values()) == 1


def _collect(sink: socket.socket, sent: dict[bytes, int]) -> int:
    """Count what has arrived, which has to be something that was sent; return how many came."""
    came = 0
    while True:
        try:
            sink.settimeout(0.02)
            sent[sink.recv(1 << 16)] += 1
        except TimeoutError:
            return came
        came += 1
