"""One packet alone, by the short way: the same octets, drops and counts as by the general one.

Twins get the same packets. One of them tries the short way first, the other never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from esp_peers import CORP, MOAT, PC, PORTAL, STRANGER, Ends, Peer, forge, ipv4, ipv6
from hypothesis import given
from hypothesis import strategies as st
from offload_packets import Shape, partial, virtio
from offload_packets import whole as complete

from moatvpn.esp.burst import Burst
from moatvpn.esp.child import ChildSa
from moatvpn.wire import aggfrag
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import trailer
from moatvpn.wire.offload import GSO_TCPV4

NOW = 50.0
ELSEWHERE, PROTOCOL_50 = Endpoint("203.0.113.66", 4500), Endpoint(MOAT.host, 0)
Arrived = tuple[bytes, bool, bool]


def also(child: ChildSa) -> ChildSa:
    return replace(child, aggfrag=True, private_blocks=True)


def peers(ends: Ends) -> tuple[Peer, Peer]:
    """Return a moat and a portal that aggregate, and know the flow of a packet each way."""
    moat, portal = Peer("portal1", PORTAL), Peer("c0001", MOAT)
    moat.esp.install(also(ends.moat), PORTAL, activate_outbound=True)
    portal.esp.install(also(ends.portal), MOAT, activate_outbound=True)
    for make in (ipv4, ipv6):
        (burst,) = sent(moat, make(b"first"), short=False)
        assert received(portal, bytes(burst.data), MOAT, 0, NOW, short=False)[0][0] == make(
            b"first"
        )
    return moat, portal


def sent(
    peer: Peer, packet: bytes, virtio: bytes = b"", *, short: bool, now: float = NOW
) -> list[Burst]:
    """Return all that leaves for a raw packet."""
    raw = memoryview(packet), virtio
    burst = peer.esp.seal_alone(raw, now) if short else None
    bursts = peer.esp.encapsulate([raw], now) if burst is None else [burst]
    return [each._replace(data=memoryview(bytes(each.data))) for each in bursts]


def received(
    peer: Peer, data: bytes, source: Endpoint, tos: int, now: float, *, short: bool
) -> list[Arrived]:
    """Return the raw packets in an envelope, whether its peer has moved, and IKE is to be told."""
    arrival = memoryview(data), len(data), source, tos
    packet = peer.esp.open_alone(arrival, now) if short else None
    if packet is not None:
        return [(packet, False, False)]
    return [
        (b"".join(pieces), arrived.moved, arrived.told)
        for arrived in peer.esp.decapsulate([arrival], now)
        for pieces, _ in arrived.packets
    ]


def large(peer: Peer) -> list[bool]:
    """Return whether envelopes that a small path would lose are known to have left."""
    return [connection.large for connection in peer.esp._connections.values()]


def state(peer: Peer) -> tuple[object, ...]:
    """Return all that can be seen of what a peer has counted and waits for."""
    told = peer.esp.told()
    return peer.drops, peer.esp.statistics(peer.name), peer.esp.get_timer(), told, large(peer)


packets = st.one_of(
    st.builds(
        ipv4,
        st.binary(max_size=1400),
        st.sampled_from([PC, STRANGER]),
        st.just(CORP),
        st.integers(0, 255),
    ),
    st.builds(ipv6, st.binary(max_size=1400)),
    st.binary(max_size=64).map(lambda rest: b"\x45" + rest),
    st.binary(max_size=64),
)


def leave_alike(raws: Sequence[bytes], suite: CipherSuite, later: float, esn: bool = True) -> None:
    (one, _), (other, _) = peers(Ends(suite=suite, esn=esn)), peers(Ends(suite=suite, esn=esn))
    now = NOW
    for raw in raws:
        assert sent(one, raw, short=True, now=now) == sent(other, raw, short=False, now=now)
        assert state(one) == state(other)
        now += later


@given(
    st.lists(packets, max_size=6),
    st.sampled_from(CipherSuite),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
)
def test_whatever_leaves_is_the_same(
    raws: list[bytes], suite: CipherSuite, later: float, esn: bool
) -> None:
    leave_alike(raws, suite, later, esn)


@pytest.mark.parametrize("suite", list(CipherSuite))
@pytest.mark.parametrize("later", [0.0, 0.3])
@pytest.mark.parametrize("size", [0, 1, 1170, *range(1196, 1216), 1400])
def test_what_leaves_is_the_same(size: int, later: float, suite: CipherSuite) -> None:
    leave_alike([ipv4(bytes(size)), ipv6(b"b"), ipv4(b"c", tos=0xB8)], suite, later)


def aggregated(
    *blocks: bytes, offset: int = 0, sub_type: int = 0, pad: bytes | None = None, kind: int = 144
) -> bytes:
    """Return the plaintext of an envelope with these blocks, or with something odd in it."""
    payload = bytes((sub_type, 0)) + offset.to_bytes(2, "big") + b"".join(blocks)
    end = trailer(len(payload), kind) if pad is None else pad + bytes((kind,))
    return payload + end


class Step(NamedTuple):
    """One envelope: how far on its number is, and what else there is to it."""

    plaintext: bytes
    on: int = 1
    source: Endpoint = MOAT
    tos: int = 0
    later: float = 0.0
    changed: int | None = None  # an octet


GOOD = ipv4(b"payload")
WHOLE = aggregated(GOOD)
LARGE = ipv4(bytes(range(256)) * 8)
ODD = {
    "nothing": Step(WHOLE),
    "padding": Step(aggregated(GOOD, bytes(40))),
    "IPv6": Step(aggregated(ipv6(b"payload"))),
    "two packets": Step(aggregated(GOOD, GOOD)),
    "an unknown block behind": Step(aggregated(GOOD, b"\xf0")),
    "the beginning of one behind": Step(aggregated(GOOD, LARGE[:900])),
    "the beginning of one": Step(aggregated(LARGE[:900])),
    "the end of one that nobody began": Step(aggregated(LARGE[:900], offset=900)),
    "the end of one, and a packet": Step(aggregated(LARGE[:256], GOOD, offset=256)),
    "a length of zero": Step(aggregated(b"\x45\0\0\0" + GOOD[4:])),
    "a length beyond the end": Step(aggregated(b"\x45\0\x01\0" + GOOD[4:])),
    "options": Step(aggregated(b"\x46" + GOOD[1:])),
    "an offset": Step(aggregated(GOOD, offset=1)),
    "an offset of 256": Step(aggregated(GOOD, offset=256)),
    "sub-type 1": Step(aggregated(GOOD, sub_type=1)),
    "bad padding": Step(aggregated(GOOD, pad=b"\x09")),
    "a next header of 4": Step(aggregated(GOOD, kind=4)),
    "a dummy": Step(aggregated(GOOD, kind=59)),
    "no block": Step(aggregated()),
    "nothing but padding": Step(aggregated(bytes(60))),
    "a probe": Step(aggregated(aggfrag.probe(7))),
    "an answer": Step(aggregated(aggfrag.probe(7, answer=True))),
    "a stranger's address": Step(aggregated(ipv4(b"payload", source=STRANGER))),
    "a gap": Step(WHOLE, on=2),
    "a large gap": Step(WHOLE, on=3000),
    "a replay": Step(WHOLE, on=0),
    "another address": Step(WHOLE, source=ELSEWHERE),
    "protocol 50": Step(WHOLE, source=PROTOCOL_50),
    "congestion": Step(WHOLE, tos=3),
    "congestion of what can tell": Step(aggregated(ipv4(b"payload", tos=2)), tos=3),
    "a DSCP": Step(WHOLE, tos=0xB8),
    "a pause": Step(WHOLE, later=1.0),
    "a wrong SPI": Step(WHOLE, changed=0),
    "a wrong number": Step(WHOLE, changed=6),
    "a wrong octet": Step(WHOLE, changed=20),
    "a wrong ICV": Step(WHOLE, changed=-1),
}


def arrive_alike(steps: Sequence[Step], suite: CipherSuite, esn: bool) -> None:
    """Have twins take the steps, and compare all that can be seen of them after each."""
    ends = Ends(suite=suite, esn=esn)
    (_, one), (_, other) = peers(ends), peers(ends)
    now, top = NOW, 2
    for step in steps:
        now += step.later
        number = max(1, top + step.on)
        top = max(top, number)
        data = bytearray(forge(also(ends.portal), number, step.plaintext))
        if step.changed is not None:
            data[step.changed] ^= 1
        found = received(one, bytes(data), step.source, step.tos, now, short=True)
        assert found == received(other, bytes(data), step.source, step.tos, now, short=False)
        assert state(one) == state(other)
        late = [each.packets for each in one.esp.late(now)]
        assert late == [each.packets for each in other.esp.late(now)]


COMBINED = [suite for suite in CipherSuite if suite.combined]  # what the forger can do


@pytest.mark.parametrize("esn", [True, False])
@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
def test_what_arrives_is_the_same(odd: Step, esn: bool) -> None:
    afterwards = [Step(WHOLE), Step(WHOLE), Step(WHOLE, later=0.02), Step(WHOLE)]
    arrive_alike([Step(WHOLE), odd, *afterwards], COMBINED[0], esn)


@given(st.lists(st.sampled_from(list(ODD.values())), max_size=8), st.sampled_from(COMBINED))
def test_whatever_arrives_is_the_same(steps: list[Step], suite: CipherSuite) -> None:
    arrive_alike(steps, suite, True)


OFFLOADED = {
    "an acknowledgement": (0, virtio()),
    "a small segment": (100, virtio()),
    "one that is left to the peer": (600, virtio()),
    "two segments": (24, virtio(kind=GSO_TCPV4, size=16)),
    "one segment": (8, virtio(kind=GSO_TCPV4, size=16)),
    "a checksum beyond the end": (0, virtio(start=200)),
    "a header cut off": (0, virtio()[:9]),
}


@pytest.mark.parametrize("name", OFFLOADED)
def test_what_lacks_a_checksum_leaves_the_same(name: str) -> None:
    size, header = OFFLOADED[name]
    packet = partial(Shape(), bytes(size))
    (one, _), (other, _) = peers(Ends()), peers(Ends())
    for _ in range(2):
        assert sent(one, packet, header, short=True) == sent(other, packet, header, short=False)
        assert state(one) == state(other)


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("suite", list(CipherSuite))
def test_the_short_way_is_taken(make: object, suite: CipherSuite) -> None:
    moat, portal = peers(Ends(suite=suite))
    burst = moat.esp.seal_alone((memoryview(make(b"second")), b""), NOW)
    assert burst is not None
    arrival = memoryview(bytes(burst.data)), burst.size, MOAT, burst.tos
    assert portal.esp.open_alone(arrival, NOW) == make(b"second")
    assert portal.esp.open_alone(arrival, NOW) is None  # replayed
    assert received(portal, bytes(arrival[0]), MOAT, 0, NOW, short=True) == []
    assert portal.drops == {"esp-replayed": 1}


def test_an_acknowledgement_without_checksum_goes_the_short_way() -> None:
    moat, portal = peers(Ends())
    raw = memoryview(partial(Shape(), b"")), virtio()
    burst = moat.esp.seal_alone(raw, NOW)
    assert burst is not None
    (arrived,) = received(portal, bytes(burst.data), MOAT, 0, NOW, short=False)
    assert arrived[0] == complete(Shape(), b"")


def test_what_needs_more_changes_nothing() -> None:
    moat, _ = peers(Ends())
    moat.esp.told()
    before = state(moat)
    segments = memoryview(partial(Shape(), bytes(24))), virtio(kind=GSO_TCPV4, size=16)
    assert moat.esp.seal_alone(segments, NOW) is None
    assert moat.esp.seal_alone((memoryview(ipv4(bytes(4000))), b""), NOW) is None  # too large
    assert state(moat) == before
