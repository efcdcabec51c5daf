"""What hands do to the lab's machines: switch them off and on, and pull and plug their cables."""

from __future__ import annotations

import json
import subprocess

import lab


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=120, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def switch_off(name: str) -> None:
    """Let a machine shut down in good order."""
    _run("podman", "stop", "--time", "20", lab.container(name))


def switch_on(name: str) -> None:
    """Start a machine that is off."""
    _run("podman", "start", lab.container(name))


def _bridge(network: str) -> str:
    """Return the bridge that a network of the lab is."""
    (found,) = json.loads(_run("podman", "network", "inspect", lab.container(network)))
    return str(found["network_interface"])


def share_medium(network: str) -> None:
    """Make a network one medium, like a cable of old: each of its machines hears every frame."""
    bridge = _bridge(network)
    _run("ip", "link", "set", "dev", bridge, "type", "bridge", "ageing_time", "0", "fdb_flush")


def unplug(name: str, interface: str) -> None:
    """Take a network card out of a running machine."""
    lab.host(name).run_expect([0], "ip link delete dev %s", interface)


def plug(name: str, interface: str, network: str, mac: str) -> None:
    """Put a network card into a running machine, and its cable into a network."""
    (found,) = json.loads(_run("podman", "inspect", lab.container(name)))
    pid = str(found["State"]["Pid"])
    cable = f"lab{pid}"
    _run(
        "ip", "link", "add", cable, "type", "veth",
        "peer", "name", interface, "address", mac, "netns", pid,
    )  # fmt: skip
    _run("ip", "link", "set", "dev", cable, "master", _bridge(network), "up")
