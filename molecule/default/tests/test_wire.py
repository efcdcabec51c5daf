"""What somebody on the wild side sees of all that: envelopes, and nothing in clear."""

from __future__ import annotations

import ipaddress

import lab
from testinfra.host import Host

MARKER = b"moat-marker-4f1d"  # as long as the pattern that ping repeats in a packet may be
INSIDE = (lab.PC, lab.PC6, lab.CORP, lab.CORP6)

SEND_MARKERS = """
import socket, sys
marker = bytes.fromhex(sys.argv[1])
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(20):
        s.sendto(marker * 50, (address, 7002))
    s = socket.create_connection((address, 7003), timeout=5)
    s.sendall(marker * 100000)
    s.close()
"""
RECEIVE_MARKERS = """
import socket
s = socket.create_server(("::", 7003), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, _ = s.accept()
    while c.recv(65536):
        pass
"""


def test_the_wild_side_sees_envelopes_only(pc: Host, corp: Host, moat: Host) -> None:
    pattern = MARKER.hex()
    with (
        lab.capture("pc", "home0") as inside,
        lab.wild_capture() as captures,
        lab.service(corp, "receiver", "/usr/bin/python3", "-c", RECEIVE_MARKERS),
    ):
        lab.wait_for(lambda: corp.run("ss --no-header -ltn sport = :7003").stdout, "receiver", 5)
        for address in (lab.CORP, lab.CORP6):
            for size in ("1000", "8000"):
                pc.run_expect([0], "ping -n -c 10 -i 0.05 -s %s -p %s %s", size, pattern, address)
        lab.send_python("pc", SEND_MARKERS, pattern, lab.CORP, lab.CORP6)
        pc.run_expect([0], "traceroute -n -q 1 -w 2 -m 8 %s", lab.CORP)
        pc.run_expect([0], "curl --silent --fail --max-time 5 http://%s/", lab.WEB)
        lab.moatctl(moat, "rekey", lab.connection(moat)["name"], "child")

    # The same capture, on the private side, shows that there was something to be seen.
    assert MARKER in inside.raw
    assert set(INSIDE) <= inside.addresses()
    for seen in captures:
        assert seen.strangers() == set()
        assert seen.summary()["ESP"] > 100
        assert seen.fragments() == []
        assert MARKER not in seen.raw
        for address in INSIDE:
            assert ipaddress.ip_address(address).packed not in seen.raw
            assert address not in seen.addresses()
