"""What the boxes do beside carrying packets: names, and nothing else that listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lab
import pytest
import yaml
from testinfra.host import Host

ROLES = Path(__file__).resolve().parents[3] / "roles"
DHCP_CLIENT = ("udp", 68)  # systemd-networkd's, on the wild side
IKE = {("udp", 500), ("udp", 4500)}

# Says which address argv[2] has, asked of the name server argv[1].
RESOLVE = """
import socket, struct, sys
name = b"".join(bytes([len(p)]) + p.encode() for p in sys.argv[2].split(".")) + bytes(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 53))
s.send(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1))
answer = s.recv(512)
print(answer[3] & 15, socket.inet_ntoa(answer[-4:]))
"""


def listed(box: str) -> set[tuple[str, int]]:
    """Return the protocols and ports that the role's variables list for a box."""
    if box == "moat":
        variables: dict[str, Any] = yaml.safe_load((ROLES / "moat/vars/services.yml").read_text())
        return {(each["protocol"], each["port"]) for each in variables["moat_services"]}
    variables = yaml.safe_load((ROLES / "portal/vars/main.yml").read_text())
    services = variables["__portal_lockdown"]["services"]
    return IKE | {(each["protocol"], each["port"]) for each in services}


def listening(box: Host) -> set[tuple[str, int]]:
    """Return the protocols and ports of what listens on a box for others."""
    found = set()
    for line in box.check_output("ss --no-header -lntu").splitlines():
        protocol, _, _, _, at, *_ = line.split()
        address, _, port = at.rpartition(":")
        if not address.startswith(("127.", "[::1]")):
            found.add((protocol, int(port)))
    return found


@pytest.mark.parametrize("name", lab.BOXES)
def test_nothing_listens_but_what_is_listed(name: str) -> None:
    allowed = listed(name)
    # A question on its way to a resolver has a socket, too, until it is answered.
    lab.wait_for(
        lambda: listening(lab.host(name)) - {DHCP_CLIENT} == allowed,
        f"{sorted(allowed)} listening on {name}, not {sorted(listening(lab.host(name)))}",
        15,
    )


def test_the_home_has_names_of_its_own() -> None:
    assert lab.send_python("pc", RESOLVE, lab.MOAT, "moat.home.arpa").split() == ["0", lab.MOAT]
