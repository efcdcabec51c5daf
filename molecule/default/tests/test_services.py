"""What the boxes do beside carrying packets: names, time, logs, and nothing else that listens."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab
import pytest
import yaml
from testinfra.host import Host

ROLES = Path(__file__).resolve().parents[3] / "roles"
RSYSLOG = "/etc/rsyslog.conf"
LOG_QUEUE = 5_000  # lines that a moat keeps for its portal
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


def test_the_moats_clock_follows_the_portals(moat: Host) -> None:
    def follows() -> bool:
        sources = moat.run("chronyc -n sources").stdout
        return f"^* {lab.PORTAL_TUNNEL}" in sources

    lab.wait_for(follows, "the moat's clock follows the portal's", 60, interval=1)


def test_a_clock_that_is_wrong_at_boot_leaps_once_the_tunnel_is_up(moat: Host) -> None:
    """By chronyd's own reading: whatever the difference, within the first three answers."""
    assert "makestep 1 3" in moat.check_output("chronyd -p").splitlines()
    assert "chrony.service" in moat.check_output("systemctl show --property=After moatd")


def shipped(portal: Host, program: str) -> str:
    """Return the lines of a program of the moat's that are in the portal's journal."""
    command = f"journalctl MOAT={lab.MOAT} MOAT_PROGRAM={program} --output=cat"
    return str(portal.run(command).stdout)


def test_the_moats_log_is_at_the_portal(moat: Host, portal: Host) -> None:
    moat.run_expect([0], "logger --tag services-test 'a line for the portal'")
    lab.wait_for(
        lambda: "a line for the portal" in shipped(portal, "services-test"),
        "the line at the portal",
        30,
    )


@pytest.fixture
def counting(moat: Host, portal: Host) -> Iterator[None]:
    """The moat looks often at what it has dropped; and at the end the portal takes logs again."""
    moat.run_expect([0], f"moat-rw sed -i.kept 's/interval=.300./interval=\"2\"/' {RSYSLOG}")
    moat.run_expect([0], "systemctl restart rsyslog")
    try:
        yield
    finally:
        portal.run_expect([0], "systemctl start rsyslog")
        moat.run_expect([0], f"moat-rw mv {RSYSLOG}.kept {RSYSLOG}")
        moat.run_expect([0], "systemctl restart rsyslog")


@pytest.mark.usefixtures("counting")
def test_logs_that_the_portal_does_not_take_are_dropped_and_counted(
    pc: Host, moat: Host, portal: Host
) -> None:
    """Nothing waits for them: the tunnel carries what it did, in no more memory than before."""
    lines, program = 4 * LOG_QUEUE, f"flood-{secrets.token_hex(4)}"
    before = shipped(portal, "moat-logs")
    portal.run_expect([0], "systemctl stop rsyslog")
    with lab.service(pc, "lab-pings", "ping", "-n", "-q", "-i", "0.05", lab.CORP):
        moat.run_expect([0], f"seq {lines} | logger --tag {program}")
        lab.wait_for(lambda: dropped_lines(moat) > 0, "drops that are counted on the moat", 30)
        pc.run_expect([0], "systemctl kill --signal=INT lab-pings")
        lab.wait_for(lambda: "packet loss" in pings(pc), "what ping has seen", 10)
    assert " 0% packet loss" in pings(pc)
    status = moat.file(f"/proc/{moat.check_output('pidof rsyslogd')}/status").content_string
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(resident) < 64 << 10  # KiB
    # What was kept arrives, and so does the count of what was not.
    portal.run_expect([0], "systemctl start rsyslog")
    lab.wait_for(lambda: shipped(portal, "moat-logs") != before, "the count at the portal", 30)
    kept = len(shipped(portal, program).splitlines())
    assert LOG_QUEUE / 2 < kept < lines
    lab.wait_for(lambda: dropped_lines(moat) >= lines - kept, "all of them counted", 10)


def dropped_lines(moat: Host) -> int:
    """Return how many lines the moat's journal says that it has dropped for the portal."""
    own = f"_PID={moat.check_output('pidof rsyslogd')}"
    said = moat.run(f"journalctl --identifier=moat-logs {own} --output=cat").stdout
    counts = re.findall(r"portal queue:.* discarded.full=(\d+)", said)
    return int(counts[-1]) if counts else 0


def pings(pc: Host) -> str:
    """Return what the last ping of lab-pings has said at its end."""
    return str(pc.run("journalctl --unit=lab-pings --output=cat --lines=5").stdout)
