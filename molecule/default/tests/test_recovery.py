"""The tunnel comes back by itself, and nothing leaves in clear while it is away."""

from __future__ import annotations

import time

import lab
import pytest
from testinfra.host import Host

MARKER = "6c65616b2d6d61726b65722d31323334"  # "leak-marker-1234"


def traffic(address: str) -> list[str]:
    """Return the arguments of lab.service for a ping that never ends."""
    return ["ping", "-n", "-i", "0.05", "-s", "500", "-p", MARKER, address]


@pytest.mark.parametrize("name", lab.BOXES)
def test_a_killed_daemon_leaks_nothing_and_comes_back(pc: Host, corp: Host, name: str) -> None:
    box = lab.host(name)
    with (
        lab.wild_capture() as captures,
        lab.service(pc, "to-corp", *traffic(lab.CORP)),
        lab.service(pc, "to-corp6", *traffic(lab.CORP6)),
        lab.service(pc, "to-web", *traffic(lab.WEB)),
        lab.service(corp, "to-pc", *traffic(lab.PC)),
    ):
        try:
            # Killed, it says goodbye to nobody; stopped, it is not started again at once.
            box.run_expect([0], "systemctl kill --signal=KILL moatd && systemctl stop moatd")
            down_until = time.monotonic() + 4
            while time.monotonic() < down_until:
                assert not lab.reaches(pc, lab.CORP)
        finally:
            box.run_expect([0], "systemctl start moatd")
        assert lab.wait_for_tunnel(5) <= 5
    for seen in captures:
        assert seen.strangers() == set()
        assert bytes.fromhex(MARKER) not in seen.raw


def test_a_killed_daemon_is_started_again(moat: Host) -> None:
    before = moat.check_output("systemctl show --property=MainPID --value moatd")
    moat.run_expect([0], "systemctl kill --signal=KILL moatd")

    def started() -> bool:
        pid = moat.check_output("systemctl show --property=MainPID --value moatd")
        return pid not in ("0", before)

    lab.wait_for(started, "another moatd", 10)
    lab.wait_for_tunnel(5)


@pytest.mark.timeout(240)
def test_both_boxes_rebooted_together(pc: Host) -> None:
    lab.restart("moat", "portal")
    assert lab.wait_for_tunnel(90) <= 90
    for name in lab.BOXES:
        state = lab.host(name).run("systemctl is-system-running --wait").stdout.strip()
        assert state == "running"
    lab.wait_for(lambda: lab.reaches(pc, lab.CORP6), "pc reaches corp over IPv6", 10)


@pytest.mark.timeout(240)
def test_the_wild_address_changes(moat: Host, portal: Host, router: Host) -> None:
    configuration = "find /etc/moatvpn -type f -exec sha256sum {} + | sort"
    before = portal.check_output(configuration)
    old = lab.wild_address(moat)
    new = "192.0.2.77"
    assert old != new
    try:
        give_wild_address(moat, router, old, new)
        assert lab.wait_for_tunnel(10) <= 10
        assert lab.connection(portal)["peer"].startswith(new)
        assert portal.check_output(configuration) == before
    finally:
        give_wild_address(moat, router, new, old)
    assert lab.wait_for_tunnel(10) <= 10


def give_wild_address(moat: Host, router: Host, old: str, new: str) -> None:
    """Let the moat come back with another address, as it may after the modem has been away."""
    router.run_expect([0], "sed -i s/,%s$/,%s/ /etc/lab-dhcp-hosts", old, new)
    router.run_expect([0], "systemctl reload lab-dhcp")
    moat.run_expect([0], "ip link set dev wild0 down && ip link set dev wild0 up")
    lab.wait_for(lambda: lab.wild_address(moat) == new, f"the moat at {new}", 20)
