"""pc and corp reach each other through the tunnel, one hop between moat and portal."""

from __future__ import annotations

import re

import lab
import pytest
from testinfra.host import Host

# Sends datagrams of many sizes to argv[1], up to ones that IP has to cut into fragments, and says
# how many have come back as they were.
UDP_CLIENT = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((sys.argv[1], 7001))
good = 0
for size in [1, 100, 1000, 1400, 1472, 4000, 8000] * 20:
    data = os.urandom(size)
    s.send(data)
    good += s.recv(65535) == data
print(good)
"""
UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 7001))
while True:
    s.sendto(*s.recvfrom(65535))
"""


def transfer(sender: Host, receiver: Host, address: str, size: int) -> None:
    """Send size random octets from sender to receiver over TCP, and compare their hashes."""
    host = f"[{address}]" if ":" in address else address
    protocol = "TCP6" if ":" in address else "TCP4"
    sender.run_expect([0], f"head --bytes={size} /dev/urandom > /tmp/sent")
    receiver.run_expect([0], "rm -f /tmp/received")
    listen = f"{protocol}-LISTEN:7000,reuseaddr"
    with lab.service(receiver, "sink", "socat", "-u", listen, "CREATE:/tmp/received"):
        lab.wait_for(
            lambda: receiver.run("ss --no-header -ltn sport = :7000").stdout, "a listener", 5
        )
        sender.run_expect([0], f"timeout 60 socat -u OPEN:/tmp/sent {protocol}:{host}:7000")
        # socat's unit is gone once it has written the last octet.
        lab.wait_for(
            lambda: receiver.run("systemctl is-active --quiet sink").rc != 0, "the transfer", 20
        )
    sent = sender.check_output("sha256sum < /tmp/sent")
    assert receiver.check_output("sha256sum < /tmp/received") == sent
    receiver.run_expect([0], "rm /tmp/received")


@pytest.mark.parametrize("address", [lab.CORP, lab.CORP6])
def test_pc_pings_corp(pc: Host, address: str) -> None:
    output = pc.check_output("ping -n -c 20 -i 0.05 -W 2 %s", address)
    assert "20 received, 0% packet loss" in output


@pytest.mark.parametrize("address", [lab.PC, lab.PC6])
def test_corp_pings_pc(corp: Host, address: str) -> None:
    output = corp.check_output("ping -n -c 20 -i 0.05 -W 2 %s", address)
    assert "20 received, 0% packet loss" in output


@pytest.mark.parametrize("size", [1472, 4000])
def test_pings_as_large_as_the_mtu_and_larger(pc: Host, size: int) -> None:
    output = pc.check_output("ping -n -c 5 -i 0.1 -W 2 -s %s %s", str(size), lab.CORP)
    assert "5 received, 0% packet loss" in output


@pytest.mark.parametrize("size", [1472])
def test_a_full_packet_that_may_not_be_cut_passes_whole(pc: Host, size: int) -> None:
    output = pc.check_output("ping -n -M do -c 5 -i 0.1 -W 2 -s %s %s", str(size), lab.CORP)
    assert "5 received, 0% packet loss" in output


def test_50_megabytes_to_corp(pc: Host, corp: Host) -> None:
    transfer(pc, corp, lab.CORP, 50_000_000)


def test_50_megabytes_from_corp(pc: Host, corp: Host) -> None:
    transfer(corp, pc, lab.PC, 50_000_000)


def test_tcp_over_ipv6(pc: Host, corp: Host) -> None:
    transfer(pc, corp, lab.CORP6, 5_000_000)
    transfer(corp, pc, lab.PC6, 5_000_000)


@pytest.mark.parametrize("address", [lab.CORP, lab.CORP6])
def test_udp_datagrams_come_back(corp: Host, address: str) -> None:
    with lab.service(corp, "echo", "/usr/bin/python3", "-c", UDP_ECHO):
        lab.wait_for(lambda: corp.run("ss --no-header -lun sport = :7001").stdout, "echo", 5)
        assert lab.send_python("pc", UDP_CLIENT, address).strip() == "140"


@pytest.mark.parametrize("method", ["--icmp", "--udp"])
@pytest.mark.parametrize(
    ("address", "path"),
    [
        (lab.CORP, [lab.MOAT, lab.PORTAL_TUNNEL, lab.CORP]),
        (lab.CORP6, [lab.MOAT6, lab.PORTAL_TUNNEL6, lab.CORP6]),
    ],
)
def test_one_hop_lies_between_moat_and_portal(
    pc: Host, method: str, address: str, path: list[str]
) -> None:
    output = pc.check_output("traceroute -n -q 1 -w 2 -m 8 %s %s", method, address)
    assert re.findall(r"^ *\d+ +(\S+)", output, re.MULTILINE) == path
