"""How long traffic is away when a moat roams or a router's NAT changes, with real daemons.

    moat    wild0 10.0.0.10 --- home0 10.0.0.1  router  wild0 192.0.2.50 --- wild0 192.0.2.1 portal

The router routes, or masquerades UDP, drops ESP, and lets nothing in that was not asked for, as
home routers do. Needs root.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from boxes import MOAT, PATIENCE, PORTAL, Box, Namespace, Side, new_box, run, wait_for
from stream import stream

# Seconds that traffic may be away, by whether the moat notices.
TOLD, UNTOLD = 2.0 * PATIENCE, 10.0 * PATIENCE
HOME, OTHER_HOME = "10.0.0.10", "10.0.0.20"
OUTSIDE, OTHER_OUTSIDE = "192.0.2.50", "192.0.2.60"

MASQUERADE = """
table ip home {
    chain out {
        type nat hook postrouting priority srcnat
        oifname wild0 meta l4proto udp masquerade to :20000-29999 random
    }
    chain forward {
        type filter hook forward priority filter
        meta l4proto esp drop
        iifname wild0 ct state new drop
        # A keepalive is one octet behind the header of UDP (RFC 3948, 2.3).
        udp dport 4500 udp length 9 counter name keepalives
    }
    counter keepalives {}
}
"""

# Deletes every entry of the connection tracking: a ctnetlink message without any attribute.
FORGET = """
import socket, struct
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 0, 0, 0))
error = struct.unpack_from("=i", sock.recv(1024), 16)[0]
raise SystemExit(1 if error else 0)
"""


class Home:
    """A moat behind a router, which may masquerade, and a portal; both with a tunnel that is up."""

    def __init__(self, moat: Box, router: Namespace, portal: Box) -> None:
        self.moat, self.router, self.portal = moat, router, portal
        self._link(moat, "wild0", "home0")
        self._link(portal, "wild0", "wild0")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        router.ip("address", "add", "10.0.0.1/24", "dev", "home0")
        router.ip("address", "add", f"{OUTSIDE}/24", "dev", "wild0")
        portal.ip("address", "add", f"{PORTAL.wild}/24", "dev", "wild0")
        portal.ip("route", "add", "10.0.0.0/24", "via", OUTSIDE)
        for box, side, other in ((moat, MOAT, PORTAL), (portal, PORTAL, MOAT)):
            box.ip("address", "add", f"{side.inside}/32", "dev", "lo")
            box.ip("route", "add", other.networks[0], "dev", "moat0", "src", side.inside)
        self.live_at(HOME)
        self.to_portal = self._connection(MOAT, PORTAL, portal.public_key)
        self.to_moat = self._connection(PORTAL, MOAT, moat.public_key)
        moat.apply("add", self.to_portal)
        portal.apply("add", self.to_moat)
        portal.start()
        moat.start()
        self.wait_until_up()

    def _link(self, box: Box, name: str, at_router: str) -> None:
        ends = (box.namespace, "type", "veth", "peer", "name", at_router, "netns")
        run("ip", "link", "add", name, "netns", *ends, self.router.namespace)
        box.ip("link", "set", name, "up")
        self.router.ip("link", "set", at_router, "up")

    @staticmethod
    def _connection(own: Side, peer: Side, key: str) -> dict[str, object]:
        record: dict[str, object] = {
            "name": "net",
            "remote_identity": peer.identity,
            "remote_public_keys": [key],
            "local_selectors": [own.networks[0]],
            "remote_selectors": [peer.networks[0]],
        }
        return record | ({"initiate": True, "remote_address": peer.wild} if own is MOAT else {})

    def live_at(self, address: str) -> None:
        """Give the moat another address, and no other way out than by its router."""
        self.moat.ip("address", "flush", "dev", "wild0")
        self.moat.ip("address", "add", f"{address}/24", "dev", "wild0")
        self.moat.ip("route", "replace", "default", "via", "10.0.0.1")

    def masquerade(self, on: bool) -> None:
        """Make the router masquerade, or only route, from the next packet on."""
        self.router.run("nft", f"flush ruleset; {MASQUERADE if on else ''}")
        self.forget()

    def forget(self) -> None:
        """Make the router lose its mappings; it takes other ports for the next ones."""
        self.router.run("python3", "-c", FORGET)

    def renumber(self, old: str, new: str) -> None:
        """Give the router's outside another address."""
        self.router.ip("address", "add", f"{new}/24", "dev", "wild0")
        self.router.ip("address", "del", f"{old}/24", "dev", "wild0")
        self.router.ip("address", "replace", f"{new}/24", "dev", "wild0")
        self.forget()

    def keepalives(self) -> int:
        """Return how many keepalives the router has forwarded since it masquerades."""
        words = self.router.run("nft", "list", "counter", "ip", "home", "keepalives").stdout.split()
        return int(words[words.index("packets") + 1])

    def wait_until_up(self) -> None:
        wait_for(lambda: self.moat.pings(PORTAL.inside), "a ping through the tunnel", 15)

    def state(self) -> list[tuple[str, str]]:
        """Return each side's SPIs."""
        rows = [box.connection("net") for box in (self.moat, self.portal)]
        return [(row["ike_spi_i"], row["spi_in"]) for row in rows]

    def ways(self) -> set[str]:
        """Return how each side encapsulates."""
        return {str(box.connection("net")["encapsulation"]) for box in (self.moat, self.portal)}


