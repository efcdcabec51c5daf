"""Two daemons whose kernels carry the packets: tests of tests/netns, and what is a kernel's alone.

Run by test_kernel_plane.py in a virtual machine, for it takes a kernel with IPsec.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import test_two_daemons as daemons
from boxes import MOAT, PORTAL, new_box, wait_for
from pair import Pair

# In the order in which they run.
test_the_tunnel_is_what_was_asked_for = daemons.test_the_tunnel_is_what_was_asked_for
test_only_envelopes_are_on_the_wild_side = daemons.test_only_envelopes_are_on_the_wild_side
test_pings_of_every_size = daemons.test_pings_of_every_size
test_a_rekey_during_a_transfer_loses_nothing = daemons.test_a_rekey_during_a_transfer_loses_nothing
test_replacing_a_live_connection_sets_it_up_anew = (
    daemons.test_replacing_a_live_connection_sets_it_up_anew
)
test_a_killed_daemon_is_back_soon = daemons.test_a_killed_daemon_is_back_soon
test_an_orderly_end_tells_the_peer = daemons.test_an_orderly_end_tells_the_peer
test_the_moats_wild_address_changes = daemons.test_the_moats_wild_address_changes
test_without_a_tunnel_raw_packets_are_dropped = (
    daemons.test_without_a_tunnel_raw_packets_are_dropped
)

# The moat's envelopes get another port on their way out.
_NAT = """
add table ip nat
add chain ip nat post { type nat hook postrouting priority srcnat; }
add rule ip nat post udp sport 4500 snat to %s:5555
"""


@pytest.fixture(scope="module", params=["auto", "udp"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A tunnel that is up, once as IP protocol 50 and once in UDP; the portal chooses by itself."""
    directory = tmp_path_factory.mktemp("boxes")
    with (
        new_box(directory, "m", MOAT.identity, "kernel") as moat,
        new_box(directory, "p", PORTAL.identity, "auto") as portal,
    ):
        pair = Pair(moat, portal, request.param)
        pair.start()
        yield pair


def test_the_kernel_carries_the_packets(pair: Pair) -> None:
    for box in (pair.moat, pair.portal):
        states = box.run("ip", "xfrm", "state").stdout
        assert states.count("if_id 0x7") == 2
        assert "flag esn" in states or "esn context" in states


@pytest.mark.parametrize("pair", ["udp"], indirect=True)
def test_a_nat_that_appears_is_found_by_the_kernel(pair: Pair) -> None:
    before = pair.moat.connection("portal1")["spi_in"]
    wild = pair.portal.connection("m0001")["peer"].rpartition(":")[0]
    rules = pair.moat.directory / "nat"
    rules.write_text(_NAT % wild)
    pair.moat.run("nft", "-f", str(rules))
    try:

        def moved() -> bool:
            pair.pings()
            return bool(pair.portal.connection("m0001")["peer"] == f"{wild}:5555")

        wait_for(moved, "the portal knows the new port", 5)
        # What the portal sent to the old port meanwhile has another address put on it by the NAT,
        # where the moat looks for the portal until it hears from it again.
        pair.wait_until_up()
        assert pair.moat.connection("portal1")["spi_in"] == before
    finally:
        pair.moat.run("nft", "delete", "table", "ip", "nat")
