"""sshd of a moat: with a key, from the home, and from the operators' network through the tunnel."""

from __future__ import annotations

from collections.abc import Iterator

import lab
import pytest
from testinfra.host import Host

ROOM = "/run/lab-ssh"
KEY = f"{ROOM}/key"
AUTHORIZED = "/root/.ssh/authorized_keys"
ELSEWHERE = "10.50.0.99"  # of the corporate network, but not of its operators' part


@pytest.fixture(scope="module", autouse=True)
def key(corp: Host, pc: Host, moat: Host) -> Iterator[None]:
    """The operator's key, made for these tests, which the moat knows and corp and pc have."""
    for machine in (corp, pc):
        machine.run_expect([0], f"mkdir --mode=700 {ROOM}")
    corp.run_expect([0], f"ssh-keygen -q -t ed25519 -N '' -f {KEY}")
    private, public = (corp.file(KEY + suffix).content for suffix in ("", ".pub"))
    put = "import os, sys; os.makedirs(os.path.dirname(sys.argv[1]), 0o700, exist_ok=True)\n"
    put += "os.umask(0o077); open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    lab.send_python("pc", put, KEY, data=private)
    lab.send_python("moat", put, AUTHORIZED, data=public)
    try:
        yield
    finally:
        moat.run_expect([0], f"rm {AUTHORIZED}")
        for machine in (corp, pc):
            machine.run_expect([0], f"rm -r {ROOM}")


def login(machine: Host, *options: str) -> tuple[int, str]:
    """Try to log in to the moat's inner address; return the exit code and all that ssh says."""
    words = (
        "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "IdentitiesOnly=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        *options, f"root@{lab.MOAT}", "hostname",
    )  # fmt: skip
    done = machine.run(" ".join(["%s"] * len(words)), *words)
    return done.rc, done.stdout + done.stderr


@pytest.mark.parametrize("whence", ["corp", "pc"])
def test_an_operator_with_a_key_gets_in(whence: str, moat: Host) -> None:
    status, said = login(lab.host(whence), "-i", KEY)
    assert status == 0, said
    assert moat.check_output("hostname") in said.splitlines()


@pytest.mark.parametrize("whence", ["corp", "pc"])
def test_nobody_gets_in_without_a_key(whence: str) -> None:
    """No password is even asked for: a key is all that the moat offers to take."""
    status, said = login(lab.host(whence), "-i", "/nonexistent")
    assert status == 255
    assert "Permission denied (publickey)." in said


@pytest.fixture
def colleague(corp: Host) -> Iterator[Host]:
    """Corp, which has an address that is none of the operators' besides its own."""
    corp.run_expect([0], "ip address add %s/24 dev corp0", ELSEWHERE)
    try:
        yield corp
    finally:
        corp.run_expect([0], "ip address del %s/24 dev corp0", ELSEWHERE)


def test_elsewhere_in_the_corporation_a_key_is_of_no_use(colleague: Host, moat: Host) -> None:
    before = lab.dropped(moat)["dropped_tunnel_input"]
    status, said = login(colleague, "-b", ELSEWHERE, "-i", KEY)
    assert status == 255
    assert "timed out" in said
    assert lab.dropped(moat)["dropped_tunnel_input"] > before
    assert colleague.run("ping -n -c 1 -W 1 -I %s %s", ELSEWHERE, lab.MOAT).rc == 0


def test_the_portal_itself_does_not_even_ask(portal: Host) -> None:
    before = lab.dropped(portal)["dropped_tunnel_output"]
    status, said = login(portal, "-b", lab.PORTAL_TUNNEL)
    assert status == 255
    assert "timed out" in said
    assert lab.dropped(portal)["dropped_tunnel_output"] > before


def test_the_wild_side_gets_no_answer(attacker: Host, moat: Host) -> None:
    before = lab.dropped(moat)["dropped_wild_input"]
    done = attacker.run("nc -z -w 2 %s 22", lab.wild_address(moat))
    assert done.rc == 1
    assert lab.dropped(moat)["dropped_wild_input"] > before
