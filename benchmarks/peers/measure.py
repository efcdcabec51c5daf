"""What is measured of a tunnel that is up, with programs in the namespaces at its two ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from boxes import Namespace

from . import figures
from .figures import Figures, UnusableError
from .goals import short
from .street import CORP, Street, pids

PINGS, PING_INTERVAL, LOADED_INTERVAL = 100, 0.01, 0.05  # how many, and seconds
_HEADERS = 28  # octets of IPv4 and ICMP before what ping sends
_SHORT, _LONG = 56, 1400 - _HEADERS
STREAMS = 8
LAST = "rss_mb"  # the figure that is measured last
_OMITTED = 1  # seconds at the start of each transfer which count for nothing
_SLACK = 15.0  # seconds that a program may take longer than it was told to
_GATHERING = 3.0  # seconds that iperf3's server has to be ready

_FLOOD = str(Path(__file__).with_name("flood.py"))

Watch = Callable[[str], AbstractContextManager[None]]  # what goes on during a transfer so called


def _unwatched(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


class Meter:
    """Measures one system, of which each transfer takes so many seconds."""

    def __init__(
        self, street: Street, seconds: float, told: Figures, watch: Watch = _unwatched
    ) -> None:
        self._street = street
        self._seconds = seconds
        self._told = told
        self._watch = watch

    def measure(self) -> None:
        """Put every figure into told as soon as it is there, and tell it a person."""
        self._note("rtt_short_ms", self._ping(_SHORT))
        self._note("rtt_1400_ms", self._ping(_LONG))
        with _program(self._street.corp, "iperf3", "--server", "--logfile", "/dev/null"):
            with self._cost():
                with (
                    self._watch("up"),
                    self._loaded_ping("rtt_loaded_ms", _SHORT),
                    self._loaded_ping("rtt_1400_loaded_ms", _LONG),
                ):
                    self._note("up_mbps", self._transfer(1))
                with self._watch("down"):
                    self._note("down_mbps", self._transfer(1, "--reverse"))
            self._note(f"up_mbps_{STREAMS}", self._transfer(STREAMS))
            self._note(f"down_mbps_{STREAMS}", self._transfer(STREAMS, "--reverse"))
        self._note("pps_64", self._flood())
        self._note(LAST, self._peak())

    def _note(self, name: str, value: float) -> None:
        self._told[name] = value
        print(f" {name} {short(value)},", end="", flush=True)

    def _ping(self, size: int) -> float:
        words = ("ping", "-n", "-i", str(PING_INTERVAL), "-c", str(PINGS), "-W", "1")
        with _program(self._street.pc, *words, "-s", str(size), CORP) as ping:
            return figures.round_trip(_output(ping, PINGS * PING_INTERVAL + _SLACK))

    @contextmanager
    def _loaded_ping(self, name: str, size: int) -> Iterator[None]:
        """Ping during the block, which has a transfer in it."""
        count = round(self._seconds / LOADED_INTERVAL)
        words = ("ping", "-n", "-i", str(LOADED_INTERVAL), "-c", str(count), "-W", "1")
        with _program(self._street.pc, *words, "-s", str(size), CORP) as ping:
            yield
            self._note(name, figures.round_trip(_output(ping, _SLACK)))

    def _transfer(self, streams: int, *direction: str) -> float:
        """Return the Mb/s that arrive by TCP."""
        words = (
            *("iperf3", "--client", CORP, "--json", "--time", f"{self._seconds:g}"),
            *("--omit", str(_OMITTED), "--parallel", str(streams), *direction),
        )
        limit = time.monotonic() + _GATHERING
        while True:
            with _program(self._street.pc, *words) as client:
                told = _output(client, self._seconds + _OMITTED + _SLACK)
            try:
                return figures.megabits(told)
            except UnusableError:
                # The server is not there yet, or not done with the transfer before.
                if time.monotonic() > limit:
                    raise
            time.sleep(0.1)

    def _flood(self) -> float:
        """Return how many datagrams of 64 octets arrive a second, from pc to corp."""
        street = self._street
        sink = _program(street.corp, sys.executable, _FLOOD, "receive", CORP)
        with sink as receiver, _program(street.pc, sys.executable, _FLOOD, "send", CORP):
            if receiver.stdout is None or receiver.stdout.readline() != b"ready\n":
                raise UnusableError("nobody receives the flood")
            time.sleep(0.5)
            before, began = self._arrived(), time.monotonic()
            time.sleep(self._seconds)
            return (self._arrived() - before) / (time.monotonic() - began)

    def _arrived(self) -> int:
        return figures.datagrams(self._street.corp.run("cat", "/proc/net/snmp").stdout)

    @contextmanager
    def _cost(self) -> Iterator[None]:
        """Note what the block costs the system's own processes, for 10^9 octets carried."""
        busy, octets = self._busy(), self._octets()
        yield
        gigabytes = (self._octets() - octets) / 1e9
        self._note("cpu_s_per_gb", (self._busy() - busy) / gigabytes)

    def _busy(self) -> float:
        texts = (_proc(pid, "stat") for place in self._street.ends for pid in pids(place))
        return sum(figures.busy(text) for text in texts if text)

    def _octets(self) -> int:
        return figures.octets(self._street.corp.run("cat", "/proc/net/dev").stdout, "lan")

    def _peak(self) -> float:
        texts = (_proc(pid, "status") for pid in pids(self._street.moat))
        return sum(figures.peak_megabytes(text) for text in texts)


def _proc(pid: int, name: str) -> str:
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


@contextmanager
def _program(place: Namespace, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs during the block at most."""
    with place.popen(*command, stdin=-3, stdout=-1, stderr=-2) as program:
        try:
            yield program
        finally:
            program.kill()


def _output(program: subprocess.Popen[bytes], patience: float) -> str:
    try:
        return program.communicate(timeout=patience)[0].decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        raise UnusableError(f"{program.args!r} does not end") from error
