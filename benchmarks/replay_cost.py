"""What the replay window takes to remember one packet, in nanoseconds, on one core.

    python benchmarks/replay_cost.py [--packets N] [--rounds N]

Packets in order, one in so many lost or overtaken, and the worst of both: every other one. A
figure is the smallest of the rounds, without the loop's own cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.esp.loss import estimate
from moatvpn.esp.replay import WINDOW, ReplayWindow

RUN = 44  # envelopes of 1,500 octets that the kernel hands over at once
DEPTH = 8  # by so many numbers a packet is overtaken


def full_window() -> ReplayWindow:
    """Return a window that everything has come of."""
    window = ReplayWindow()
    for number in range(1, WINDOW + 1):
        window.commit(number)
    return window


def numbers(packets: int, *, lose: int = 0, overtake: int = 0) -> list[int]:
    """Return the numbers that come: one in `lose` does not, one in `overtake` comes late."""
    sent = range(WINDOW + 1, WINDOW + 1 + packets)
    if overtake:
        return sorted(sent, key=lambda number: number + (DEPTH + 0.5) * (number % overtake == 0))
    return [number for number in sent if not lose or number % lose]


def commit_all(window: ReplayWindow, came: Sequence[int]) -> None:
    """Give window every number, one by one."""
    commit = window.commit
    for number in came:
        commit(number)


def commit_runs(window: ReplayWindow, came: Sequence[int]) -> None:
    """Give window runs of RUN numbers, which begin with each of came."""
    commit_run = window.commit_run
    for number in came:
        commit_run(number, RUN)


def only_loop(window: ReplayWindow, came: Sequence[int]) -> None:
    """Do what commit_all does but for the call."""
    for _ in came:
        pass


def cost(
    call: Callable[[ReplayWindow, Sequence[int]], None], came: Sequence[int], rounds: int
) -> float:
    """Return how many nanoseconds call takes for each of came."""
    best = float("inf")
    for _ in range(rounds):
        window = full_window()
        began = perf_counter()
        call(window, came)
        best = min(best, perf_counter() - began)
    return best / len(came) * 1e9


def estimate_cost(came: Sequence[int], rounds: int) -> float:
    """Return how many nanoseconds an estimate of loss takes after came."""
    window = full_window()
    commit_all(window, came)
    repeats = 1_000
    best = float("inf")
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(repeats):
            estimate(window)
        best = min(best, perf_counter() - began)
    return best / repeats * 1e9


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the replay window.")
    parser.add_argument("--packets", type=int, default=100_000, help="packets in a round")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of which the best counts")
    options = parser.parse_args()
    packets, rounds = options.packets, options.rounds
    in_order = numbers(packets)
    loop = cost(only_loop, in_order, rounds)
    cases = {
        "commit, in order": in_order,
        "commit, 1 % lost": numbers(packets, lose=100),
        "commit, 1 % overtaken": numbers(packets, overtake=100),
        "commit, every other one lost": numbers(packets, lose=2),
        "commit, every other one overtaken": numbers(packets, overtake=2),
    }
    for name, came in cases.items():
        print(f"{name:<40}{cost(commit_all, came, rounds) - loop:8.0f} ns")
    starts = range(WINDOW + 1, WINDOW + 1 + packets * RUN, RUN)
    gaps = range(WINDOW + 2, WINDOW + 2 + packets * (RUN + 1), RUN + 1)
    for name, came in {"in order": starts, "one before it lost": gaps}.items():
        name = f"commit_run of {RUN}, {name}"
        print(f"{name:<40}{cost(commit_runs, came, rounds) - loop:8.0f} ns")
    lossy = numbers(packets, lose=100)
    print(f"{'estimate':<40}{estimate_cost(lossy, rounds):8.0f} ns")


if __name__ == "__main__":
    main()
