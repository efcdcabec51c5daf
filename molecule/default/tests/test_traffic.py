"""pc and corp reach each other through the tunnel, one hop between moat and portal, and with
packets of whatever size they like."""

from __future__ import annotations

import json
import re

import lab
import pytest
from testinfra.host import Host

# Sends datagrams of many sizes to argv[1], up to the largest that there is, which IP has to cut
# into fragments, and says how many have come back as they were.
UDP_CLIENT = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((sys.argv[1], 7001))
good = 0
for size in [1, 100, 1000, 1400, 1472, 4000, 8000, 65507] * 20:
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


# Says how many octets a segment of TCP to port 80 of argv[1] may have.
SEGMENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=5)
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""
HEADERS = 20 + 20 + 12  # of IPv4, and of TCP with its timestamps


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


@pytest.mark.parametrize(
    ("address", "size", "cut"),
    [
        # As many octets as pc's own network takes, with its headers, and more.
        (lab.CORP, 1472, "do"),
        (lab.CORP, 8000, "dont"),
        (lab.CORP6, 1452, "do"),
        (lab.CORP6, 8000, "dont"),
    ],
)
def test_packets_of_any_size_pass_and_no_client_is_told_to_send_less(
    pc: Host, corp: Host, address: str, size: int, cut: str
) -> None:
    back = lab.PC6 if ":" in address else lab.PC
    with lab.capture("pc", "home0") as at_home, lab.capture("corp", "corp0") as at_corp:
        for machine, to in ((pc, address), (corp, back)):
            command = "ping -n -M %s -c 5 -i 0.1 -W 2 -s %s %s"
            output = machine.check_output(command, cut, str(size), to)
            assert "5 received, 0% packet loss" in output
    for seen in (at_home, at_corp):
        assert not [packet for packet in seen.packets() if packet.says_too_big()]
        assert bool(seen.fragments()) is (cut == "dont")


def test_tcp_fills_what_pcs_own_network_takes(pc: Host) -> None:
    (link,) = json.loads(pc.check_output("ip -json link show dev home0"))
    assert int(lab.send_python("pc", SEGMENT, lab.WEB)) == link["mtu"] - HEADERS


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
        assert lab.send_python("pc", UDP_CLIENT, address).strip() == "160"


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
