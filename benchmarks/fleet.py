"""What a fleet of thousands costs its operators: the database, the inventory, one portal's moatd.

    python benchmarks/fleet.py [--customers N] [--few N] [--output FILE]

The same is done with FEW customers and then with all of them: import from CSV, keys recorded, the
inventory read by Ansible, the portal's set of connections made. Then, on a moatd in a network
namespace that has all connections, and a live tunnel of one moat: one customer's network is
changed, and the live one revoked. Both go the way of the roles, moat-fleet, inventory plugin,
`moatctl set`; the rest of a playbook, and ssh, are not in the figures. Seconds are those of the
clock; cpu_s are those of a core, which hold on a machine with other work, too. Needs root.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from machine import machine
from scale_moats import Fleet, Moat
from scale_portal import ADDRESS, GATEWAY, IDENTITY, PRIVATE_NETWORKS, Portal, wild_side
from sqlalchemy import select

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.models import Box, PublicKey

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0
PROGRAMS = Path(sys.executable).parent
MEGABYTE = 1e6
Figures = dict[str, Any]

# Figure, unit, what to reach at most (None: nothing was agreed).
GOALS: tuple[tuple[str, str, float | None], ...] = (
    ("customers", "", None),
    ("import_s", "s", 10),
    ("import_cpu_s", "s", None),
    ("inventory_s", "s", 5),
    ("inventory_cpu_s", "s", None),
    ("inventory_mb", "MB", 500),
    ("compile_s", "s", None),
    ("compile_cpu_s", "s", None),
    ("one_change_s", "s", 15),
    ("one_change_cpu_s", "s", None),
    ("boxes_touched", "", 2),
    ("revoke_s", "s", 10),
    ("revoke_cpu_s", "s", None),
)


class Office:
    """An operator's database, one portal's moatd, and its moats, of which one is live."""

    def __init__(self, directory: Path, portal: Portal, fleet: Fleet, moats: list[Moat]) -> None:
        self._directory, self._portal, self._fleet, self._moats = directory, portal, fleet, moats
        self._database = Database(database_url(str(directory / "moat.sqlite")), "benchmark")
        self._environment = {
            **os.environ,
            "MOAT_DATABASE": f"sqlite:///{directory}/moat.sqlite",
            "PYTHONPATH": str(ROOT / "src"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        }
        self.figures: Figures = {"customers": len(moats)}

    def measure(self) -> None:
        """Do everything, in the order in which one thing needs the other."""
        self._say(f"import {len(self._moats)} customers")
        self._import()
        self._keys()
        self._say("read the inventory")
        words = ("ansible-inventory", *self._host(self._moats[-1].identity))
        self._time("inventory", lambda: self._weigh(*words))
        self._time("compile", lambda: json.dumps(self._hosts()[IDENTITY]))
        self._say("give the portal its connections, and set one tunnel up")
        self._set()
        self._portal.start()
        live, other = self._moats[0], self._moats[len(self._moats) // 2]
        self._fleet.start(live, self._portal.public_text)
        self._until(lambda: live.number in self._fleet.up, "the tunnel")
        self._say("change one customer")
        before = self._hosts()
        subnet = Moat(len(self._moats) + 1).networks[0]  # which is nobody's
        words = ("customer", "set", other.name, "--private-subnet", subnet)
        self._time("one_change", lambda: self._change(*words))
        row = self._portal.ask("show", name=other.name)
        if subnet not in json.dumps(row):
            raise SystemExit(f"fleet: the portal does not have {subnet}")
        after = self._hosts()
        self.figures["boxes_touched"] = sum(after[name] != before[name] for name in before)
        if self._fleet.lost:
            raise SystemExit("fleet: the change of one customer ended another's tunnel")
        self._say("revoke the customer whose tunnel is up")
        self._time("revoke", lambda: self._revoke(live))

    def _import(self) -> None:
        self._run("moat-fleet", "init")
        four, six = PRIVATE_NETWORKS
        self._run(
            "moat-fleet",
            "portal",
            "add",
            IDENTITY,
            *("--wild-address", f"{ADDRESS}/24", "--wild-gateway", GATEWAY),
            *("--corporate-address", "10.50.0.1/24", "--corporate-gateway", "10.50.0.10"),
            *("--corporate-address6", "fd00:50::1/64", "--corporate-gateway6", "fd00:50::10"),
            *("--pool", four, "--tunnel-address", "10.255.255.1/32"),
            *("--pool6", six, "--tunnel-address6", "fd00:128:ffff::1/128"),
        )
        path = self._directory / "customers.csv"
        columns = ("customer", "name", "isp", "status", "portal", "moat")
        columns += ("private_subnet", "private_subnet6")
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for moat in self._moats:
                row = (moat.name, f"Customer {moat.number}", f"ISP {moat.number % 7}", "active")
                writer.writerow((*row, IDENTITY, moat.identity, *moat.networks))
        words = ("moat-fleet", "customer", "import", "--csv", str(path))
        self._time("import", lambda: self._run(*words))

    def _keys(self) -> None:
        """Record every box's key, all at once: on real boxes that is a task of each run."""
        now = datetime.now(UTC).replace(microsecond=0)
        keys = {moat.identity: moat.signer.public_text for moat in self._moats}
        keys[IDENTITY] = self._portal.public_text
        with self._database.write() as session:
            for box in session.scalars(select(Box)):
                row = PublicKey(box=box, key=keys[box.identity], not_before=now, not_after=None)
                session.add(row)

    def _hosts(self) -> dict[str, dict[str, Any]]:
        with self._database.read() as session:
            return build_inventory(session, datetime.now(UTC)).hosts

    @staticmethod
    def _host(name: str) -> tuple[str, ...]:
        return ("-i", str(ROOT / "inventory" / "moat.yml"), "--host", name)

    def _set(self) -> None:
        """Have exactly the connections on the portal that Ansible has for it now."""
        found = json.loads(self._run("ansible-inventory", *self._host(IDENTITY)))
        wanted = self._directory / "set.json"
        wanted.write_text(json.dumps({"connections": found["moatvpn_connections"]}))
        self._run("moatctl", "set", str(wanted), *self._portal.places)

    def _change(self, *words: str) -> None:
        self._run("moat-fleet", *words)
        self._set()

    def _revoke(self, moat: Moat) -> None:
        self._fleet.lost = 0
        self._change("customer", "revoke", moat.name, "--yes", "--no-push")
        self._until(lambda: self._fleet.lost > 0, "the end of the tunnel")

    def _until(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not done():
            self._fleet.pump(0.01)
            if time.monotonic() > until:
                raise SystemExit(f"fleet: {what}: not within {PATIENCE:g} s")

    def _run(self, program: str, *words: str) -> str:
        """Run a program and return what it prints; the live moat lives on meanwhile."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = [str(PROGRAMS / program), *words]
            process = subprocess.Popen(command, stdout=out, stderr=err, env=self._environment)
            while process.poll() is None:
                self._fleet.pump(0.01)
            for file in (out, err):
                file.seek(0)
            if process.returncode:
                raise SystemExit(f"fleet: {program} {words[0]}: {err.read().strip()}")
            return out.read()

    def _weigh(self, program: str, *words: str) -> None:
        """Run a program, and note its most megabytes."""
        command = [str(PROGRAMS / program), *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self._environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"fleet: {program} failed")
        self.figures["inventory_mb"] = used.ru_maxrss * 1024 / MEGABYTE

    def _time(self, name: str, work: Callable[[], object]) -> None:
        """Note the seconds that work takes, and those of a core that it and its programs do.

        moatd is no part of the latter, nor is what this process does for the live moat meanwhile
        where a program does the work: but for the compilation, it is all that there is.
        """
        began, own, programs = time.monotonic(), time.process_time(), _programs_cpu()
        work()
        self.figures[f"{name}_s"] = time.monotonic() - began
        cpu = _programs_cpu() - programs or time.process_time() - own
        self.figures[f"{name}_cpu_s"] = cpu

    @staticmethod
    def _say(what: str) -> None:
        print(f"fleet: {what}", flush=True)


def _programs_cpu() -> float:
    """Return the seconds of a core of all programs that have been run and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def figures_of(customers: int) -> Figures:
    """Return the figures of a fleet of so many."""
    name = f"moat-fleet-{os.getpid()}"
    moats = [Moat(number) for number in range(customers)]
    with tempfile.TemporaryDirectory() as directory, wild_side(f"{name}-p", f"{name}-m"):
        portal = Portal(f"{name}-p", Path(directory))
        with closing(Fleet(f"{name}-m", moats)) as fleet:
            office = Office(Path(directory), portal, fleet, moats)
            try:
                office.measure()
            finally:
                portal.kill()
            return office.figures


def table(few: Figures, all_of_them: Figures) -> str:
    """Return the figures and the goals as text."""
    lines = [f"{'figure':<18}{'few':>10}{'all':>10}{'goal':>10}"]
    for name, unit, goal in GOALS:
        wanted = "" if goal is None else f"<= {goal:g}"
        verdict = "" if goal is None or all_of_them[name] <= goal else "  MISSED"
        values = f"{few[name]:>10.4g}{all_of_them[name]:>10.4g}"
        lines.append(f"{name:<18}{values}{wanted:>10} {unit}{verdict}")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the figures down."""
    parser = argparse.ArgumentParser(description="Measure what a fleet costs its operators.")
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--output", type=Path, default=Path("build/fleet.json"))
    options = parser.parse_args()
    few = figures_of(options.few)
    everything = figures_of(options.customers)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {**everything, "few": few, "machine": machine()}
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(table(few, everything))


if __name__ == "__main__":
    main()
