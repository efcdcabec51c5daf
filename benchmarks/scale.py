"""What a portal does with thousands of moats: a real moatd, sockets, and a network namespace each.

    python benchmarks/scale.py [--tunnels N] [--calm SECONDS] [--output FILE]

The moats are IKE endpoints in this process (scale_moats.py), each with an address of its own;
the portal is a moatd in another (scale_portal.py), so that each has a core where there are two.
Needs root. Figures go to FILE as JSON, and to a table with what is to be reached. Those in
seconds of a core (`cpu`) are moatd's own, whatever else the machine does meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from machine import machine
from scale_moats import Fleet, Moat
from scale_portal import Portal, wild_side, within

FEW = 100  # tunnels that the figures of many are compared with
BACK = 1_000  # moats that a portal has to have back soon
SAMPLE = 1_000  # set-ups whose cost for moatd is told
AT_ONCE = 100  # moats that call while the rate is measured
ADDITIONS = 101
PACKETS_A_BURST, BURSTS = 50, 200
IDLE_SECONDS = 5.0  # half of what lies between two liveness checks of a tunnel
PATIENCE = 300.0

Figures = dict[str, float]

# Figure, unit, what to reach (None: nothing was agreed), and whether more is better.
GOALS: tuple[tuple[str, str, float | None, bool], ...] = (
    ("tunnels", "", None, True),
    ("setups_per_s", "1/s", 250, True),
    ("setup_cpu_ms", "ms", None, False),
    ("kb_per_tunnel", "KB", 30, False),
    ("kb_per_tunnel_later", "KB", 30, False),
    ("add_one_ms_at_100", "ms", None, False),
    ("add_one_ms", "ms", None, False),
    ("add_one_ratio", "", 1.5, False),
    ("packet_us_at_100", "us", None, False),
    ("packet_us", "us", None, False),
    ("status_s", "s", None, False),
    ("status_pause_ms", "ms", None, False),
    ("idle_cpu", "cores", None, False),
    ("restart_s", "s", 10, False),
    ("rekey_storm_s", "s", None, False),
    ("rekey_cpu_ms", "ms", None, False),
    ("lost_in_rekey_storm", "SAs", 0, False),
    ("lost_in_calm", "SAs", 0, False),
    ("back_all_s", "s", None, False),
    ("back_1000_s", "s", 60, False),
)


class Scale:
    """One run: the portal, the moats, and the figures so far."""

    def __init__(self, portal: Portal, fleet: Fleet, moats: list[Moat], calm: float) -> None:
        self.portal, self.fleet, self.calm = portal, fleet, calm
        self.moats, self.spare = moats[:-1], moats[-1]
        self.few = self.moats[:FEW]
        self.figures: Figures = {"tunnels": len(self.moats)}

    def measure(self) -> None:
        """Do everything, in the order in which one thing needs the other."""
        self.portal.start()
        empty = self.portal.resident()
        self.portal.kill()
        self._few()
        self._say(f"start with {len(self.moats)} connections")
        for moat in self.moats[len(self.few) :]:
            self.portal.write(moat.at_portal())
        self.figures["restart_s"] = self.portal.start()
        self._set_up()
        self.figures["kb_per_tunnel"] = self._kilobytes(empty)
        self.figures["idle_cpu"] = self._idle()
        self.figures["add_one_ms"] = self._add_one()
        self.figures["add_one_ratio"] = (
            self.figures["add_one_ms"] / self.figures["add_one_ms_at_100"]
        )
        self.figures["packet_us"] = self._packets()
        self.figures["status_s"], waited = self.portal.status()
        self.figures["status_pause_ms"] = waited * 1000
        self._rekey_storm()
        self._calm()
        self.figures["kb_per_tunnel_later"] = self._kilobytes(empty)
        self.figures["back_all_s"] = self.figures["back_1000_s"] = self._back()
        if len(self.moats) > BACK:
            self.fleet.keep(BACK)
            self.figures["back_1000_s"] = self._back()

    def _few(self) -> None:
        """Set FEW tunnels up and measure with them what must not depend on their number."""
        self._say(f"measure with {len(self.few)} tunnels")
        for moat in self.few:
            self.portal.write(moat.at_portal())
        self.portal.start()
        for moat in self.few:
            self.fleet.start(moat, self.portal.public_text)
        self._wait(lambda: len(self.fleet.up) == len(self.few))
        self.figures["add_one_ms_at_100"] = self._add_one()
        self.figures["packet_us_at_100"] = self._packets()
        self.portal.kill()
        self.fleet.up.clear()

    def _set_up(self) -> None:
        """Set every tunnel up, AT_ONCE at a time, as fast as the portal goes."""
        self._say(f"set {len(self.moats)} tunnels up")
        waiting = iter(self.moats)
        started = 0
        # The first ones only: later, liveness checks of those before them would be counted, too.
        sample = min(SAMPLE, len(self.moats))
        busy = self.portal.busy()

        def all_up() -> bool:
            nonlocal started
            while started - len(self.fleet.up) < AT_ONCE:
                moat = next(waiting, None)
                if moat is None:
                    break
                self.fleet.start(moat, self.portal.public_text)
                started += 1
            up = len(self.fleet.up)
            if up >= sample and "setup_cpu_ms" not in self.figures:
                self.figures["setup_cpu_ms"] = (self.portal.busy() - busy) / up * 1000
            return len(self.fleet.up) == len(self.moats)

        seconds = self._wait(all_up)
        self.figures["setups_per_s"] = len(self.moats) / seconds

    def _kilobytes(self, empty: int) -> float:
        """Return the memory that moatd has taken for each tunnel; empty is what it had without."""
        return (self.portal.resident() - empty) / 1000 / len(self.moats)

    def _idle(self) -> float:
        """Return which part of a core moatd uses for the tunnels without any traffic."""
        busy, began = self.portal.busy(), time.monotonic()
        while time.monotonic() - began < IDLE_SECONDS:
            self.fleet.pump(0.05)
        return (self.portal.busy() - busy) / (time.monotonic() - began)

    def _add_one(self) -> float:
        """Return the median of milliseconds for one more connection over the control socket.

        Of the connection itself: what the tunnels send meanwhile is out of the way each time, or
        its share of the processor (idle_cpu) would be counted as the connection's.
        """
        config = Portal.record(self.spare.at_portal())
        times = []
        for _ in range(ADDITIONS):
            self.fleet.pump()
            self.portal.settle()
            began = time.monotonic()
            self.portal.ask("add", connection=config)
            times.append((time.monotonic() - began) * 1000)
            self.portal.ask("delete", name=self.spare.name)
        return statistics.median(times)

    def _packets(self) -> float:
        """Return moatd's microseconds for one raw packet that leaves by one of a few tunnels."""
        with within(self.portal.namespace):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        idle = self._idle()
        targets = [moat.networks[0].replace(".0/24", ".9") for moat in self.few]
        with sock:
            before, busy, began = self._packets_out(), self.portal.busy(), time.monotonic()
            for burst in range(BURSTS):
                for n in range(PACKETS_A_BURST):
                    sock.sendto(b"x" * 64, (targets[(burst + n) % len(targets)], 9))
                while time.monotonic() - began < (burst + 1) * 0.01:
                    self.fleet.pump(0.002)
            used = self.portal.busy() - busy - idle * (time.monotonic() - began)
            return used / (self._packets_out() - before) * 1e6

    def _packets_out(self) -> int:
        names = (moat.name for moat in self.few)
        return sum(int(self.portal.ask("show", name=name)["packets_out"]) for name in names)

    def _rekey_storm(self) -> None:
        """Have every moat rekey its CHILD_SA at once."""
        self._say("rekey every CHILD_SA at once")
        fleet, all_of_them = self.fleet, len(self.moats)
        fleet.renewed.clear()
        fleet.lost = 0
        busy, began = self.portal.busy(), time.monotonic()
        for moat in self.moats:
            fleet.rekey(moat)
            fleet.pump()
        self._wait(
            lambda: len(fleet.renewed) == len(fleet.up) == all_of_them,
            lambda: f"{len(fleet.renewed)} rekeyed, {fleet.lost} lost",
        )
        self.figures["rekey_storm_s"] = time.monotonic() - began
        self.figures["rekey_cpu_ms"] = (self.portal.busy() - busy) / len(self.moats) * 1000
        self.figures["lost_in_rekey_storm"] = fleet.lost

    def _calm(self) -> None:
        """Let the tunnels be for a while: none may be lost in it."""
        self._say("leave the tunnels alone")
        self.fleet.lost = 0
        began = time.monotonic()
        self._wait(
            lambda: time.monotonic() - began > self.calm,
            lambda: f"{len(self.fleet.up)} tunnels up, {self.fleet.lost} lost",
        )
        self.figures["lost_in_calm"] = self.fleet.lost

    def _back(self) -> float:
        """Kill the portal and start it again; return the seconds until its moats are back."""
        moats = len(self.fleet.moats) - (self.spare.host in self.fleet.moats)
        self._say(f"kill the portal of {moats} moats and start it again")
        self.portal.kill()
        self.fleet.up.clear()
        began = time.monotonic()
        self.portal.start()
        self._wait(lambda: len(self.fleet.up) == moats)
        return time.monotonic() - began

    def _wait(self, done: Callable[[], bool], progress: Callable[[], str] | None = None) -> float:
        seconds = self.fleet.run(done, progress or self._progress(), PATIENCE)
        if seconds is None:
            raise SystemExit(
                f"scale: not within {PATIENCE:g} s: {(progress or self._progress())()}"
            )
        return seconds

    def _progress(self) -> Callable[[], str]:
        last = [time.monotonic(), len(self.fleet.up)]

        def text() -> str:
            now, up = time.monotonic(), len(self.fleet.up)
            rate = (up - last[1]) / max(now - last[0], 1e-9)
            last[:] = now, up
            return f"{up} tunnels up, {rate:.0f}/s"

        return text

    @staticmethod
    def _say(what: str) -> None:
        print(f"scale: {what}", flush=True)


