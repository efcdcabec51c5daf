"""Hostile bytes into a whole endpoint, failures by the thousand, and two peers on a bad network."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from network import (
    EMPTY,
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    moat_config,
    new_signer,
    portal_config,
    tables,
)

from moatvpn.crypto.aead import new_aead
from moatvpn.ike.gate import DEFAULT_LIMITS
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import HEADER_LENGTH, Exchange, PayloadType

AT_MOAT, AT_PORTAL = Endpoint(MOAT_HOST, 500), Endpoint(PORTAL_HOST, 500)


def drops(peer: Peer) -> int:
    return sum(peer.counters.snapshot().values())


def lasting(peer: Peer) -> list[Any]:
    """Return the events that are more than words."""
    peer.take_events()
    return [event for event in peer.events if not hasattr(event, "text")]


# Half of them look like something: bytes are only let through to the deeper parts that way.
CHAINS = st.lists(
    st.tuples(
        st.sampled_from([int(kind) for kind in PayloadType] + [0, 1, 200]),
        st.sampled_from([0, 0x80]),
        st.binary(max_size=80),
        st.integers(-5, 5),
    ),
    max_size=6,
)
HEADERS = st.tuples(
    st.sampled_from(["known", "none", "ours", "random"]),
    st.sampled_from([int(exchange) for exchange in Exchange] + [0, 200, 255]),
    st.integers(0, 255),
    st.sampled_from([0x10, 0x20, 0x21, 0x30, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF]),
)


def message(head: tuple[str, int, int, int, int], chain: Any, peer: Peer, name: str) -> bytes:
    which, exchange, flags, version, message_id = head
    status = peer.ike.status(name)
    spi_i, spi_r = {
        "known": (status.spi_i, status.spi_r),
        "none": (status.spi_i, bytes(8)),
        "ours": (status.spi_r, status.spi_i),
        "random": (b"\1\2\3\4\5\6\7\x08", b"\x08\7\6\5\4\3\2\1"),
    }[which]
    kinds = [kind for kind, *_ in chain] + [0]
    body = b"".join(
        bytes((following, flag)) + max(0, 4 + len(data) + wrong).to_bytes(2, "big") + data
        for following, (_, flag, data, wrong) in zip(kinds[1:], chain, strict=True)
    )
    length = (HEADER_LENGTH + len(body)).to_bytes(4, "big")
    fixed = bytes((kinds[0], version, exchange, flags)) + message_id.to_bytes(4, "big")
    return spi_i + spi_r + fixed + length + body


NETWORK = Network()
MOAT_PEER, PORTAL_PEER = established(NETWORK)


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.tuples(HEADERS, CHAINS)), st.integers(1, 65535))
def test_bytes_from_a_stranger_are_counted_and_nothing_else(hostile, port):
    for peer, name, local in (
        (MOAT_PEER, "portal", AT_MOAT),
        (PORTAL_PEER, "c0001", AT_PORTAL),
    ):
        data = hostile if isinstance(hostile, bytes) else message(*hostile, peer, name)
        counted, events, status = drops(peer), lasting(peer), peer.ike.status(name)
        held = tables(peer)
        peer.ike.receive_datagram(
            Datagram(data, local, Endpoint("203.0.113.66", port)), NETWORK.now
        )
        sent = peer.ike.datagrams_to_send()
        assert drops(peer) == counted + 1
        assert lasting(peer) == events
        assert peer.ike.status(name) == status
        assert tables(peer) == held
        assert sum(len(d.data) for d in sent) <= max(len(data), 36)
        assert peer is PORTAL_PEER or not sent


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_a_changed_message_of_the_set_up_makes_no_difference(which, changes):
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    seen = 0

    def change(datagram: Datagram) -> Datagram:
        nonlocal seen
        seen += 1
        if seen != which + 1:
            return datagram
        octets = bytearray(datagram.data)
        for place, value in changes:
            octets[place % len(octets)] ^= value
        return Datagram(bytes(octets), datagram.local, datagram.remote)

    network.rewrite = change
    network.run(40.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([35, 36, 37, 200]), st.integers(0, 255))
def test_whatever_an_authentic_peer_says_is_answered_and_leaves_nothing_behind(
    inner, exchange, first
):
    network = Network()
    moat, portal = established(network)
    sa = moat.ike._context.connections["portal"].sa
    assert sa is not None
    assert sa._seal is not None
    length = 4 + len(inner) + 24
    head = sa.header(PayloadType.SK, exchange, sa.next_request, False, HEADER_LENGTH + length)
    associated = head + bytes((first, 0)) + length.to_bytes(2, "big")
    # Not by seal, which pads as it must: the pad length is the peer's to lie about.
    iv = bytes(8)
    aead, salt = new_aead(sa._seal._suite, sa._seal._material)
    sealed = aead.encrypt(salt + iv, inner, associated)
    data = associated + iv + sealed
    portal.ike.receive_datagram(Datagram(data, AT_PORTAL, AT_MOAT), network.now)
    sent = portal.ike.datagrams_to_send()
    assert len(sent) == (1 if inner else 0)
    sa.next_request += 1
    network.run(network.now + 60.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_strangers_by_the_thousand_leave_nothing_behind():
    portal = Peer(PORTAL, PORTAL_HOST, 22)
    network = Network()
    strangers = [Peer(f"s{n}.example.net", f"203.0.113.{n + 1}", n + 5) for n in range(40)]
    network.join(portal, *strangers)
    portal.ike.add_connection(portal_config(Peer(MOAT, MOAT_HOST, 11)), 0.0)
    for stranger in strangers:
        stranger.ike.add_connection(moat_config(portal), 0.0)

    def bounded() -> None:
        assert tables(portal)["half_open"] <= DEFAULT_LIMITS.half_open
        for stranger in strangers:  # who don't wait longer and longer, as a moat does
            for connection in stranger.ike._context.connections.values():
                connection._backoff.reset()

    network.each_step = bounded
    network.run(30.0)
    tried = sum(len(d.data) > 0 and d.data[18] == Exchange.IKE_AUTH for d in network.log)
    assert tried > 2000
    for stranger in strangers:
        stranger.ike.remove_connection("portal", network.now)
    network.run(45.0)
    assert tables(portal) == EMPTY
    assert [tables(stranger) for stranger in strangers] == [EMPTY] * 40


def test_a_moat_that_is_refused_for_hours_leaks_nothing():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(Peer(MOAT, MOAT_HOST, 12, new_signer())), 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(1800.0)
    assert sum(tables(moat).values()) <= 2
    assert sum(tables(portal).values()) <= 3
    moat.ike.remove_connection("portal", network.now)
    network.run(network.now + 20.0)
    assert tables(moat) == tables(portal) == EMPTY
    assert moat.ike.get_timer() is None


def test_rekeys_over_and_over_leak_nothing():
    network = Network()
    moat, portal = established(network)
    for _ in range(300):
        portal.ike.rekey("c0001", "ike", network.now)
        moat.ike.rekey("portal", "child", network.now)
        network.run(network.now + 5.0)
    network.run(network.now + 60.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    for peer, name in ((moat, "portal"), (portal, "c0001")):
        peer.ike.remove_connection(name, network.now)
    network.run(network.now + 60.0)
    assert tables(moat) == tables(portal) == EMPTY


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["moat-child", "moat-ike", "portal-child", "portal-ike", "move", "kill", "traffic"]
        ),
        st.floats(0.0, 3.0),
    ),
    max_size=8,
)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 1 << 16),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.floats(0, 0.5),
    STEPS,
)
def test_two_peers_on_a_bad_network_end_with_one_of_each(seed, loss, repeat, jitter, steps):
    network = Network(seed, loss, repeat, jitter)
    moat, portal = Peer(MOAT, MOAT_HOST, seed), Peer(PORTAL, PORTAL_HOST, seed + 1)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(1.0)
    for number, (step, pause) in enumerate(steps):
        if step == "kill":
            network.peers.remove(portal)
            portal = Peer(PORTAL, PORTAL_HOST, seed + number + 2, portal.signer)
            portal.ike.add_connection(portal_config(moat), network.now)
            network.join(portal)
        elif step == "move":
            moat.host = f"192.0.2.{100 + number}"
            moat.ike.local_address_changed(network.now)
        elif step == "traffic":
            moat.ike.note_outbound("portal", network.now)
        else:
            who, sa = step.split("-")
            peer, name = {"moat": (moat, "portal"), "portal": (portal, "c0001")}[who]
            if peer.ike.status(name).state == "established":
                peer.ike.rekey(name, sa, network.now)
        network.run(network.now + pause)
    network.loss = network.repeat = 0.0
    network.run(network.now + 90.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert len(moat.inbound) == len(portal.inbound) == 1
    one, other = moat.ike.status("portal"), portal.ike.status("c0001")
    assert (one.spi_i, one.spi_r) == (other.spi_i, other.spi_r)
    assert other.peer == Endpoint(moat.host, NAT_PORT)
