"""Real daemons over a relay that loses and reorders, and what they tell of it.

    moat    wild0 192.0.2.10 --- near0 192.0.2.1  relay  far0 198.51.100.1 --- wild0 .2  portal

The relay is a program of UDP sockets (lossy_relay.py), which knows the truth. Needs root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, Namespace, new_box, run, wait_for
from openmetrics import read_openmetrics

ENVELOPES = 10_000
PACKETS = 13_000  # of 1,200 octets: more envelopes than that, aggregated or not
HERE = Path(__file__).parent
FAR = "198.51.100"

# Sends packets of 1,200 octets, 4,000 a second.
SEND = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic()
for number in range(int(sys.argv[2])):
    sock.sendto(bytes(1172), (sys.argv[1], 9))
    if number % 20 == 19:
        time.sleep(max(0, start + number / 4000 - time.monotonic()))
"""


class LossyWay:
    """A moat and a portal with a tunnel that is up, and the relay between them."""

    def __init__(self, moat: Box, relay: Namespace, portal: Box) -> None:
        self.moat, self.portal, self.namespace = moat, portal, relay
        for box, name, own, side, other in (
            (moat, "near0", f"{MOAT.wild}/24", MOAT, PORTAL),
            (portal, "far0", f"{FAR}.2/24", PORTAL, MOAT),
        ):
            ends = (box.namespace, "type", "veth", "peer", "name", name, "netns")
            run("ip", "link", "add", "wild0", "netns", *ends, relay.namespace)
            box.ip("address", "add", own, "dev", "wild0")
            box.ip("link", "set", "wild0", "up")
            relay.ip("link", "set", name, "up")
            box.ip("address", "add", f"{side.inside}/32", "dev", "lo")
            box.ip("route", "add", other.networks[0], "dev", "moat0", "src", side.inside)
        moat.ip("link", "set", "moat0", "txqueuelen", str(PACKETS))
        relay.ip("address", "add", f"{PORTAL.wild}/24", "dev", "near0")
        relay.ip("address", "add", f"{FAR}.1/24", "dev", "far0")
        words = (str(HERE / "lossy_relay.py"), PORTAL.wild, f"{FAR}.1", f"{FAR}.2")
        support = {**os.environ, "PYTHONPATH": str(HERE.parent / "support")}
        pipe = subprocess.PIPE
        self.relay = relay.popen(sys.executable, *words, stdin=pipe, stdout=pipe, env=support)

    def start(self) -> None:
        """Start both daemons, and wait for the tunnel."""
        common: dict[str, Any] = {"encapsulation": "udp"}
        to_portal = common | {
            "name": "portal1",
            "remote_identity": PORTAL.identity,
            "remote_public_keys": [self.portal.public_key],
            "local_selectors": [MOAT.networks[0]],
            "remote_selectors": [PORTAL.networks[0]],
            "remote_address": PORTAL.wild,
            "initiate": True,
        }
        to_moat = common | {
            "name": "m0001",
            "remote_identity": MOAT.identity,
            "remote_public_keys": [self.moat.public_key],
            "local_selectors": [PORTAL.networks[0]],
            "remote_selectors": [MOAT.networks[0]],
        }
        self.moat.apply("add", to_portal)
        self.portal.apply("add", to_moat)
        self.portal.start()
        self.moat.start()
        wait_for(lambda: self.moat.pings(PORTAL.inside), "a ping through the tunnel", 15)

    def fare(self, **keywords: float) -> dict[str, int]:
        """Make envelopes fare so from now on; return what was done to those before."""
        assert self.relay.stdin is not None
        assert self.relay.stdout is not None
        self.relay.stdin.write(json.dumps(keywords).encode() + b"\n")
        self.relay.stdin.flush()
        done: dict[str, int] = json.loads(self.relay.stdout.readline())
        return done

    def told(self) -> dict[str, Any]:
        """Return what the portal tells of the connection."""
        (row,) = self.portal.ctl("status")["connections"]
        return dict(row)

    def overflows(self) -> int:
        """Return how many envelopes were lost before the relay, or behind it."""
        moat, portal = self.moat.drops(), self.portal.drops()
        return moat.get("out-send-failed", 0) + portal.get("wild-overflow", 0)

    def close(self) -> None:
        """End the relay."""
        self.relay.kill()
        self.relay.wait()


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LossyWay]:
    directory = tmp_path_factory.mktemp("loss")
    with ExitStack() as stack:
        moat = stack.enter_context(new_box(directory, "lm", MOAT.identity))
        portal = stack.enter_context(new_box(directory, "lp", PORTAL.identity))
        relay = Namespace(f"moat-test-{os.getpid()}-lr", directory / "lr", "relay")
        stack.callback(relay.close)
        way = LossyWay(moat, relay, portal)
        stack.callback(way.close)
        way.start()
        yield way


@pytest.mark.parametrize(("loss", "overtaken"), [(0.01, 0.01), (0.05, 0.1)])
def test_the_portal_tells_what_the_relay_did(way: LossyWay, loss: float, overtaken: float) -> None:
    before, overflows = way.told(), way.overflows()
    sent = way.moat.connection("portal1")["packets_out"] + PACKETS
    way.fare(seed=4, loss=loss, overtaken=overtaken, doubled=0.01)
    way.moat.run(sys.executable, "-c", SEND, PORTAL.inside, str(PACKETS))
    wait_for(lambda: way.moat.connection("portal1")["packets_out"] >= sent, "all are sent", 10)
    truth = way.fare(seed=0)

    def new(key: str) -> int:
        return int(way.told()[key] - before[key])

    def arrived() -> bool:
        return new("envelopes_in") >= truth["carried"] - way.overflows() + overflows

    wait_for(arrived, "all that the relay carried", 5)
    assert truth["carried"] + truth["lost"] >= ENVELOPES
    lost = truth["lost"] + way.overflows() - overflows
    assert new("lost_in") == pytest.approx(lost, rel=0.1)
    assert new("reordered_in") == pytest.approx(truth["reordered"], rel=0.1)
    assert new("lost_in") / new("expected_in") == pytest.approx(loss, rel=0.2)


def test_prometheus_can_read_it(way: LossyWay) -> None:
    way.fare(seed=1, doubled=1.0)
    way.moat.pings(PORTAL.inside)
    way.fare(seed=0)
    found = read_openmetrics(way.portal.moatctl("metrics").stdout)
    row, name = way.told(), (("connection", "m0001"),)
    assert found["moatvpn_connection_up"] == ("gauge", {name: 1})
    assert found["moatvpn_connection_envelopes_lost"] == ("gauge", {name: row["lost_in"]})
    assert found["moatvpn_drops"][1][("reason", "esp-replayed"),] > 0
