"""A box is what the roles promise: little runs on it, and moatd may do little."""

from __future__ import annotations

import json

import lab
import pytest
from testinfra.host import Host

CAP_NET_ADMIN, CAP_NET_RAW = 1 << 12, 1 << 13


@pytest.fixture(params=lab.BOXES)
def box(request: pytest.FixtureRequest) -> Host:
    return lab.host(request.param)


def test_the_box_has_started_whole(box: Host) -> None:
    assert box.check_output("systemctl is-system-running") == "running"


def test_moatd_has_two_capabilities_and_no_more(box: Host) -> None:
    pid = box.check_output("systemctl show --property=MainPID --value moatd")
    lines = dict(
        line.split(":", 1) for line in box.check_output("cat /proc/%s/status", pid).splitlines()
    )
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(lines[name], 16) == CAP_NET_ADMIN | CAP_NET_RAW
    assert lines["NoNewPrivs"].strip() == "1"
    assert lines["Seccomp"].strip() == "2"
    assert box.check_output("stat --format=%%U /proc/%s", pid) == "moatvpn"


def test_moatd_can_write_nowhere_but_in_its_own_directories(box: Host) -> None:
    pid = box.check_output("systemctl show --property=MainPID --value moatd")
    mounts = box.check_output("cat /proc/%s/mounts", pid).splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "ro" in options["/"]
    private = options["/tmp"]  # noqa: S108 (moatd's own, which is not the box's)
    assert "rw" in private


def test_the_private_key_is_moatds_alone(box: Host) -> None:
    key = box.file("/etc/moatvpn/identity.key")
    assert (key.user, key.group, key.mode) == ("moatvpn", "moatvpn", 0o600)


def test_the_control_socket_is_closed_to_others(box: Host) -> None:
    mode = int(box.check_output("stat --format=%a /run/moatvpn/control.sock"), 8)
    assert mode & 0o007 == 0
    assert box.run("runuser --user nobody -- moatctl status").rc != 0


@pytest.mark.parametrize("program", ["cc", "gcc", "make", "telnetd", "inetd", "nginx"])
def test_the_box_has_no_such_program(box: Host, program: str) -> None:
    assert not box.exists(program)


def test_packets_are_aggregated_into_envelopes_of_the_paths_size(box: Host) -> None:
    def mtu(device: str) -> int:
        (link,) = json.loads(box.check_output("ip -json link show dev %s", device))
        return int(link["mtu"])

    connection = lab.connection(box)
    assert (connection["aggfrag"], connection["super_packets"]) == (True, True)
    # All of the lab's wild networks take as much as the box's own.
    lab.wait_for(lambda: lab.connection(box)["path_mtu"] == mtu("wild0"), "the path's MTU", 5)
    assert mtu("moat0") == 65_535


def test_what_no_rule_allows_is_dropped(box: Host) -> None:
    chains = [line.strip() for line in box.check_output("nft list chains").splitlines()]
    bases = [line for line in chains if line.startswith("type ")]
    hooks = {line.split()[3] for line in bases}
    # A moat's postrouting gives its own address to what a policy lets go straight out.
    assert hooks - {"postrouting"} == {"prerouting", "input", "forward", "output"}
    assert all(line.endswith("policy drop;") for line in bases)
