"""A kid-net that sends and gets what it can leaves the tunnel its share of a narrow wild side.

kid 192.168.77.10 --- kid0 |moat| wild0 192.0.2.10 ===20 Mbit/s=== wild0 192.0.2.1 |portal|
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, Box, Namespace, new_box, run
from pair import Pair
from traffic import PORT, transfer

from moatvpn.lockdown.homes import moat_box
from moatvpn.lockdown.ruleset import ruleset

WILD_RATE, KID_RATE = 20_000, 5_000  # kbit/s
KID, KID_MOAT = "192.168.77.10", "192.168.77.1"
OCTETS = 2 << 20  # of a download
# Sends twice what the wild side carries, without waiting for anybody.
_FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
due = time.monotonic()
while True:
    for _ in range(50):
        sock.sendto(bytes(972), (sys.argv[1], 9))
    due += 0.01
    time.sleep(max(0, due - time.monotonic()))
"""


@contextmanager
def kid_of(moat: Box, directory: Path) -> Iterator[Namespace]:
    """A kid-net at a moat, with one machine on it, under the ruleset of such a home."""
    kid = Namespace(f"{moat.namespace}-kid", directory / "kid", "kid")
    try:
        ends = (moat.namespace, "type", "veth", "peer", "name", "kid0", "netns")
        run("ip", "link", "add", "kid0", "netns", *ends, kid.namespace)
        for box, address in ((moat, KID_MOAT), (kid, KID)):
            box.ip("address", "add", f"{address}/24", "dev", "kid0")
            box.ip("link", "set", "kid0", "up")
        kid.ip("route", "add", "default", "via", KID_MOAT)
        moat.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        box = moat_box(
            {
                "wild_interface": "wild0",
                "private_interface": "home0",
                "private_subnet": MOAT.networks[0],
                "kid": {"interface": "kid0", "subnet": "192.168.77.0/24", "rate": KID_RATE},
                # The test's own client is on the box itself.
                "outgoing": [
                    {"name": "test", "protocol": "tcp", "port": int(PORT), "zones": ["tunnel"]}
                ],
            },
            "test",
        )
        rules = directory / "lockdown.nft"
        rules.write_text(ruleset(box))
        moat.run("nft", "-f", str(rules))
        yield kid
    finally:
        kid.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Namespace]]:
    directory = tmp_path_factory.mktemp("share")
    with (
        new_box(directory, "m", MOAT.identity) as moat,
        new_box(directory, "p", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, "auto")
        pair.start()
        with kid_of(moat, directory) as kid:
            for box in (moat, portal):
                shape = ("tbf", "rate", f"{WILD_RATE}kbit", "burst", "32k", "latency", "100ms")
                box.run("tc", "qdisc", "add", "dev", "wild0", "root", *shape)
            yield pair, kid


def wild_octets(portal: Box) -> int:
    """Return how many octets the portal has got from the wild side outside of the tunnel."""
    listed = portal.run("nft", "list", "counter", "inet", "test", "kid").stdout
    found = re.search(r"bytes (\d+)", listed)
    assert found is not None
    return int(found[1])


def test_a_flood_of_the_kids_leaves_the_tunnel_its_share(home: tuple[Pair, Namespace]) -> None:
    pair, kid = home
    pair.portal.run(
        "nft",
        "table inet test { counter kid {}; chain input { type filter hook input priority 0;"
        " iifname wild0 udp dport 9 counter name kid drop; }; }",
    )
    with transfer(pair.moat, pair.portal, PORTAL.inside, 2) as alone:
        pass
    with kid.popen(sys.executable, "-c", _FLOOD, PORTAL.wild) as flood:
        try:
            with transfer(pair.moat, pair.portal, PORTAL.inside, 2) as result:
                pass
            seen = wild_octets(pair.portal)
        finally:
            flood.kill()
    print(f"{result.megabits_a_second:.1f} Mbit/s beside, {alone.megabits_a_second:.1f} alone")
    # A transfer is noisy on a busy machine; without a bound the flood leaves it next to nothing.
    share = 1 - KID_RATE / WILD_RATE
    assert result.megabits_a_second > 0.6 * share * alone.megabits_a_second
    # The kid-net had its own, for as long as the flood lasted, and no more.
    assert 0.5 * KID_RATE * 125 * result.seconds < seen
    assert seen < KID_RATE * 125 * (result.seconds + 2)


def test_the_kids_downloads_come_at_their_own_rate(home: tuple[Pair, Namespace]) -> None:
    """TCP fills a bounded rate well enough, and the bound holds."""
    pair, kid = home
    serve = (
        "import socket\n"
        "with socket.create_server(('192.0.2.1', 8080)) as listener:\n"
        "    print('ready', flush=True)\n"
        "    sock, _ = listener.accept()\n"
        "    with sock:\n"
        f"        sock.sendall(bytes({OCTETS}))\n"
    )
    get = (
        "import socket, time\n"
        "start, total = time.monotonic(), 0\n"
        "with socket.create_connection(('192.0.2.1', 8080)) as sock:\n"
        "    while data := sock.recv(1 << 16):\n"
        "        total += len(data)\n"
        f"assert total == {OCTETS}\n"
        "print(time.monotonic() - start)\n"
    )
    with pair.portal.popen(sys.executable, "-c", serve, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            seconds = float(kid.run(sys.executable, "-c", get).stdout)
        finally:
            server.kill()
    print(f"download: {seconds:.1f} s")
    # The bucket may have been full, which is one second's worth.
    paced = OCTETS * 8 / KID_RATE / 1000
    assert paced - 1.2 < seconds < 2.5 * paced
