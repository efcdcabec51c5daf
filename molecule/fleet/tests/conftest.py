"""The fleet's machines, moat-fleet as operators run it, and a conversation through every tunnel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("MOAT_LAB_PREFIX", "moat-fleet-")

import lab
import pytest

ROOT = Path(__file__).resolve().parents[3]
MOATS = tuple(f"m{number:04}" for number in range(1, 25))
PORTALS = ("portal", "portal2")

# Says something ten times a second over one TCP connection, and notes how long an answer took.
_TALK = f"""
import json, os, socket, time
longest, count, broken = 0.0, 0, None
try:
    with socket.create_connection(("{lab.CORP}", 7), timeout=30) as peer:
        while True:
            began = time.monotonic()
            peer.sendall(b"%63d\\n" % count)
            got = b""
            while len(got) < 64:
                part = peer.recv(64)
                if not part:
                    raise ConnectionError("closed")
                got += part
            longest, count = max(longest, time.monotonic() - began), count + 1
            with open("/run/talk.new", "w") as file:
                json.dump({{"count": count, "longest": longest, "broken": None}}, file)
            os.rename("/run/talk.new", "/run/talk.json")
            time.sleep(0.1)
except OSError as error:
    with open("/run/talk.json", "w") as file:
        json.dump({{"count": count, "longest": longest, "broken": str(error)}}, file)
"""

# What is neither IKE, nor ESP, nor what finds neighbours.
_CLEAR = "not (udp port 500 or udp port 4500 or ip proto 50 or arp or icmp6)"


def on_each(names: Sequence[str], work: Callable[[str], Any]) -> dict[str, Any]:
    """Do some work for each machine, several at a time; return what came of it by their names."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


class Fleet:
    """moat-fleet, on the lab's database and its machines."""

    def __init__(self) -> None:
        inventories = ("molecule/shared/inventory", "molecule/fleet/lab.yml")
        self._environment = os.environ | {
            "MOAT_DATABASE": f"sqlite:///{ROOT}/build/lab/fleet.sqlite",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_INVENTORY": ",".join(str(ROOT / each) for each in inventories),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it as the head of a group of processes, which can be killed together."""
        return subprocess.Popen(
            [Path(sys.executable).with_name("moat-fleet"), *words],
            env=self._environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Run it; return its exit status, and what it said."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=400)
        return process.returncode, said

    def did(self, *words: str) -> str:
        """Run it, and hold that all went well; return what it said."""
        status, said = self.run(*words)
        assert status == 0, said
        return said

    def ledger(self, kind: str) -> dict[str, str]:
        """Return where each box of the newest operation of a kind is."""
        shown = json.loads(self.did(kind, "show", "--json"))
        return {each["box"].partition(".")[0]: each["state"] for each in shown["boxes"]}


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return Fleet()


class Talk:
    """A conversation with a corporate host through each moat's tunnel."""

    def heard(self, *names: str) -> dict[str, dict[str, Any]]:
        """Return of each moat how many answers came, how long one took at most, what broke it."""

        def one(name: str) -> Any:
            return json.loads(lab.host(name).file("/run/talk.json").content)

        return on_each(names, one)

    def wait_for_more(self, *names: str) -> None:
        """Wait until each has got another answer."""
        before = self.heard(*names)
        lab.wait_for(
            lambda: all(
                now["count"] > before[name]["count"] for name, now in self.heard(*names).items()
            ),
            "answers through every tunnel",
            30,
        )


@pytest.fixture(scope="session")
def talk() -> Iterator[Talk]:
    def start(name: str) -> None:
        machine = lab.host(name)
        lab.wait_for(lambda: lab.status(machine)["connections"][0]["child_sas"], name, 60)
        begin = "setsid --fork python3 -c %s >/run/talk.log 2>&1 </dev/null"
        machine.run_expect([0], begin, _TALK)
        lab.wait_for(lambda: machine.file("/run/talk.json").exists, f"an answer to {name}", 30)

    on_each(MOATS, start)
    yield Talk()
    on_each(MOATS, lambda name: lab.host(name).run("pkill -f /run/talk.json"))


@pytest.fixture(scope="session")
def clear_packets() -> Iterator[Callable[[], str]]:
    """What has come to the portals in clear, one line a packet."""
    for name in PORTALS:
        lab.host(name).run_expect(
            [0],
            "systemd-run --quiet --unit=ear --property=StandardOutput=file:/run/ear "
            "--property=StandardError=null "
            "tcpdump -nn -l -i wild0 --immediate-mode %s",
            _CLEAR,
        )

    def heard() -> str:
        return "".join(lab.host(name).file("/run/ear").content_string for name in PORTALS)

    yield heard
    for name in PORTALS:
        lab.host(name).run_expect([0], "systemctl stop ear")