def table(figures: Figures) -> str:
    """Return the figures and the goals as text."""
    lines = [f"{'figure':<22}{'measured':>12}{'goal':>12}"]
    for name, unit, goal, more in GOALS:
        verdict, wanted = "", ""
        if name not in figures:
            lines.append(f"{name:<22}{'not reached':>12}")
            continue
        if goal is not None:
            reached = figures[name] >= goal if more else figures[name] <= goal
            verdict = "" if reached else "  MISSED"
            wanted = f"{'>=' if more else '<='} {goal:g}"
        lines.append(f"{name:<22}{figures[name]:>12.4g}{wanted:>12} {unit}{verdict}")
    return "\n".join(lines)


def report(figures: Figures, output: Path) -> None:
    """Write down and show what has been measured, be it all or not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**figures, "machine": machine()}, indent=2) + "\n")
    print(table(figures))


def main() -> None:
    """Measure, and write the figures down."""
    parser = argparse.ArgumentParser(description="Measure one portal with thousands of moats.")
    parser.add_argument("--tunnels", type=int, default=10_000)
    parser.add_argument(
        "--calm", type=float, default=25.0, help="seconds without events, after the rekeys"
    )
    parser.add_argument("--output", type=Path, default=Path("build/scale.json"))
    options = parser.parse_args()
    gc.disable()  # of this process, whose moats all stay
    name = f"moat-scale-{os.getpid()}"
    print(f"scale: make {options.tunnels} moats", flush=True)
    moats = [Moat(number) for number in range(options.tunnels + 1)]
    with tempfile.TemporaryDirectory() as directory, wild_side(f"{name}-p", f"{name}-m"):
        portal = Portal(f"{name}-p", Path(directory))
        with closing(Fleet(f"{name}-m", moats)) as fleet:
            scale = Scale(portal, fleet, moats, options.calm)
            try:
                scale.measure()
            finally:
                portal.kill()
                report(scale.figures, options.output)


if __name__ == "__main__":
    main()
