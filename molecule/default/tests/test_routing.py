"""A client's only way to the public internet is the corporate firewall, and that only while
there is a tunnel."""

from __future__ import annotations

import lab
import pytest
from testinfra.host import Host


def fetch(pc: Host, seconds: int = 5) -> str:
    """Return what web says that pc's address is; "" where web does not answer pc."""
    result = pc.run("curl --silent --fail --max-time %s http://%s/", str(seconds), lab.WEB)
    return str(result.stdout.strip()) if result.rc == 0 else ""


def test_web_sees_the_corporate_firewall(pc: Host) -> None:
    assert fetch(pc) == lab.FIREWALL


def test_pc_reaches_web_by_way_of_the_portal(pc: Host) -> None:
    output = pc.check_output("traceroute -n -q 1 -w 2 -m 8 --icmp %s", lab.WEB)
    hops = [line.split()[1] for line in output.splitlines()[1:]]
    assert hops == [lab.MOAT, lab.PORTAL_TUNNEL, lab.CORP, lab.WEB]


@pytest.mark.parametrize("name", lab.BOXES)
def test_without_the_tunnel_web_is_unreachable(pc: Host, name: str) -> None:
    box = lab.host(name)
    with lab.wild_capture() as captures:
        try:
            box.run_expect([0], "systemctl stop moatd")
            assert fetch(pc, 4) == ""
            assert not lab.reaches(pc, lab.CORP)
            assert not lab.reaches(pc, lab.WEB)
        finally:
            box.run_expect([0], "systemctl start moatd")
    for seen in captures:
        assert seen.strangers() == set()
        assert not {lab.PC, lab.WEB} & seen.addresses()
    lab.wait_for_tunnel()
    assert fetch(pc) == lab.FIREWALL


def test_web_could_be_reached_directly_if_a_box_let_it(router: Host) -> None:
    """The test above would prove nothing if nothing on the access network could reach web."""
    assert lab.reaches(lab.host("attacker"), lab.WEB)
    assert router.check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"
