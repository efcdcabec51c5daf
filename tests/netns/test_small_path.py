"""A tunnel over a wild side that carries 576 octets at a time, and no IP fragments."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, new_box, wait_for
from pair import Pair

# So many that each message of IKE_AUTH has several thousand octets.
NETWORKS = tuple(f"10.{100 + n // 256}.{n % 256}.0/24" for n in range(0, 240, 2))


@pytest.mark.parametrize("encapsulation", ["auto", "udp"])
def test_a_tunnel_comes_up_where_no_ip_fragment_passes(tmp_path: Path, encapsulation: str) -> None:
    with (
        new_box(tmp_path, "m", MOAT.identity) as moat,
        new_box(tmp_path, "p", PORTAL.identity) as portal,
        ExitStack() as paths,
    ):
        pair = Pair(moat, portal, encapsulation)
        pair.to_portal["local_selectors"] = [*MOAT.networks, *NETWORKS]
        pair.to_moat["remote_selectors"] = [*MOAT.networks, *NETWORKS]
        for box in (moat, portal):
            paths.enter_context(box.narrow())
        pair.start()
        for box, name in ((moat, "portal1"), (portal, "m0001")):
            for sa in ("child", "ike", "child"):
                before = box.connection(name)
                box.moatctl("rekey", name, sa)
                key = "ike_spi_i" if sa == "ike" else "spi_out"
                wait_for(lambda b=box, n=name, k=key, s=before: b.connection(n)[k] != s[k], sa, 10)
        assert pair.pings()
        # By default: the longest messages of all.
        assert moat.connection("portal1")["key_exchange"] == "x25519+mlkem768"
        for box in (moat, portal):
            assert not [reason for reason in box.drops() if reason.startswith("ike")]
