"""Two VPNs of one home: a moatd each on one box, with portals that have the same addresses inside.

    home:  lo 10.201.1.1, 10.202.1.1    moat0   wild0 192.0.2.10 --- portal a
                                        moat1   wild1 192.0.3.10 --- portal b

Both portals have 10.50.0.1 inside: where a packet goes is for its source alone to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from boxes import MOAT, PORTAL, Box, FurtherDaemon, join, new_box, run, wait_for
from traffic import pings, transfer

INSIDE = PORTAL.inside
HERE, THERE = "10.202.1.1", "192.0.3.1"
NETWORKS = ["10.202.1.0/24"]
PORTS = (4600, 4601)


class Home:
    """The box with two daemons, a and b, and their portals."""

    def __init__(self, a: Box, portal_a: Box, portal_b: Box) -> None:
        self.a, self.portal_a, self.portal_b = a, portal_a, portal_b
        join(a, portal_a)
        self.b = FurtherDaemon(a, "moat1", "b1.moats.example.net", PORTS)
        self._join_b()
        for box, portal, networks, at in (
            (self.a, portal_a, list(MOAT.networks[:1]), PORTAL.wild),
            (self.b, portal_b, NETWORKS, THERE),
        ):
            ours = {"local_selectors": networks, "remote_selectors": [PORTAL.networks[0]]}
            calls = {"remote_address": at, "initiate": True}
            common = {"dpd_interval": 2.0}
            keys = ([portal.public_key], [box.public_key])
            box.apply(
                "add",
                {"name": "portal", "remote_identity": portal.identity}
                | {"remote_public_keys": keys[0], **ours, **calls, **common},
            )
            theirs = dict(zip(ours, reversed(ours.values()), strict=True))
            portal.apply(
                "add",
                {"name": "moat", "remote_identity": box.identity}
                | {"remote_public_keys": keys[1], **theirs, **common},
            )

    def _join_b(self) -> None:
        """Lay the wire to the second portal, and have sources choose the tunnel."""
        home, portal = self.a, self.portal_b
        ends = (home.namespace, "type", "veth", "peer", "name", "wild0", "netns")
        run("ip", "link", "add", "wild1", "netns", *ends, portal.namespace)
        for box, device, own, inside in (
            (home, "wild1", "192.0.3.10", HERE),
            (portal, "wild0", THERE, INSIDE),
        ):
            box.ip("address", "add", f"{own}/24", "dev", device)
            box.ip("link", "set", device, "up")
            box.ip("address", "add", f"{inside}/32", "dev", "lo")
        portal.ip("route", "add", NETWORKS[0], "dev", "moat0", "src", INSIDE)
        home.ip("route", "add", "default", "dev", "moat1", "table", "4501")
        home.ip("rule", "add", "from", NETWORKS[0], "lookup", "4501")

    def reaches(self, source: str) -> bool:
        """Whether what speaks as source gets an answer from inside its own portal."""
        ping = ("ping", "-c1", "-W1", "-I", source, INSIDE)
        return self.a.run(*ping, check=False).returncode == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    directory = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        names = (MOAT.identity, "a.example.net", "b.example.net")
        boxes = [
            stack.enter_context(new_box(directory, letter, name))
            for letter, name in zip("hab", names, strict=True)
        ]
        made = Home(*boxes)
        stack.callback(made.b.close)
        for box in (*boxes[1:], boxes[0], made.b):
            box.start()
        for source in (MOAT.inside, HERE):
            wait_for(lambda source=source: made.reaches(source), f"a ping from {source}", 15)
        yield made


def test_each_has_its_own_tunnel(home: Home) -> None:
    a, b = home.portal_a.connection("moat"), home.portal_b.connection("moat")
    assert (a["peer"], a["encapsulation"]) == ("192.0.2.10:4500", "esp")
    assert (b["peer"], b["encapsulation"]) == (f"192.0.3.10:{PORTS[1]}", "udp")
    assert home.b.connection("portal")["encapsulation"] == "udp"
    before = home.portal_a.connection("moat")["packets_in"]
    assert home.reaches(HERE)
    assert home.portal_a.connection("moat")["packets_in"] == before
    assert home.portal_b.connection("moat")["packets_in"] > b["packets_in"]
    with transfer(home.b, home.portal_b, INSIDE, 8, source=HERE):
        pass


def test_rekeys_go_on_over_other_ports(home: Home) -> None:
    for box, name in ((home.b, "portal"), (home.portal_b, "moat")):
        for sa, spi in (("child", "spi_in"), ("ike", "ike_spi_i")):
            before = box.connection(name)[spi]
            box.moatctl("rekey", name, sa)
            wait_for(
                lambda box=box, name=name, spi=spi, before=before: (
                    box.connection(name)[spi] != before
                ),
                f"another {spi}",
                5,
            )
    assert home.reaches(HERE)


def test_the_end_of_one_leaves_the_other(home: Home) -> None:
    for dead, alive, source in ((home.a, HERE, MOAT.inside), (home.b, MOAT.inside, HERE)):
        with pings(home.a, INSIDE, 120, source=alive) as answers:
            dead.kill()
            assert not home.reaches(source)
        assert answers.sent == answers.received
        dead.start()
        wait_for(lambda source=source: home.reaches(source), f"a ping from {source}", 15)


def test_a_portal_that_comes_back_calls_at_the_other_port(home: Home) -> None:
    home.portal_b.kill()
    home.portal_b.start()
    wait_for(lambda: home.reaches(HERE), "the tunnel again", 15)
    assert home.portal_b.connection("moat")["peer"] == f"192.0.3.10:{PORTS[1]}"
