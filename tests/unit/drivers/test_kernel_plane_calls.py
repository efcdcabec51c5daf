"""The kernel as the data plane, with a kernel of the test's own that only remembers."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from typing import Any

import pytest

from moatvpn.drivers.kernel_plane import KernelPlane, News
from moatvpn.drivers.xfrm_messages import (
    FORWARD,
    IN,
    OUT,
    KernelSa,
    SaEvent,
    SaState,
    Selector,
    Template,
    sequence_out,
)
from moatvpn.errors import MoatError
from moatvpn.esp.child import ChildSa
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

PEER, MOVED, LOCAL, LOCAL2 = "192.0.2.10", "192.0.2.20", "192.0.2.1", "192.0.2.2"
CORPORATE, HOME = ("10.50.0.0/24",), ("10.201.1.0/24",)
LEAVING = Selector("10.50.0.0", 24, "10.201.1.0", 24)
ARRIVING = Selector("10.201.1.0", 24, "10.50.0.0", 24)


class FakeKernel:
    """Remembers SAs by target and SPI, and policies; carries nothing."""

    if_id = 7

    def __init__(self) -> None:
        self.sas: dict[tuple[str, int], tuple[KernelSa, SaState]] = {}
        self.policies: dict[tuple[int, Selector], tuple[Template, int]] = {}
        self.news: list[SaEvent] = []
        self.refuses = False

    def add(self, sa: KernelSa) -> None:
        if self.refuses or (sa.target, sa.spi) in self.sas:
            raise OSError(errno.EEXIST, "File exists")
        fresh = struct.pack("=6I", 64, 0, 0, 0, 0, 2048) + bytes(256)
        self.sas[sa.target, sa.spi] = (sa, SaState(0, 0, sa.replay or fresh))

    def carry(self, target: str, spi: int, packets: int) -> None:
        """Have an SA carry packets of 100 octets each."""
        sa, state = self.sas[target, spi]
        sent = sequence_out(state.replay) + (0 if sa.inbound else packets)
        replay = struct.pack("=6I", 64, sent & 0xFFFFFFFF, 0, sent >> 32, 0, 2048) + bytes(256)
        now = SaState(state.packets + packets, state.octets + 100 * packets, replay)
        self.sas[target, spi] = (sa, now)

    def read(self, sa: KernelSa) -> SaState | None:
        found = self.sas.get((sa.target, sa.spi))
        return None if found is None else found[1]

    def delete(self, sa: KernelSa) -> None:
        self.sas.pop((sa.target, sa.spi), None)

    def set_policy(
        self, direction: int, selector: Selector, template: Template, priority: int
    ) -> None:
        self.policies[direction, selector] = (template, priority)

    def delete_policy(self, direction: int, selector: Selector) -> None:
        del self.policies[direction, selector]

    def events(self) -> list[SaEvent]:
        told, self.news = self.news, []
        return told

    def sends_on(self, selector: Selector = LEAVING) -> int | None:
        """Return the SPI that packets of selector leave on."""
        policy = self.policies.get((OUT, selector))
        return None if policy is None else policy[0].spi


class Box:
    """A plane on such a kernel, with an address that can change."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.logged: list[Any] = []
        self.plane = KernelPlane(self.kernel, lambda *line: self.logged.append(line))

    def install(self, number: int = 1, *, activate: bool = True, **changes: Any) -> ChildSa:
        peer = changes.pop("peer", Endpoint(PEER, 4500))
        made = child(number, **changes)
        self.plane.set_local(made.connection, LOCAL)
        self.plane.install(made, peer, activate_outbound=activate)
        return made


