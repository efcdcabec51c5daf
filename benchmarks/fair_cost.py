"""What it costs to let packets wait in fair shares, in microseconds a packet, on one core.

    python benchmarks/fair_cost.py [--rounds N]

Some connections have one flow each, and each lets packets wait in turn; then all are taken. `alone`
is one connection whose packets come one by one, `runs` is the same in runs, as a device gives them:
esp.shares lets a run of one flow wait as one. A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.esp.fair import PACKET_COST, FairQueue

_PACKETS = 4000
_SIZE = 64 + PACKET_COST
_MOST = 1 << 30
_AT_ONCE = 1 << 18


def once(connections: int, together: int) -> float:
    """Return the microseconds a packet of one round; so many packets wait together."""
    queue: FairQueue[int] = FairQueue(_MOST)
    puts = _PACKETS // together
    began = perf_counter()
    for number in range(puts):
        queue.put((number % connections, "flow"), number, together * _SIZE)
    while queue:
        queue.take(_AT_ONCE)
    return (perf_counter() - began) * 1e6 / _PACKETS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for name, connections, together in (
        ("alone", 1, 1),
        ("alone, runs of 40", 1, 40),
        ("10 connections", 10, 1),
        ("100 connections", 100, 1),
        ("1000 connections", 1000, 1),
        ("4000 connections", 4000, 1),
    ):
        took = statistics.median(once(connections, together) for _ in range(rounds))
        print(f"{name:<24}{took:>8.2f} us", flush=True)


if __name__ == "__main__":
    main()
