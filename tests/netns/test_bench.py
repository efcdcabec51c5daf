"""The comparison with other tunnels, of few systems and for a second each: whether it works."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bench
import pytest
from boxes import run, wait_for
from peers.street import Street, launch
from peers.systems import SYSTEMS, System

FIGURES = {
    "up_mbps", "down_mbps", "up_mbps_8", "down_mbps_8", "pps_64", "rtt_short_ms", "rtt_1400_ms",
    "rtt_loaded_ms", "rtt_1400_loaded_ms", "cpu_s_per_gb", "rss_mb",
}  # fmt: skip


def namespaces(pid: int) -> list[str]:
    lines = run("ip", "netns", "list").stdout.splitlines()
    return [line for line in lines if line.startswith(f"moat-bench-{pid}-")]


@contextmanager
def running(output: Path, *names: str) -> Iterator[subprocess.Popen[str]]:
    """A run of one round; no namespace of its may be left afterwards."""
    words = ("--rounds", "1", "--seconds", "1", "--output", str(output), "--only", *names)
    command = (sys.executable, bench.__file__, *words)
    # A terminal's Ctrl-C goes to all programs of its foreground group.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as program:
        yield program
        assert not namespaces(program.pid)


def test_every_figure_is_measured(tmp_path: Path) -> None:
    with running(tmp_path, "plain", "moatvpn-esp") as program:
        told = program.communicate(timeout=110)[0]
    assert program.returncode == 0, told
    plain, ours = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert (plain["name"], ours["name"]) == ("plain", "moatvpn-esp")
    assert all(ours[figure] > 0 for figure in FIGURES)
    # Plain routing has no processes of its own.
    assert {figure for figure in FIGURES if not plain[figure]} == {"cpu_s_per_gb", "rss_mb"}
    assert ours["raw"] == [{figure: ours[figure] for figure in ours["raw"][0]}]
    assert "<svg" in (tmp_path / "bench.svg").read_text()
    assert "rss_mb: moatvpn-esp" in told


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "moatvpn-udp") as program:
        wait_for(lambda: len(namespaces(program.pid)) == 5, "five namespaces", 20)

        def ended() -> bool:
            os.killpg(program.pid, signal.SIGINT)  # by somebody without patience
            return program.poll() is not None

        wait_for(ended, "the end", 30)
        told = program.communicate()[0]
    assert program.returncode == 130, told
    assert json.loads((tmp_path / "bench.json").read_text())["results"][0]["name"] == "moatvpn-udp"


def comparison(output: Path, *names: str, seconds: float = 4.0) -> bench.Bench:
    options = argparse.Namespace(only=names, seconds=seconds, output=output)
    return bench.Bench(options, output, None)


def test_a_system_that_does_not_start_has_its_error_and_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(street: Street) -> None:
        launch(street.moat, "sh", "-c", "echo what the program has logged").wait()
        raise RuntimeError("it has no key")

    for name in ("openvpn", "wireguard-go"):
        monkeypatch.setitem(SYSTEMS, name, System(fail))
    made = comparison(tmp_path, "openvpn", "wireguard-go")
    made.run(1)
    assert made.results() == [
        {"name": name, "spread": 0.0, "raw": [{}], "error": "RuntimeError: it has no key"}
        for name in made.rounds
    ]
    assert "what the program has logged" in capsys.readouterr().out
    assert not namespaces(os.getpid())


def test_only_a_whole_run_is_published(tmp_path: Path) -> None:
    complete, broken = {"up_mbps": 1.0, "rss_mb": 1.0}, {"up_mbps": 1.0}
    whole = comparison(tmp_path, *SYSTEMS)
    for rounds in whole.rounds.values():
        rounds += [complete, broken, complete]
    assert not whole.whole()
    for rounds in whole.rounds.values():
        rounds.append(complete)
    assert whole.whole()
    part, short = comparison(tmp_path, "plain"), comparison(tmp_path, *SYSTEMS, seconds=1.0)
    for other in (part, short):
        other.rounds = {name: whole.rounds[name] for name in other.rounds}
        assert not other.whole()
