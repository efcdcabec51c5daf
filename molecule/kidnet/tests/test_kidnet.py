"""A kid-net and two VPNs in one home: what each reaches, and that it reaches nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack

import lab
import pcap
import pytest
from running import DATABASE, site
from steady import talk
from testinfra.host import Host

PC2, PC26 = "10.202.1.10", "fd00:202:1::10"
CORP2, CORP26 = "10.60.0.10", "fd00:60::10"
KID, KID_MOAT = "192.168.77.10", "192.168.77.1"
# Every address of the home and beyond its tunnels that is none of the kid's business.
NOT_THE_KIDS = {
    "pc": (lab.PC, lab.PC6),
    "pc2": (PC2, PC26),
    "corp": (lab.CORP, lab.CORP6),
    "corp2": (CORP2, CORP26),
    "moat": (lab.MOAT, lab.MOAT6, "10.202.1.1", "fd00:202:1::1"),
    "portal": ("10.201.0.1", "10.50.0.1"),
}
# Says for each "HOST PORT" of the arguments whether TCP gets through, an echo is answered, or
# anything comes back to a datagram; all at once, within a second and a half.
_TRY = """
import asyncio, json, subprocess, sys

async def tcp(host, port):
    try:
        await asyncio.wait_for(asyncio.open_connection(host, port), 1.2)
    except OSError:
        return False
    return True

async def ping(host):
    program = await asyncio.create_subprocess_exec(
        "ping", "-n", "-c", "1", "-W", "1", host, stdout=subprocess.DEVNULL)
    return await program.wait() == 0

async def main(hosts):
    ports = [(host, port) for host in hosts for port in (22, 53, 80)]
    answers = await asyncio.gather(*(tcp(*each) for each in ports), *map(ping, hosts))
    names = [f"tcp {host} {port}" for host, port in ports] + [f"ping {host}" for host in hosts]
    print(json.dumps([name for name, answer in zip(names, answers) if answer]))

asyncio.run(main(sys.argv[1:]))
"""


# Asks by multicast DNS who is there, over both families, from the interface that is named.
_ASK_EVERYBODY = """
import socket, sys

interface, mark = sys.argv[1:]
query = bytes.fromhex("000000000001000000000000") + bytes((len(mark),)) + mark.encode()
query += b"\\x05local\\x00\\x00\\x0c\\x00\\x01"
for family, group in ((socket.AF_INET, "224.0.0.251"), (socket.AF_INET6, "ff02::fb")):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.sendto(query, (group, 5353))
"""


def reached(name: str, *hosts: str) -> set[str]:
    """Return what a machine reaches of hosts."""
    return set(json.loads(lab.send_python(name, _TRY, *hosts)))


@pytest.fixture(autouse=True)
def both_tunnels(tunnel: None, pc2: Host) -> None:
    lab.wait_for(lambda: lab.reaches(pc2, CORP2), "pc2 reaches corp2", 30)


def drop_count(moat: Host, name: str) -> int:
    listed = json.loads(moat.check_output("nft -j list counter inet moat %s", name))
    (packets,) = (each["counter"]["packets"] for each in listed["nftables"] if "counter" in each)
    return int(packets)


def test_the_kid_is_on_the_internet_under_the_moats_address(kid: Host, moat: Host) -> None:
    seen = kid.check_output("curl --silent --max-time 5 http://%s/", lab.WEB)
    assert seen.strip() == lab.wild_address(moat)
    assert lab.reaches(kid, lab.WEB)
    assert lab.reaches(kid, KID_MOAT)


def test_the_kid_reaches_nothing_else(moat: Host) -> None:
    """Private sides, tunnels, what is beyond them, and the moat's own addresses, by any family."""
    before = drop_count(moat, "dropped_kid_ipv6")
    hosts = [address for each in NOT_THE_KIDS.values() for address in each]
    assert reached("kid", *hosts, lab.wild_address(moat), "fd00:77::1", "fe80::1%kid0") == set()
    assert drop_count(moat, "dropped_kid_ipv6") > before
    ours = reached("kid", KID_MOAT)
    assert ours <= {f"ping {KID_MOAT}", f"tcp {KID_MOAT} 53"}


def test_nothing_of_the_home_reaches_the_kid() -> None:
    for name in ("pc", "pc2", "corp", "corp2", "web"):
        assert reached(name, KID) == set(), name


def test_the_kids_lies_about_its_address_get_nowhere(kid: Host, moat: Host) -> None:
    before = drop_count(moat, "dropped_spoofed")
    for address, target in ((lab.PC, lab.CORP), (PC2, CORP2), (lab.PC, lab.WEB)):
        kid.run_expect([0], "ip address add %s/32 dev kid0", address)
        try:
            kid.run("ping -n -c 1 -W 1 -I %s %s", address, target)
        finally:
            kid.run_expect([0], "ip address del %s/32 dev kid0", address)
    assert drop_count(moat, "dropped_spoofed") >= before + 3


