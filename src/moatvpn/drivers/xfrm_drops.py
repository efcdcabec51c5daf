"""What the kernel's IPsec has dropped, under our own names for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from moatvpn.counters import Counters, DropReason

# Documentation/networking/xfrm_proc.rst
_REASONS = {
    "XfrmInNoStates": DropReason.ESP_UNKNOWN_SPI,
    "XfrmInHdrError": DropReason.ESP_TOO_SHORT,
    "XfrmInStateSeqError": DropReason.ESP_REPLAYED,
    "XfrmInStateProtoError": DropReason.ESP_NOT_AUTHENTIC,
    "XfrmInStateModeError": DropReason.ESP_BAD_NEXT_HEADER,
    "XfrmInTmplMismatch": DropReason.ESP_INNER_SELECTOR,
    "XfrmInNoPols": DropReason.ESP_INNER_SELECTOR,
    "XfrmOutNoStates": DropReason.OUT_NO_SA,
    "XfrmOutStateExpired": DropReason.OUT_SA_EXHAUSTED,
    "XfrmOutStateSeqError": DropReason.OUT_SA_EXHAUSTED,
    # Of our interface: it has no carrier for what no policy is for.
    "tx_carrier_errors": DropReason.OUT_NO_POLICY,
}


class KernelDrops:
    """The counters of this network namespace and of the interface; ours begin with this object.

    A kernel without statistics of IPsec counts nothing. root is where proc and sys are.
    """

    def __init__(self, interface: str, root: Path = Path("/")) -> None:
        self._statistics = root / "proc/net/xfrm_stat"
        self._no_policy = root / f"sys/class/net/{interface}/statistics/tx_carrier_errors"
        self._seen = self._read()

    def collect(self, counters: Counters) -> None:
        """Count what was dropped since the last call."""
        now = self._read()
        for name, reason in _REASONS.items():
            counters.drop(reason, max(0, now.get(name, 0) - self._seen.get(name, 0)))
        self._seen = now

    def _read(self) -> Mapping[str, int]:
        found = {}
        with suppress(OSError):  # CONFIG_XFRM_STATISTICS is off
            for line in self._statistics.read_text().splitlines():
                name, value = line.split()
                found[name] = int(value)
        with suppress(OSError):  # the interface is gone
            found[self._no_policy.name] = int(self._no_policy.read_text())
        return found
