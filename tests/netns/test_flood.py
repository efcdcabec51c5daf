"""Floods from the wild side against a portal's real daemon, beside an established tunnel.

    moat ---------- 192.0.2.0/24 ----------+
    attacker ------ 203.0.113.0/24 --------+--- portal
    new moat ------ 192.0.3.0/24 ----------+

Forged sources are of 198.18.0.0/16, the way to which is the attacker.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from boxes import Box, Namespace, new_box, run, wait_for
from pair import Pair
from traffic import pings

from moatvpn.ike.gate import DEFAULT_LIMITS

INSIDE = "10.50.0.1"
FLOOD = Path(__file__).with_name("flood.py")
ATTACKER, FORGED = "203.0.113.66", "198.18.0.0/16"
NEW_MOAT = "m2.moats.example.net"
MOST_GROWTH = 2 << 20  # octets, of 200,000 messages: ten each would be too much


@dataclass(frozen=True)
class Flood:
    """One kind of flood: what flood.py is told, and what the portal counts most of it as."""

    kind: str
    source: str
    rate: int
    seconds: float
    reason: str


# The first is the one that the project promises to stand.
FLOODS = {
    "first-requests": Flood("first", ATTACKER, 20_000, 10.0, "ike-rate-limit"),
    "forged-sources": Flood("first", FORGED, 20_000, 3.0, "ike-rate-limit"),
    "false-ike-auth": Flood("auth", ATTACKER, 20_000, 3.0, "ike-not-authentic"),
    # So long that the kernel's queue holds few of them, and of so many payloads that parsing one
    # would take milliseconds.
    "huge-messages": Flood("huge", ATTACKER, 2_000, 3.0, "ike-malformed"),
    "false-esp-in-udp": Flood("esp", ATTACKER, 20_000, 3.0, "esp-unknown-spi"),
}


def wire(namespace: Namespace, portal: Box, device: str, network: str, host: str) -> str:
    """Put a cable between a namespace and the portal; return the portal's address on it."""
    ends = (namespace.namespace, "type", "veth", "peer", "name", device, "netns")
    run("ip", "link", "add", device, "netns", *ends, portal.namespace)
    for box, last in ((namespace, host), (portal, "1")):
        box.ip("address", "add", f"{network}.{last}/24", "dev", device)
        box.ip("link", "set", device, "up", "mtu", "65535")
    return f"{network}.1"


@pytest.fixture(scope="module")
def attacker(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace that is wired to the portal."""
    name = f"{pair.portal.namespace}-a"
    made = Namespace(name, tmp_path_factory.mktemp("attacker") / "a", "attacker")
    try:
        wire(made, pair.portal, "wild1", "203.0.113", "66")
        pair.portal.ip("route", "add", FORGED, "via", ATTACKER)
        for device in ("all", "wild1"):
            pair.portal.run("sysctl", "-q", f"net.ipv4.conf.{device}.rp_filter=0")
        yield made
    finally:
        made.close()


def memory(box: Box) -> int:
    """Return how many octets of memory the box's daemon occupies."""
    assert box.daemon is not None
    status = Path(f"/proc/{box.daemon.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


@contextmanager
def flooding(attacker: Namespace, flood: Flood, seconds: float) -> Iterator[None]:
    """Flood the portal during the block, and wait for the end; fail where it was too slow."""
    words = (flood.kind, flood.source, "203.0.113.1", str(flood.rate), str(seconds))
    pipe = subprocess.PIPE
    program = (sys.executable, str(FLOOD), *words)
    with attacker.popen(*program, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield
            output = process.communicate(timeout=seconds + 30)[0].decode()
        finally:
            process.kill()
    sent, took = output.split()
    rate = int(sent) / float(took)
    print(f"{flood.kind} from {flood.source}: {sent} packets, {rate:.0f} a second")
    assert rate >= 0.95 * flood.rate, f"the flood reached {rate:.0f} packets a second only"


def arrived(portal: Box) -> int:
    """Return how many datagrams have reached sockets of the portal, taken in or not (udp(7))."""
    lines = [line.split() for line in portal.run("cat", "/proc/net/snmp").stdout.splitlines()]
    names, values = (line[1:] for line in lines if line[0] == "Udp:")
    counters = dict(zip(names, map(int, values), strict=True))
    return counters["InDatagrams"] + counters["InErrors"]


@pytest.mark.parametrize("name", FLOODS)
def test_an_established_tunnel_loses_nothing(pair: Pair, attacker: Namespace, name: str) -> None:
    flood, portal = FLOODS[name], pair.portal
    with flooding(attacker, flood, 1.0):
        pass  # fills what is bounded and kept: caches, buckets, half-open IKE SAs
    before, dropped, there = memory(portal), portal.drops(), arrived(portal)
    with (
        pings(pair.moat, INSIDE, round(100 * flood.seconds) + 50) as answers,
        flooding(attacker, flood, flood.seconds),
    ):
        pass
    growth, counted = memory(portal) - before, portal.drops()
    print(f"memory {before >> 10} KiB, {growth >> 10:+} KiB")
    assert answers.received == answers.sent
    assert growth <= MOST_GROWTH
    new = {reason: number - dropped.get(reason, 0) for reason, number in counted.items()}
    print({reason: number for reason, number in new.items() if number})
    # Each packet that reaches our sockets is counted, as what it was or as too much for their
    # queue, but for the few that are answered with a key exchange, and the tunnel's own.
    answered = DEFAULT_LIMITS.without_cookie.a_second * (flood.seconds + 1)
    reached = arrived(portal) - there
    assert reached >= 0.95 * flood.rate * flood.seconds
    assert new.get(flood.reason, 0) > 0
    assert sum(new.values()) >= reached - answered - answers.sent


@pytest.mark.parametrize("name", ["first-requests", "forged-sources"])
def test_a_new_moat_gets_in_during_a_flood(
    pair: Pair, attacker: Namespace, tmp_path: Path, name: str
) -> None:
    portal = pair.portal
    with new_box(tmp_path, "n", NEW_MOAT) as moat:
        address = wire(moat, portal, "wild2", "192.0.3", "10")
        networks = ["10.201.9.0/24"]
        moat.apply("add", {
            **pair.to_portal, "local_selectors": networks, "remote_address": address,
        })  # fmt: skip
        portal.apply("add", {
            **pair.to_moat, "name": "m0009", "remote_identity": NEW_MOAT,
            "remote_public_keys": [moat.public_key], "remote_selectors": networks,
        })  # fmt: skip
        try:
            with flooding(attacker, FLOODS[name], 10.0):
                moat.start()
                up = lambda: portal.connection("m0009")["state"] == "established"  # noqa: E731
                wait_for(up, "the new moat's tunnel", 10)
        finally:
            portal.ctl("delete", "m0009")