def test_each_side_asks_only_itself_by_multicast(kid: Host, moat: Host) -> None:
    sides = {"kid": "kid0", "pc": "home0", "pc2": "home0"}
    with ExitStack() as stack:
        heard = {each: stack.enter_context(lab.capture(each, sides[each])) for each in sides}
        for name, interface in sides.items():
            lab.send_python(name, _ASK_EVERYBODY, interface, f"asked-by-{name}")
        for name, router in (("kid", KID_MOAT), ("pc", lab.MOAT), ("pc2", "10.202.1.1")):
            assert lab.reaches(lab.host(name), router)  # what was sent before has arrived
    for name, seen in heard.items():
        asked = [p for p in seen.packets() if p.protocol == pcap.UDP and 5353 in p.ports]
        assert {packet.version for packet in asked} == {4, 6}
        assert all(f"asked-by-{name}".encode() in packet.payload for packet in asked)


def test_each_vpn_is_for_its_own_side(pc: Host, pc2: Host) -> None:
    for machine, theirs in ((pc, (lab.CORP, lab.CORP6)), (pc2, (CORP2, CORP26))):
        for address in theirs:
            assert lab.reaches(machine, address), address
    others = ["10.202.1.1", "fd00:202:1::1", PC2, PC26, CORP2, CORP26]
    assert reached("pc", *others) == set()
    others = [lab.MOAT, lab.MOAT6, lab.PC, lab.PC6, lab.CORP, lab.CORP6]
    assert reached("pc2", *others) == set()
    assert reached("corp", PC2, PC26) == reached("corp2", lab.PC, lab.PC6) == set()


def test_each_has_a_daemon_of_its_own(moat: Host, pc: Host, pc2: Host) -> None:
    second = json.loads(
        lab.moatctl(moat, "status", "--json", "--socket", "/run/moatvpn-work2/control.sock")
    )
    (only,) = second["connections"]
    assert (only["state"], only["encapsulation"]) == ("established", "udp")
    assert lab.connection(moat)["encapsulation"] == "esp"
    users = moat.check_output("ps -o user:32= -C moatd").split()
    assert sorted(users) == ["moatvpn", "moatvpn-work2"]
    key = "/etc/moatvpn/vpns/work2/identity.key"
    owned = moat.file(key)
    assert (owned.user, owned.mode) == ("moatvpn-work2", 0o600)
    for unit, dead, alive in (("moatd", pc, pc2), ("moatd@work2", pc2, pc)):
        moat.run_expect([0], "systemctl stop %s", unit)
        try:
            target = {id(pc): lab.CORP, id(pc2): CORP2}
            assert lab.reaches(alive, target[id(alive)])
            assert not lab.reaches(dead, target[id(dead)])
        finally:
            moat.run_expect([0], "systemctl start %s", unit)


def switch(word: str, tags: str) -> None:
    """Set the one field of the record, and run what tags name of site.yml on the moat."""
    environment = os.environ | {"MOAT_DATABASE": DATABASE}
    words = ["moat-fleet", "customer", "set", "c0001", "--kidnet", word]
    subprocess.run(words, env=environment, check=True, capture_output=True)
    site("--tags", tags)


@pytest.mark.timeout(240)
def test_one_field_of_the_record_switches_it_off_and_on(kid: Host, moat: Host) -> None:
    """Whatever goes through the two tunnels meanwhile goes on, and loses nothing."""
    with talk("pc", "corp", lab.CORP) as first, talk("pc2", "corp2", CORP2) as second:
        switch("no", "configure,lockdown")
        try:
            assert not lab.reaches(kid, lab.WEB)
            link = json.loads(moat.check_output("ip -json address show dev kid0"))[0]
            assert link["addr_info"] == []
            assert "UP" not in link["flags"]
            assert "kid0" not in moat.check_output("nft list ruleset")
            assert "kid0" not in moat.check_output("ip rule")
            assert not moat.service("moat-names@kid").is_running
        finally:
            switch("yes", "lockdown,networks,names")
        lab.wait_for(lambda: lab.reaches(kid, lab.WEB), "the kid reaches web again", 15)
    for talked in (first, second):
        assert talked["asked"] > 0
        assert talked["lost"] == 0
        assert talked["longest"] < 1.0
    seen = kid.check_output("curl --silent --max-time 5 http://%s/", lab.WEB)
    assert seen.strip() == lab.wild_address(moat)
    assert moat.service("moat-names@kid").is_running
    assert reached("kid", lab.PC, lab.CORP, PC2, CORP2) == set()
