"""The SAs of packets between two addresses, found once and then remembered, either way."""

from __future__ import annotations

from moatvpn.esp.sad import Pair

_MOST = 4096


class Flows(dict[bytes, Pair]):
    """Pairs by wire.ip.flow_of, of SAs only that ask for no more than addresses.

    It is cleared where SAs or policies change, and as soon as it is full.
    """

    def keep(self, flow: bytes, pair: Pair) -> None:
        """Remember the pair of a flow, unless the flow is empty."""
        if flow:
            if len(self) >= _MOST:
                self.clear()
            self[flow] = pair
