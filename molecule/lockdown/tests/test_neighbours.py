"""What somebody on the moat's own wild network may change: where its envelopes go, and no more."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import forge
import lab
import pcap
import pytest
import watching
from testinfra.host import Host
from watching import watch

GATEWAY = "192.0.2.1"
REQUEST, REPLY = 1, 2  # of ARP
LEASES = "/run/lab-dhcp.leases"
NOBODY = "00:00:00:00:00:00"
# A DHCP server that would have everything go by the attacker, the home's own packets first of all
# (option 121, RFC 3442), and names looked up there.
ROGUE = (
    "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=access0",
    "--bind-interfaces", "--dhcp-authoritative", "--no-ping",
    "--dhcp-leasefile=/run/rogue.leases", "--dhcp-range=192.0.2.200,192.0.2.210,2m",
    f"--dhcp-option=3,{lab.ATTACKER}", f"--dhcp-option=6,{lab.ATTACKER}",
    "--dhcp-option=121," + ",".join(
        f"{net},{lab.ATTACKER}"
        for net in ("0.0.0.0/1", "128.0.0.0/1", "10.50.0.0/16", "10.201.1.0/25")
    ),
)  # fmt: skip


def next_hop(moat: Host, address: str) -> str:
    """Return what the moat's own routing table says is the next hop to an address."""
    (route,) = json.loads(moat.check_output("ip -json route get %s", address))
    return str(route.get("gateway", ""))


def gateway_mac(moat: Host) -> str:
    """Return whom the moat takes for its gateway."""
    output = moat.check_output("ip -json neighbour show to %s dev wild0", GATEWAY)
    return "".join(str(entry.get("lladdr", "")) for entry in json.loads(output))


def test_inside_addresses_are_not_told_of(moat: Host) -> None:
    wild = lab.wild_address(moat)
    asked = [wild, lab.MOAT, lab.PC, lab.PORTAL_TUNNEL, "10.201.1.255"]
    sender = (watching.ATTACKER, lab.ATTACKER)
    with watch() as seen:
        forge.send_frames(
            [forge.arp(REQUEST, sender, (NOBODY, a), forge.EVERYBODY) for a in asked * 3]
        )
        watching.wait_for_chatter()
    told = {
        frame.packet[14:18]
        for frame in seen.frames
        if frame.source_mac == watching.MOAT and frame.ethertype == pcap.ETHERTYPE_ARP
        and frame.packet[6:8] == REPLY.to_bytes(2, "big")
    }  # fmt: skip
    assert told == {bytes(int(part) for part in wild.split("."))}


def test_neighbours_of_ipv6_hear_nothing(moat: Host) -> None:
    frames = [
        forge.neighbour_message(watching.ATTACKER, kind, address)
        for kind in (forge.SOLICITATION, forge.ADVERTISEMENT)
        for address in (lab.MOAT6, lab.PC6, "fe80::ff:fe00:210")
    ] * 10
    before = lab.dropped(moat)["dropped_wild_ipv6"]
    with watch():
        forge.send_frames(frames)
        lab.wait_for(
            lambda: lab.dropped(moat)["dropped_wild_ipv6"] - before >= len(frames), "drops", 5
        )
    assert moat.check_output("ip -6 neighbour show dev wild0") == ""


@pytest.mark.timeout(240)
def test_a_forged_gateway_hears_envelopes_only(moat: Host) -> None:
    """It may have the moat's envelopes for as long as it says so."""
    claim = (watching.ATTACKER, GATEWAY)
    forged = [
        forge.arp(operation, claim, (watching.MOAT, lab.wild_address(moat)), to)
        for operation in (REQUEST, REPLY)
        for to in (watching.MOAT, forge.EVERYBODY)
    ]

    def misled() -> bool:
        forge.send_frames(forged)
        return gateway_mac(moat) == watching.ATTACKER

    with watch() as seen:
        lab.wait_for(misled, "the moat takes the attacker for its gateway", 10)
        watching.wait_for_chatter()
        # From here on the attacker is silent, and the moat finds its gateway again by itself.
        lab.wait_for(lambda: gateway_mac(moat) == watching.ROUTER, "the rightful gateway", 60)
    assert watching.ATTACKER in {
        frame.destination_mac for frame in seen.frames if frame.source_mac == watching.MOAT
    }


@contextmanager
def dhcp_server_away(router: Host, moat: Host) -> Iterator[None]:
    """The rightful DHCP server is not there in the block; afterwards the moat has its lease."""
    router.run_expect([0], "systemctl stop lab-dhcp")
    try:
        yield
    finally:
        router.run_expect([0], "rm -f %s && systemctl start lab-dhcp", LEASES)
        moat.run_expect([0], "ip link set dev wild0 down && ip link set dev wild0 up")


def test_a_starved_dhcp_server_does_not_cost_the_moat_its_lease(router: Host, moat: Host) -> None:
    """Everything that the server has to give is taken by machines that are not there."""
    before = lab.wild_address(moat)
    requests = [
        forge.dhcp_request(watching.ATTACKER, b"\x02" + os.urandom(5), f"192.0.2.{number}")
        for number in range(100, 200)
    ]

    def starved() -> bool:
        forge.send_frames(requests, pause=0.01)
        return len(router.run("cat %s", LEASES).stdout.splitlines()) >= len(requests)

    try:
        with watch() as seen:
            lab.wait_for(starved, "a server with no lease left", 20)
            moat.run_expect([0], "ip link set dev wild0 down && ip link set dev wild0 up")
            lab.wait_for(lambda: lab.wild_address(moat), "a lease", 20)
        assert lab.wild_address(moat) == before
        assert seen.summary()["DHCP"] > len(requests)
    finally:
        router.run_expect([0], "systemctl stop lab-dhcp && rm -f %s", LEASES)
        router.run_expect([0], "systemctl start lab-dhcp")


@pytest.mark.timeout(240)
def test_a_rogue_dhcp_server_gets_envelopes_only(attacker: Host, router: Host, moat: Host) -> None:
    """It may lead the envelopes astray, which stops the tunnel; but no packet of the home's."""
    right = lab.wild_address(moat)
    with watch() as seen:
        with dhcp_server_away(router, moat), lab.service(attacker, "rogue", *ROGUE):
            moat.run_expect([0], "ip link set dev wild0 down && ip link set dev wild0 up")
            lab.wait_for(
                lambda: lab.wild_address(moat).startswith("192.0.2.2"), "a rogue lease", 30
            )
            watching.wait_for_chatter(20)
            assert next_hop(moat, lab.PORTAL_WILD) == lab.ATTACKER
            # The home's packets stay in their own table, and the home stays where it is.
            for address in (lab.PC, "10.201.1.200"):
                assert next_hop(moat, address) == ""
            routes = moat.check_output("ip route show table main")
            assert "10.50.0.0" not in routes
            assert "/1 " not in routes
        lab.wait_for(lambda: lab.wild_address(moat) == right, "the rightful lease", 30)
    assert watching.ATTACKER in {
        frame.destination_mac for frame in seen.frames if frame.source_mac == watching.MOAT
    }
