"""A portal with a few moats is killed: it finds them again without their doing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from boxes import Box, new_box, run, wait_for

PORTAL_WILD, PORTAL_NAME = "192.0.2.1", "portal.example.net"
MOATS = 5


class Fleet:
    """One portal and a few idle moats on one wild network, in star: each has a veth to a bridge."""

    def __init__(self, portal: Box, moats: list[Box]) -> None:
        self.portal, self.moats = portal, moats
        portal.ip("link", "add", "wild0", "type", "bridge")
        portal.ip("address", "add", f"{PORTAL_WILD}/24", "dev", "wild0")
        portal.ip("link", "set", "wild0", "up")
        for n, moat in enumerate(moats):
            ends = (moat.namespace, "type", "veth", "peer", "name", f"moat{n + 1}", "netns")
            run("ip", "link", "add", "wild0", "netns", *ends, portal.namespace)
            moat.ip("address", "add", f"192.0.2.{n + 10}/24", "dev", "wild0")
            moat.ip("link", "set", "wild0", "up")
            portal.ip("link", "set", f"moat{n + 1}", "master", "wild0", "up")
            portal.apply("add", self._to_moat(n))
            moat.apply("add", self._to_portal(n))
        for box in (portal, *moats):
            box.start()
        self.wait_until_up(20)

    def _to_moat(self, n: int) -> dict[str, object]:
        return {
            "name": f"m{n}",
            "remote_identity": self.moats[n].identity,
            "remote_public_keys": [self.moats[n].public_key],
            "local_selectors": ["10.50.0.0/24"],
            "remote_selectors": [f"10.201.{n}.0/24"],
        }

    def _to_portal(self, n: int) -> dict[str, object]:
        return {
            "name": "portal1",
            "remote_identity": PORTAL_NAME,
            "remote_public_keys": [self.portal.public_key],
            "local_selectors": [f"10.201.{n}.0/24"],
            "remote_selectors": ["10.50.0.0/24"],
            "remote_address": PORTAL_WILD,
            "initiate": True,
            # They would find out by themselves only long after this test.
            "dpd_interval": 300.0,
        }

    def wait_until_up(self, deadline: float) -> float:
        """Wait until the portal has all of them; return how long that took, in seconds."""
        start = time.monotonic()

        def up() -> bool:
            rows = self.portal.ctl("status")["connections"]
            return all(row["state"] == "established" for row in rows)

        wait_for(up, "all moats are up", deadline)
        return time.monotonic() - start

    def remembered(self) -> dict[str, str]:
        """Return what the portal's journal says."""
        path = self.portal.directory / "peers.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return {line[0]: line[1] for line in lines}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        portal = stack.enter_context(new_box(directory, "r", PORTAL_NAME))
        moats = [
            stack.enter_context(new_box(directory, f"r{n}", f"m{n}.moats.example.net"))
            for n in range(MOATS)
        ]
        yield Fleet(portal, moats)


def test_idle_moats_are_back_without_their_doing(fleet: Fleet) -> None:
    wait_for(lambda: len(fleet.remembered()) == MOATS, "all are remembered", 5)
    before = [moat.connection("portal1")["ike_spi_i"] for moat in fleet.moats]
    fleet.portal.kill(signal.SIGKILL)
    fleet.portal.start()
    took = fleet.wait_until_up(5)
    print(f"{MOATS} moats back {took:.2f} s after the portal's start")
    after = [moat.connection("portal1")["ike_spi_i"] for moat in fleet.moats]
    assert not set(before) & set(after)


def test_a_moat_behind_a_nat_is_called_through_it(fleet: Fleet) -> None:
    moat = fleet.moats[0]
    rules = """
    table ip nat {
        chain out {
            type nat hook postrouting priority srcnat
            ip daddr 192.0.2.1 udp sport 500 snat to 192.0.2.200:20500
            ip daddr 192.0.2.1 udp sport 4500 snat to 192.0.2.200:24500
        }
    }"""
    path = moat.directory / "nat.nft"
    path.write_text(rules)
    moat.ip("address", "add", "192.0.2.200/24", "dev", "wild0")
    moat.kill(signal.SIGTERM)
    moat.run("nft", "-f", str(path))
    moat.start()
    wait_for(
        lambda: fleet.portal.connection("m0")["peer"] == "192.0.2.200:24500", "through the NAT", 10
    )
    wait_for(lambda: fleet.remembered()["m0"] == "192.0.2.200", "the mapping is remembered", 5)
    fleet.portal.kill(signal.SIGKILL)
    fleet.portal.start()
    fleet.wait_until_up(5)
    row = fleet.portal.connection("m0")
    assert (row["peer"], row["encapsulation"]) == ("192.0.2.200:24500", "udp")


def test_a_disk_without_room_stops_nothing(fleet: Fleet) -> None:
    path = fleet.portal.directory / "peers.jsonl"
    wait_for(lambda: len(fleet.remembered()) == MOATS, "all are remembered", 5)
    path.unlink()
    path.mkdir()  # neither read nor written nor replaced
    fleet.portal.kill(signal.SIGKILL)
    fleet.portal.start()
    told = fleet.portal.log.read_text()
    assert told.count("moats that it should name call by themselves") == 1
    # Those that notice call by themselves; an orderly restart of theirs is one way to notice.
    fleet.moats[1].kill(signal.SIGTERM)
    fleet.moats[1].start()
    wait_for(
        lambda: fleet.portal.connection("m1")["state"] == "established", "a moat's own call", 10
    )
    wait_for(lambda: "cannot be written" in fleet.portal.log.read_text(), "that it is told", 10)
    assert fleet.portal.kill(signal.SIGTERM) == 0
    os.rmdir(path)
