"""Where moatd spends its time during a transfer, by py-spy, which looks at it from outside."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .street import Street, pids

_RATE = 250  # looks a second
_MOST = 12  # lines of a summary


def find_py_spy() -> str | None:
    """Return where py-spy is, be it beside this Python or on the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


class Profiler:
    """Looks at every process of a street's ends during the transfers of one system."""

    def __init__(self, py_spy: str, street: Street, name: str, directory: Path) -> None:
        self._py_spy = py_spy
        self._street = street
        self._name = name
        self._directory = directory
        self.summaries: list[str] = []

    @contextmanager
    def watch(self, transfer: str) -> Iterator[None]:
        """Look during the block, and write down what was seen."""
        places = ("moat", "portal")
        outputs = [
            self._directory / f"profile-{self._name}-{place}-{transfer}.txt" for place in places
        ]
        watchers = [
            self._look(pid, output)
            for place, output in zip(self._street.ends, outputs, strict=True)
            for pid in sorted(pids(place))[:1]  # the one that has made the others
        ]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.send_signal(signal.SIGINT)  # it writes its file
            for watcher in watchers:
                watcher.wait(30)
        for output in outputs:
            if output.exists():
                lines = hottest(output.read_text().splitlines())
                self.summaries.append("\n".join([f"{output.name}:", *lines]))

    def _look(self, pid: int, output: Path) -> subprocess.Popen[bytes]:
        output.unlink(missing_ok=True)
        words = ("record", "--pid", str(pid), "--subprocesses", "--rate", str(_RATE))
        more = ("--duration", "3600", "--format", "raw", "--output", str(output))
        return subprocess.Popen(
            (self._py_spy, *words, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def hottest(stacks: Sequence[str]) -> list[str]:
    """Return the functions that stacks end in, with their share, the most frequent first.

    A stack is a line: its functions, the outermost first, with ";" between them, a space, and how
    often it was met. Time in a function of C is the Python function's that called it.
    """
    met: Counter[str] = Counter()
    for stack in stacks:
        functions, _, times = stack.rpartition(" ")
        if functions and times.isdigit():
            last = functions.rpartition(";")[2]
            met[re.sub(r":\d+\)$", ")", last)] += int(times)
    total = met.total()
    return [f"  {times / total:4.0%} {name}" for name, times in met.most_common(_MOST)]
