"""A peer without AGGFRAG: raw packets of any size still cross, in envelopes that are IP fragments.

That needs a wild side that passes fragments. Needs root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crossings import pings, raw_packet, tcp, udp
from wild import CORP, CORP6, PC, PC6, Wild, wild

OCTETS = 1 << 20
LAN = 1500


@pytest.fixture(params=["auto", "udp"])
def tunnel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wild]:
    def without(made: Wild) -> None:
        made.to_moat["aggfrag"] = "off"

    with wild(tmp_path, request.param, without) as made:
        yield made


def test_outer_fragments_carry_everything(tunnel: Wild) -> None:
    assert tunnel.moat.connection("portal1")["aggfrag"] is False
    for mtu in (1400, 576):
        tunnel.narrow(mtu)
        before = tunnel.seen()
        for pc, corp in ((PC, CORP), (PC6, CORP6)):
            with (
                tcp(tunnel.pc, tunnel.corp, pc, OCTETS),
                tcp(tunnel.corp, tunnel.pc, corp, OCTETS),
            ):
                pass
            for size in (1472, 8000, 65507):
                udp(tunnel.pc, tunnel.corp, corp, size)
                udp(tunnel.corp, tunnel.pc, pc, size)
            pings(tunnel.pc, corp, range(0, 2001, 8), LAN)
            sent, seen = raw_packet(tunnel.pc, tunnel.corp, (pc, corp), LAN)
            assert seen == [sent]
        after = tunnel.seen()
        assert after["fragments"] > before["fragments"]
        assert (after["large"], after["told"]) == (before["large"], before["told"])
