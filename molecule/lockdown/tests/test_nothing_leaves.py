"""Whatever happens to the moat, the wild side sees envelopes, and nothing of the private side."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forge
import hardware
import lab
import pcap
import pytest
import watching
from testinfra.host import Host
from watching import watch

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = Path(__file__).resolve().parents[1]
MOAT = "m0001.moats.example.net"
RULESET = "/etc/moatvpn/lockdown.nft"


def pid(moat: Host) -> str:
    """Return the process of the moat's moatd, "0" where there is none."""
    return str(moat.check_output("systemctl show --property=MainPID --value moatd"))


def run_playbook(*settings: str) -> str:
    """Run site.yml for the moat, as an operator does; return what it says."""
    words = [word for setting in settings for word in ("--extra-vars", setting)]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "molecule/shared/connection_plugins"),
        "MOAT_DATABASE": f"sqlite:///{ROOT}/build/lab/{SCENARIO.name}.sqlite",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [
            "ansible-playbook",
            f"--inventory={ROOT}/molecule/shared/inventory",
            f"--inventory={SCENARIO}/lab.yml",
            f"--limit={MOAT}",
            *words,
            str(ROOT / "site.yml"),
        ],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_there_is_something_to_be_seen(pc: Host, corp: Host) -> None:
    """The tests below would prove nothing if the pc were silent, or the moat heard nothing."""
    with lab.capture("moat", "home0") as inside, lab.capture("corp", "corp0") as beyond:
        watching.wait_for_chatter(10)
    ends = {packet.destination for packet in inside.packets() if watching.MARKER in packet.payload}
    assert ends >= {
        lab.CORP, lab.CORP6, lab.WEB, "192.0.2.1", lab.ATTACKER, lab.PORTAL_WILD, "2001:db8::80",
        "10.201.1.255", "255.255.255.255", "224.0.0.251", "239.255.255.250", "ff02::fb", "ff05::2",
    }  # fmt: skip
    assert {packet.destination for packet in inside.packets() if packet.protocol == pcap.TCP}
    assert "ethertype 0x88b5" in inside.summary()
    assert watching.MARKER in beyond.raw


@pytest.mark.timeout(240)
def test_a_shutdown_and_a_cold_boot(moat: Host) -> None:
    with watch(also=watching.BOOT):
        hardware.switch_off("moat")
        watching.wait_for_chatter()
        hardware.switch_on("moat")
    assert moat.run("systemctl is-system-running --wait").stdout.strip() == "running"
    mounted = moat.check_output("findmnt --noheadings --output=OPTIONS /")
    assert "ro" in mounted.split(",")


def test_a_power_cut(moat: Host) -> None:
    with watch(also=watching.BOOT):
        lab.restart("moat")


def test_a_daemon_that_dies_again_and_again(moat: Host) -> None:
    with watch():
        for _ in range(4):
            before = pid(moat)
            moat.run_expect([0], "systemctl kill --signal=KILL moatd")
            lab.wait_for(lambda b=before: pid(moat) not in ("0", b), "another moatd", 10)


def test_a_daemon_that_does_not_come_back(moat: Host) -> None:
    with watch():
        try:
            moat.run_expect([0], "systemctl kill --signal=KILL moatd && systemctl stop moatd")
            watching.wait_for_chatter(20)
        finally:
            moat.run_expect([0], "systemctl start moatd")


def test_a_rekey(moat: Host) -> None:
    name = lab.connection(moat)["name"]
    with watch():
        for sa, spi in (("child", "spi_in"), ("ike", "ike_spi_i")):
            before = lab.connection(moat)[spi]
            lab.moatctl(moat, "rekey", name, sa)
            lab.wait_for(lambda s=spi, b=before: lab.connection(moat)[s] != b, f"a new {sa} SA", 10)


def test_a_lease_is_renewed(moat: Host) -> None:
    with watch() as seen:
        moat.run_expect([0], "networkctl renew wild0")
        watching.wait_for_chatter()
    assert seen.summary()["DHCP"] > 0


def test_a_router_advertisement_of_an_attacker(moat: Host) -> None:
    ways = "ip -6 route show table all && ip -6 address show dev wild0"
    before = moat.check_output(ways)
    with watch() as seen:
        forge.send_frames([forge.router_advertisement(watching.ATTACKER)] * 20)
        watching.wait_for_chatter(20)
    assert seen.summary()["IPv6 link-local"] >= 20
    assert moat.check_output(ways) == before


@pytest.mark.timeout(240)
def test_a_network_card_is_pulled_and_plugged_again(moat: Host) -> None:
    with watch():
        hardware.unplug("moat", "wild0")
        watching.wait_for_chatter()
        hardware.plug("moat", "wild0", "access", watching.MOAT)
        lab.wait_for_tunnel(60)
        moat.run_expect([0], "ip link set dev wild0 down && ip link set dev wild0 up")
        moat.run_expect([0], "ip link set dev home0 down && ip link set dev home0 up")


@pytest.mark.timeout(240)
def test_the_playbook_runs_again_and_upgrades_moatvpn(moat: Host) -> None:
    before = moat.check_output("readlink /opt/moatvpn")
    with watch():
        run_playbook("moatvpn_log_level=debug", "__moatvpn_version=of-the-lockdown-test")
    assert moat.check_output("readlink /opt/moatvpn") != before


def test_packages_are_configured_anew(moat: Host) -> None:
    """What an upgrade of the packages under the moat's network does when it has unpacked them."""
    with watch():
        moat.run_expect(
            [0], "DEBIAN_FRONTEND=noninteractive moat-rw dpkg-reconfigure systemd nftables dbus"
        )
        moat.run_expect([0], "systemctl daemon-reexec && systemctl restart systemd-networkd")
        watching.wait_for_chatter()


def test_a_ruleset_that_cannot_be_loaded_leaves_the_old_one(moat: Host) -> None:
    rules = "nft --stateless list table inet moat"
    before = moat.check_output(rules)
    with watch():
        moat.run_expect([0], "cp %s /run/lockdown.nft && echo nonsense >> %s", RULESET, RULESET)
        try:
            moat.run_expect([1], "systemctl reload moat-lockdown")
            watching.wait_for_chatter()
            assert moat.check_output(rules) == before
        finally:
            moat.run_expect([0], "cat /run/lockdown.nft > %s", RULESET)
        moat.run_expect([0], "systemctl reload moat-lockdown")
    assert moat.check_output(rules) == before
