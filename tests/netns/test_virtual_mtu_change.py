"""Wild paths that change under traffic, and servers that heed nobody. Needs root."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from boxes import PATIENCE, wait_for
from crossings import DO, PROBE, Flow, tcp
from stream import stream
from wild import CORP, CORP6, HOME, MOAT_WILD, PC, Wild, inside, wild

# Seconds that a transfer may stand still when its path shrinks, and that a measurement may take.
AWAY, MEASURED = 5.0 * PATIENCE, 30.0
PACE = 3 << 19  # octets a second
OCTETS = 2 << 20
LAN = 1500
OTHER_WILD = "203.0.113.20"

# What makes a server incorrigible: it hears nothing of ICMP.
_DEAF = """
table inet deaf {
    chain arriving {
        type filter hook input priority 0
        icmp type destination-unreachable drop
        icmpv6 type packet-too-big drop
    }
}
"""


@pytest.fixture(params=["auto", "udp"])
def tunnel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wild]:
    with wild(tmp_path, request.param) as made:
        yield made


def _goes_on(flows: list[Flow], seconds: float) -> None:
    """Let flows run for a while; fail unless each of them gets on within the time it may stand."""
    before = [flow.octets for flow in flows]
    time.sleep(seconds)
    for flow, octets in zip(flows, before, strict=True):
        wait_for(lambda f=flow, o=octets: f.octets > o, "more of the transfer", AWAY)


def test_a_path_that_shrinks_during_transfers(tunnel: Wild) -> None:
    tunnel.silence()
    tunnel.settle(MEASURED)
    with ExitStack() as stack:
        stack.enter_context(tunnel.unseen())
        flows = [
            stack.enter_context(tcp(tunnel.pc, tunnel.corp, PC, pace=PACE)),
            stack.enter_context(tcp(tunnel.corp, tunnel.pc, CORP, pace=PACE)),
        ]
        for mtu in (1500, 1280, 576):
            tunnel.narrow(mtu)
            _goes_on(flows, 2.0)
            tunnel.settle(MEASURED)
        tunnel.narrow(1500)
        _goes_on(flows, 2.0)
    for flow in flows:
        print(f"longest stall: {flow.stall:.2f} s of {flow.octets} octets")
        assert flow.stall < AWAY


def test_a_path_that_shrinks_under_single_datagrams(tunnel: Wild) -> None:
    """None of them fills an envelope, and each would be lost."""
    tunnel.silence()
    tunnel.settle(MEASURED)
    with tunnel.unseen(), stream(tunnel.pc, tunnel.corp, CORP, size=1000) as seen:
        time.sleep(2.0)  # until the larger packets before are forgotten
        tunnel.narrow(576)
        away = seen.away_since(time.monotonic(), 4 * AWAY)
    print(f"away for {away:.2f} s")
    assert away < AWAY


def test_another_address_has_another_path(tunnel: Wild) -> None:
    """A path that has grown is found at once by a moat that moves to it."""
    tunnel.silence()
    tunnel.narrow(576)
    tunnel.settle(MEASURED)
    with tunnel.unseen():
        tunnel.narrow(1500)
        tunnel.moat.ip("address", "del", f"{MOAT_WILD}/24", "dev", "wild0")
        tunnel.moat.ip("address", "add", f"{OTHER_WILD}/24", "dev", "wild0")
        tunnel.moat.ip("route", "add", "default", "via", HOME)
        tunnel.settle(MEASURED)
        with tcp(tunnel.corp, tunnel.pc, CORP, OCTETS):
            pass


def test_incorrigible_servers(tunnel: Wild) -> None:
    """They send segments with DF as long as their network takes, whatever anybody says."""
    tunnel.silence()
    tunnel.narrow(576)
    tunnel.settle(MEASURED)
    tunnel.corp.run("nft", _DEAF)
    for discovery, way in ((0, PROBE), (1, PROBE), (1, DO), (3, DO)):
        with inside(tunnel.corp):
            Path("/proc/sys/net/ipv4/tcp_mtu_probing").write_text("0")
            Path("/proc/sys/net/ipv4/ip_no_pmtu_disc").write_text(str(discovery))
        for address, headers in ((CORP, 52), (CORP6, 72)):
            with tunnel.unseen(), tcp(tunnel.corp, tunnel.pc, address, OCTETS, way=way) as flow:
                pass
            assert set(flow.segments) == {LAN - headers}
