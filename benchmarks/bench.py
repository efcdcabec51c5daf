"""What moatvpn carries, beside plain routing and the user-space tunnels of others.

    python benchmarks/bench.py [--rounds N] [--seconds S] [--only NAME...] [--profile]
        [--output DIRECTORY]

Each system in turn gets five network namespaces of its own (peers/street.py) and carries TCP, UDP
and pings (peers/measure.py); then comes the next round. Needs root, and what `scripts/setup bench`
installs. Medians and all rounds go to bench.json in DIRECTORY (build), and a table and the goals to
the screen. A plot, bench.svg, goes there, too; that of a whole run goes to docs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "interop"))

from boxes import wait_for
from machine import machine
from peers.figures import Figures, medians, spread
from peers.goals import table, verdicts
from peers.measure import LAST, Meter
from peers.plot import plot
from peers.profiler import Profiler, find_py_spy
from peers.street import CORP, Street, street, sweep
from peers.systems import SYSTEMS

_TOP = Path(__file__).resolve().parent.parent
_ROUNDS, _SECONDS = 3, 4.0  # of a run that may be published: how many, and of each transfer
_QUIET = 0.5  # the most load average of a machine that has nothing else to do
_PROGRAMS = ("ethtool", "ip", "iperf3", "ping")  # without which nothing can be measured
_PACKAGES = ("charon-systemd", "iperf3", "openvpn", "wireguard-go")
_UP_WITHIN = 20.0  # seconds from the start of a system to the first ping


class Bench:
    """The rounds of some systems, and what they gave."""

    def __init__(self, options: Namespace, directory: Path, py_spy: str | None) -> None:
        self.rounds: dict[str, list[Figures]] = {name: [] for name in options.only}
        self.errors: dict[str, str] = {}
        self._seconds = options.seconds
        self._output = options.output
        self._directory = directory
        self._py_spy = py_spy

    def run(self, number: int) -> None:
        """Measure each system once."""
        for name in self.rounds:
            print(f"bench: round {number}: {name}:", end="", flush=True)
            self._measure(name, self._directory / f"{number}-{name}")
            print(flush=True)

    def _measure(self, name: str, directory: Path) -> None:
        """Measure one system; what goes wrong with it becomes its error, and ends nothing else."""
        figures: Figures = {}
        self.rounds[name].append(figures)
        try:
            with street(directory, SYSTEMS[name].end) as made:
                try:
                    self._use(name, made, figures)
                except Exception:
                    print(f"\n{made.logs()}", end="")
                    raise
                finally:
                    SYSTEMS[name].tidy(made)
        except Exception as error:  # whatever it is: the other systems go on
            self.errors[name] = f"{type(error).__name__}: {error}"
            print(f"\nbench: ERROR: {self.errors[name]}", end="")

    def _use(self, name: str, made: Street, figures: Figures) -> None:
        """Set one system up, and put what is measured of it into figures."""
        system = SYSTEMS[name]
        system.start(made)
        wait_for(lambda: made.pc.pings(CORP), "a ping through the tunnel", _UP_WITHIN)
        system.check(made)
        if self._py_spy and name.startswith("moatvpn-"):
            watcher = Profiler(self._py_spy, made, name, self._output)
            Meter(made, self._seconds, figures, watcher.watch).measure()
            print("\n" + "\n".join(watcher.summaries), end="")
        else:
            Meter(made, self._seconds, figures).measure()

    def whole(self) -> bool:
        """Return whether this may be published: everything was measured, and often enough."""
        complete = [[figures for figures in r if LAST in figures] for r in self.rounds.values()]
        return (
            set(self.rounds) == set(SYSTEMS)
            and all(len(rounds) >= _ROUNDS for rounds in complete)
            and self._seconds >= _SECONDS
            and not self._py_spy
        )

    def results(self) -> list[dict[str, Any]]:
        """Return what goes into build/bench.json of each system."""
        rows = []
        for name, rounds in self.rounds.items():
            apart = spread(rounds, ("up_mbps", "down_mbps"))
            row: dict[str, Any] = {"name": name, **medians(rounds), "spread": apart, "raw": rounds}
            if name in self.errors:
                row["error"] = self.errors[name]
            rows.append(row)
        return rows


def report(bench: Bench, where: dict[str, object], done: int, options: Namespace) -> None:
    """Write down and show what has been measured in the rounds done, be it all or not."""
    results = bench.results()
    head = {"machine": where, "rounds": done, "seconds": options.seconds}
    output = options.output / "bench.json"
    output.write_text(json.dumps({**head, "results": results}, indent=2) + "\n")
    picture = (_TOP / "docs" if bench.whole() else options.output) / "bench.svg"
    picture.write_text(plot(results))
    print(f"\n{table(results)}\n\n{verdicts(results)}\n\nbench: wrote {output} and {picture}")


def ready(options: Namespace) -> dict[str, object]:
    """Return what the machine is; end with a remedy where it cannot measure."""
    if os.geteuid():
        raise SystemExit("bench: network namespaces need root: run it as root")
    if options.profile and find_py_spy() is None:
        raise SystemExit("bench: no py-spy: run 'build/venv/bin/pip install py-spy'")
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"bench: no {', '.join(missing)}: run 'scripts/setup bench'")
    options.output.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > _QUIET:
        print(f"bench: the machine is busy (load {load:.1f}): figures will be worth little")
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {**machine(), "tcp_congestion_control": congestion, "packages": _versions()}


def _versions() -> dict[str, str]:
    words = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *_PACKAGES)
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return dict(line.split() for line in told.splitlines() if len(line.split()) == 2)


def _stop_once(_number: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C, but only once: what cleans up must not be stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Measure, and write the figures down."""
    parser = argparse.ArgumentParser(description="Compare moatvpn with others' tunnels.")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of each transfer")
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--profile", action="store_true", help="look at moatd with py-spy")
    parser.add_argument("--output", type=Path, default=_TOP / "build", help="where files go")
    options = parser.parse_args()
    where = ready(options)
    py_spy = find_py_spy() if options.profile else None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_once)
    with tempfile.TemporaryDirectory(prefix="moat-bench-") as directory:
        bench = Bench(options, Path(directory), py_spy)
        done = 0
        try:
            for done in range(1, options.rounds + 1):
                bench.run(done)
        except KeyboardInterrupt:
            print("\nbench: stopped")
            raise SystemExit(130) from None
        finally:
            sweep()
            report(bench, where, done, options)
    if bench.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
