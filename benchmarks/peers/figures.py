"""What programs and the kernel tell, as numbers. Nothing here opens a file."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence

Figures = dict[str, float]

_TICK = os.sysconf("SC_CLK_TCK")  # a second's, in /proc/PID/stat


class UnusableError(Exception):
    """A program did not measure what it was asked to."""


def megabits(text: str) -> float:
    """Return what arrived, in Mb/s, as `iperf3 --json` tells it."""
    try:
        told = json.loads(text)
    except ValueError as error:
        raise UnusableError(f"iperf3 told no JSON: {text[:200]!r}") from error
    if "error" in told:
        raise UnusableError(f"iperf3: {told['error']}")
    try:
        return float(told["end"]["sum_received"]["bits_per_second"]) / 1e6
    except KeyError as error:
        raise UnusableError(f"iperf3 told nothing of {error}") from error


def round_trip(text: str) -> float:
    """Return the median of the round trips that ping tells, in milliseconds."""
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", text)]
    if not times:
        raise UnusableError(f"ping got no answer: {text.strip()[-200:]!r}")
    return statistics.median(times)


def datagrams(snmp: str) -> int:
    """Return how many UDP datagrams programs have received, from /proc/net/snmp."""
    names, numbers = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    return int(numbers[names.index("InDatagrams")])


def octets(dev: str, interface: str) -> int:
    """Return how many octets an interface has carried, both ways, from /proc/net/dev."""
    for line in dev.splitlines():
        name, colon, columns = line.partition(":")
        if colon and name.strip() == interface:
            words = columns.split()
            return int(words[0]) + int(words[8])
    raise UnusableError(f"no interface {interface}")


def busy(stat: str) -> float:
    """Return the seconds of a core that a process and its ended children used (proc(5))."""
    # The program's name stands in parentheses, and may hold any character.
    words = stat.rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / _TICK


def peak_megabytes(status: str) -> float:
    """Return the most memory that a process ever had resident, in units of 10^6 octets."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0  # a process at its end has none


def spread(rounds: Sequence[Mapping[str, float]], names: Sequence[str]) -> float:
    """Return how far apart the rounds are: the most of (largest - smallest) / median by name."""
    most = 0.0
    for name in names:
        values = [figures[name] for figures in rounds if name in figures]
        if values and (middle := statistics.median(values)):
            most = max(most, (max(values) - min(values)) / middle)
    return most


def medians(rounds: Sequence[Mapping[str, float]]) -> Figures:
    """Return the median of each figure over those rounds that have it."""
    names = {name: None for figures in rounds for name in figures}
    return {
        name: statistics.median([figures[name] for figures in rounds if name in figures])
        for name in names
    }
