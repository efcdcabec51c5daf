"""The kernel's counters under our own names."""

from __future__ import annotations

from pathlib import Path

from moatvpn.counters import Counters
from moatvpn.drivers.xfrm_drops import KernelDrops


def test_what_was_dropped_since_the_last_look(tmp_path: Path) -> None:
    statistics = tmp_path / "proc/net/xfrm_stat"
    carrier = tmp_path / "sys/class/net/moat0/statistics/tx_carrier_errors"
    for path in (statistics, carrier):
        path.parent.mkdir(parents=True)
    statistics.write_text("XfrmInNoStates 5\nXfrmInStateSeqError 0\nXfrmInNew 3\n")
    carrier.write_text("2\n")
    counters = Counters()
    drops = KernelDrops("moat0", tmp_path)
    drops.collect(counters)
    assert counters.snapshot() == {}
    statistics.write_text("XfrmInNoStates 7\nXfrmInStateSeqError 1\nXfrmInNew 9\n")
    carrier.write_text("3\n")
    for _ in range(2):
        drops.collect(counters)
    assert counters.snapshot() == {"esp-unknown-spi": 2, "esp-replayed": 1, "out-no-policy": 1}


def test_a_kernel_that_counts_nothing(tmp_path: Path) -> None:
    counters = Counters()
    KernelDrops("moat0", tmp_path).collect(counters)
    assert counters.snapshot() == {}