def child(number: int = 1, **changes: Any) -> ChildSa:
    key = bytes(36)
    local, remote = (
        tuple(TrafficSelector.from_network(net) for net in nets) for nets in (CORPORATE, HOME)
    )
    made = ChildSa(
        "m1", 0x1000 + number, 0x2000 + number, CipherSuite.AES_256_GCM, True, key, key,
        local, remote, False,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def box() -> Box:
    return Box()


def test_both_sas_and_the_policies_of_all_directions_are_there(box: Box) -> None:
    box.install()
    inbound, outbound = box.kernel.sas[LOCAL, 0x1001][0], box.kernel.sas[PEER, 0x2001][0]
    assert (inbound.source, inbound.inbound, inbound.ports) == (PEER, True, None)
    assert (outbound.source, outbound.inbound, outbound.ports) == (LOCAL, False, None)
    assert inbound.reqid == outbound.reqid > 0
    assert box.kernel.policies == {
        (OUT, LEAVING): (Template(outbound.reqid, LOCAL, PEER, 0x2001), 256 - 24),
        # From whichever address, but on an SA of this connection.
        (IN, ARRIVING): (Template(inbound.reqid), 256 - 24),
        (FORWARD, ARRIVING): (Template(inbound.reqid), 256 - 24),
    }
    assert box.plane.has_inbound(0x1001)
    assert not box.plane.has_inbound(0x2001)


def test_in_udp_the_peers_port_is_said(box: Box) -> None:
    box.install(udp=True, peer=Endpoint(PEER, 1234))
    assert box.kernel.sas[LOCAL, 0x1001][0].ports == (1234, 4500)
    assert box.kernel.sas[PEER, 0x2001][0].ports == (4500, 1234)


def test_an_spi_twice_is_a_mistake_of_ours(box: Box) -> None:
    box.install()
    with pytest.raises(MoatError, match="0x00001001 is installed already"):
        box.install()


def test_without_an_address_of_our_own_there_is_no_sa(box: Box) -> None:
    with pytest.raises(MoatError, match="no address of ours is known for m1"):
        box.plane.install(child(), Endpoint(PEER, 4500), activate_outbound=True)


def test_connections_do_not_share_a_reqid(box: Box) -> None:
    box.install()
    box.install(2, connection="m2", peer=Endpoint(MOVED, 4500))
    reqids = {sa.reqid for sa, _ in box.kernel.sas.values()}
    assert len(reqids) == 2


# Rekeys


def test_sending_goes_over_when_told_so(box: Box) -> None:
    box.install(1)
    box.install(2, activate=False)
    assert box.kernel.sends_on() == 0x2001
    box.plane.activate(0x1002)
    assert box.kernel.sends_on() == 0x2002
    box.plane.activate(0x1001)
    box.plane.remove(0x1001)
    assert box.kernel.sends_on() == 0x2002
    assert set(box.kernel.sas) == {(LOCAL, 0x1002), (PEER, 0x2002)}


def test_sending_goes_over_when_the_peer_sends_on_it(box: Box) -> None:
    box.install(1)
    box.install(2, activate=False)
    box.kernel.news = [SaEvent(PEER, 0x2001), SaEvent(LOCAL, 0x1001)]
    assert box.plane.news() == [News("m1", False), News("m1", True)]
    assert box.kernel.sends_on() == 0x2001
    box.kernel.news = [SaEvent(LOCAL, 0x1002)]
    assert box.plane.news() == [News("m1", True)]
    assert box.kernel.sends_on() == 0x2002


def test_sending_goes_only_forwards(box: Box) -> None:
    box.install(1, activate=False)
    box.install(2)
    box.plane.activate(0x1001)
    assert box.kernel.sends_on() == 0x2002


def test_a_worn_sa_wants_a_rekey_once(box: Box) -> None:
    box.install()
    box.kernel.news = [SaEvent(PEER, 0x2001, worn=True)] * 2
    assert box.plane.news() == []
    assert box.plane.rekeys_wanted() == ["m1"]
    assert box.plane.rekeys_wanted() == []


def test_lines_side_by_side_send_each_on_its_own(box: Box) -> None:
    other = (TrafficSelector.from_network("10.201.2.0/24"),)
    box.install(1)
    box.install(2, line=1, remote_ts=other)
    second = Selector("10.50.0.0", 24, "10.201.2.0", 24)
    assert (box.kernel.sends_on(), box.kernel.sends_on(second)) == (0x2001, 0x2002)
    box.install(3, line=1, remote_ts=other)
    assert (box.kernel.sends_on(), box.kernel.sends_on(second)) == (0x2001, 0x2003)


# Ends


def test_without_an_sa_the_policy_stays_and_nothing_takes_its_packets(box: Box) -> None:
    box.install()
    box.plane.remove(0x1001)
    assert box.kernel.sas == {}
    assert box.kernel.sends_on() == 0x2001
    assert (IN, ARRIVING) not in box.kernel.policies


def test_a_connection_goes_with_all_it_had(box: Box) -> None:
    box.install(1)
    box.install(2)
    box.plane.remove_connection("m1")
    box.plane.remove_connection("m1")
    assert (box.kernel.sas, box.kernel.policies) == ({}, {})
    assert box.plane.statistics("m1").packets_in == 0


def test_news_of_an_sa_that_is_gone_are_no_news(box: Box) -> None:
    box.install()
    box.plane.remove(0x1001)
    box.kernel.news = [SaEvent(LOCAL, 0x1001), SaEvent(PEER, 0x2001, worn=True)]
    assert box.plane.news() == []
    assert box.plane.rekeys_wanted() == []


# Moves


def test_a_move_of_the_peer_takes_the_numbers_along(box: Box) -> None:
    box.install()
    box.kernel.carry(PEER, 0x2001, 50)
    box.kernel.carry(LOCAL, 0x1001, 30)
    box.plane.set_peer("m1", Endpoint(MOVED, 500), udp=False)
    assert set(box.kernel.sas) == {(LOCAL, 0x1001), (MOVED, 0x2001)}
    sa, state = box.kernel.sas[MOVED, 0x2001]
    assert sequence_out(state.replay) > 50  # no number twice, whatever was sent meanwhile
    assert box.kernel.sas[LOCAL, 0x1001][0].source == MOVED
    template, _ = box.kernel.policies[OUT, LEAVING]
    assert (template.source, template.target, template.spi) == (LOCAL, MOVED, sa.spi)
    box.kernel.carry(MOVED, 0x2001, 5)
    counts = box.plane.statistics("m1")
    assert (counts.packets_out, counts.octets_out) == (55, 5500)
    assert (counts.packets_in, counts.octets_in) == (30, 3000)


def test_a_move_to_where_it_is_changes_nothing(box: Box) -> None:
    box.install()
    before = dict(box.kernel.sas)
    for _ in range(2):
        box.plane.set_peer("m1", Endpoint(PEER, 4500), udp=False)
        box.plane.set_local("m1", LOCAL)
    assert box.kernel.sas == before
    box.plane.set_peer("m1", Endpoint(MOVED, 4500), udp=False)
    moved = dict(box.kernel.sas)
    box.plane.set_local("m1", LOCAL)
    assert box.kernel.sas == moved


def test_a_nat_that_appears_puts_both_sas_into_udp(box: Box) -> None:
    box.install()
    box.kernel.carry(PEER, 0x2001, 9)
    box.plane.set_peer("m1", Endpoint(PEER, 1234), udp=True)
    inbound, outbound = box.kernel.sas[LOCAL, 0x1001][0], box.kernel.sas[PEER, 0x2001][0]
    assert (inbound.ports, outbound.ports) == ((1234, 4500), (4500, 1234))
    assert sequence_out(outbound.replay) > 9
    assert box.plane.statistics("m1").udp


def test_an_address_of_our_own_that_changes(box: Box) -> None:
    box.install(udp=True)
    box.plane.set_local("m1", LOCAL2)
    assert set(box.kernel.sas) == {(LOCAL2, 0x1001), (PEER, 0x2001)}
    assert box.kernel.sas[PEER, 0x2001][0].source == LOCAL2
    assert box.kernel.policies[OUT, LEAVING][0].source == LOCAL2


def test_an_sa_that_the_kernel_has_ended_does_not_come_back(box: Box) -> None:
    box.install()
    del box.kernel.sas[PEER, 0x2001]
    box.plane.set_peer("m1", Endpoint(MOVED, 4500), udp=False)
    assert set(box.kernel.sas) == {(LOCAL, 0x1001)}


def test_the_pair_in_use_tells_of_a_move(box: Box) -> None:
    box.install(1, udp=True)
    box.install(2, udp=True)
    elsewhere = Endpoint(MOVED, 1234)
    box.kernel.news = [SaEvent(LOCAL, 0x1001, moved=elsewhere)]
    assert box.plane.news() == []
    box.kernel.news = [SaEvent(LOCAL, 0x1002, moved=elsewhere)]
    assert box.plane.news() == [News("m1", True, elsewhere)]
    box.plane.set_peer("m1", elsewhere, udp=True)
    box.kernel.news = [SaEvent(LOCAL, 0x1002, moved=elsewhere)]
    assert box.plane.news() == []


# Refusals


def test_what_the_kernel_refuses_is_said(box: Box) -> None:
    box.kernel.refuses = True
    box.install()
    assert box.logged == [("error", "the kernel takes no SA: File exists", "m1")] * 2
    assert box.plane.statistics("m1").spi_out == 0x2001


def test_another_peers_spi_cannot_be_taken(box: Box) -> None:
    """Two peers behind one NAT: the one that chooses the other's SPI gets none of its packets."""
    box.install(1)
    box.install(2, connection="m2", spi_out=0x2001)
    (line,) = box.logged
    assert line[2] == "m2"
    box.kernel.news = [SaEvent(PEER, 0x2001)]
    assert box.plane.news() == [News("m1", False)]
    box.plane.remove_connection("m2")
    assert (PEER, 0x2001) in box.kernel.sas


def test_statistics_are_those_of_the_pair_in_use_and_of_all_before(box: Box) -> None:
    box.install(1)
    box.kernel.carry(LOCAL, 0x1001, 3)
    box.kernel.carry(PEER, 0x2001, 4)
    box.install(2, udp=True)
    box.plane.remove(0x1001)
    box.kernel.carry(PEER, 0x2002, 6)
    counts = box.plane.statistics("m1")
    assert (counts.packets_in, counts.packets_out) == (3, 10)
    assert (counts.spi_in, counts.spi_out, counts.sequence) == (0x1002, 0x2002, 6)
    assert (counts.suite, counts.esn, counts.udp) == ("aes-256-gcm", True, True)
    assert counts.child_sas == 1