@contextmanager
def new_home(directory: Path, data_plane: str = "python") -> Iterator[Home]:
    """A home for the length of the block; its boxes carry packets by that data plane."""
    with ExitStack() as stack:
        moat = stack.enter_context(new_box(directory, "hm", MOAT.identity, data_plane))
        portal = stack.enter_context(new_box(directory, "hp", PORTAL.identity, data_plane))
        router = Namespace(f"moat-test-{os.getpid()}-hr", directory / "router", "router")
        stack.callback(router.close)
        yield Home(moat, router, portal)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with new_home(tmp_path_factory.mktemp("home")) as home:
        yield home


def away(home: Home, change: Callable[[], None], upwards: bool, limit: float) -> float:
    """Return how long the change keeps the portal's packets from the moat, in seconds.

    upwards: the moat sends, too. The SAs have to be the same ones afterwards.
    """
    before = home.state()
    with ExitStack() as stack:
        down = stack.enter_context(stream(home.portal, home.moat, MOAT.inside))
        if upwards:
            stack.enter_context(stream(home.moat, home.portal, PORTAL.inside))
        wait_for(lambda: down.sent, "the stream flows", 5)
        time.sleep(0.5)
        change()
        took = down.away_since(time.monotonic(), limit)
    assert home.state() == before
    return took


@pytest.mark.parametrize("upwards", [True, False])
def test_changes_that_the_moat_notices(home: Home, upwards: bool) -> None:
    home.masquerade(False)
    home.live_at(HOME)
    home.wait_until_up()

    def to(address: str, masquerade: bool) -> Callable[[], None]:
        def change() -> None:
            home.masquerade(masquerade)
            home.live_at(address)

        return change

    for address, masquerade, way in (
        (OTHER_HOME, False, "esp"),  # another address
        (HOME, True, "udp"),  # behind a NAT
        (OTHER_HOME, True, "udp"),  # another address behind it
        (HOME, False, "esp"),  # out of it
    ):
        took = away(home, to(address, masquerade), upwards, TOLD)
        print(f"to {address}, masquerade {masquerade}, upwards {upwards}: {took:.2f} s")
        assert took < TOLD
        wait_for(lambda way=way: home.ways() == {way}, f"both use {way}", 2)


@pytest.mark.parametrize("upwards", [True, False])
def test_changes_that_the_moat_does_not_notice(home: Home, upwards: bool) -> None:
    home.masquerade(False)
    home.live_at(HOME)
    home.wait_until_up()
    for name, change, way in (
        ("a NAT appears", lambda: home.masquerade(True), "udp"),
        ("its mapping is lost", home.forget, "udp"),
        ("its address changes", lambda: home.renumber(OUTSIDE, OTHER_OUTSIDE), "udp"),
        ("its address changes back", lambda: home.renumber(OTHER_OUTSIDE, OUTSIDE), "udp"),
        ("the NAT vanishes", lambda: home.masquerade(False), "esp"),
    ):
        took = away(home, change, upwards, UNTOLD)
        print(f"{name}, upwards {upwards}: {took:.2f} s")
        assert took < UNTOLD
        wait_for(lambda way=way: home.ways() == {way}, f"both use {way}", 10)
    home.portal.ip("route", "replace", "10.0.0.0/24", "via", OUTSIDE)


def test_a_moat_that_roams_while_its_portal_is_killed(home: Home) -> None:
    home.masquerade(False)
    home.live_at(HOME)
    home.wait_until_up()
    home.portal.kill(signal.SIGKILL)
    home.masquerade(True)
    home.live_at(OTHER_HOME)
    home.portal.start()
    start = time.monotonic()
    wait_for(lambda: home.moat.pings(PORTAL.inside), "a ping through the tunnel", UNTOLD)
    print(f"back {time.monotonic() - start:.2f} s after the portal's start")
    assert home.ways() == {"udp"}


def test_an_uplink_of_the_portal_is_cut_off(home: Home) -> None:
    second = "192.0.2.2"
    portal = home.portal
    portal.ip("address", "add", f"{second}/24", "dev", "wild0")
    settings = portal.directory / "moatd.json"
    text = settings.read_text()
    settings.write_text(json.dumps(json.loads(text) | {"wild_addresses": [PORTAL.wild, second]}))
    portal.kill(signal.SIGTERM)
    home.masquerade(True)
    home.live_at(HOME)
    portal.start()
    home.wait_until_up()
    rules = f"ip daddr {PORTAL.wild} drop; ip saddr {PORTAL.wild} drop;"
    cut = f"table ip cut {{ chain c {{ type filter hook forward priority filter; {rules} }}; }}"
    # The kernel of the portal would send from its first address, which the NAT lets in no more.
    took = away(home, lambda: home.router.run("nft", cut), True, UNTOLD)
    print(f"the portal's first address is cut off: {took:.2f} s")
    assert took < UNTOLD
    assert home.moat.connection("net")["peer"] == f"{second}:4500"
    home.router.run("nft", "delete table ip cut")
    settings.write_text(text)
    portal.kill(signal.SIGTERM)
    portal.ip("address", "del", f"{second}/24", "dev", "wild0")
    portal.start()


def test_keepalives_behind_a_nat_and_when_idle_only(home: Home) -> None:
    # Nobody asks whether the other lives, which would keep the mapping, too.
    home.masquerade(True)
    home.portal.apply("replace", home.to_moat | {"dpd_interval": 600.0})
    home.moat.apply("replace", home.to_portal | {"dpd_interval": 600.0})
    home.wait_until_up()
    with stream(home.moat, home.portal, PORTAL.inside):
        time.sleep(21.0)
    assert home.keepalives() == 0
    wait_for(home.keepalives, "a keepalive", 22)
    assert home.keepalives() == 1
