"""Hostile octets into whole endpoints, state included: counters go up, and nothing else happens.

An input is a list of steps against a moat and a portal that are connected (DELAY apart, in virtual
time): what it is (an octet), a word (an octet), and a chunk (its length in two octets). Strangers
send anything; so does somebody who knows our SPIs; the peers themselves say anything that is
properly sealed; and so does a stranger who has got as far as IKE_AUTH. At the end the tunnel must
be there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from envelopes import ABLE
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    moat_config,
    portal_config,
    tables,
)
from pki import NOW, Authority

from moatvpn.crypto.aead import new_aead
from moatvpn.crypto.sign import Signer
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.secrets import Certificates, ConnectionSecrets
from moatvpn.ike.status import ConnectionStatus
from moatvpn.ike.tickets import TicketKeys
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_header import HEADER_LENGTH, NO_SPI, Exchange, PayloadType

MOST_STEPS = 12
HEAL_SECONDS = 35.0  # a liveness check, its retransmissions, and a set-up
MOST_ENTRIES = 24  # of each table, whatever a peer says
STRANGER_HOST = "203.0.113.66"
STRANGER = Endpoint(STRANGER_HOST, 500)
LOCAL_WORDS = ("child", "ike", "outbound", "moved")


# Always the same keys, so that a finding can be had again.
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes((seed,)) * 32) for seed in (1, 2, 3)]
SIGNERS = [Signer(key) for key in KEYS]
CA = Authority()
CERTIFICATES = Certificates(CA.issue(PORTAL, key=KEYS[1]).own, lambda: NOW, tuple)


def steps(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each step: what, word and chunk."""
    offset = 0
    for _ in range(MOST_STEPS):
        if offset + 4 > len(data):
            return
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        yield data[offset], data[offset + 1], data[offset + 4 : offset + 4 + length]
        offset += 4 + length


def encode_step(what: int, word: int, chunk: bytes) -> bytes:
    """Return the octets of one step."""
    return bytes((what, word)) + len(chunk).to_bytes(2, "big") + chunk


def hostile(
    sa: IkeSa, message: tuple[int, bool, int], first: int, start: bytes, inner: bytes
) -> bytes:
    """Return a sealed message of sa's: exchange, response, ID; inner has whatever padding."""
    exchange, response, message_id = message
    assert sa._seal is not None
    kind = PayloadType.SKF if start else PayloadType.SK
    length = 4 + len(start) + len(inner) + 24
    head = sa.header(kind, exchange, message_id, response, HEADER_LENGTH + length)
    associated = head + bytes((first, 0)) + length.to_bytes(2, "big") + start
    aead, salt = new_aead(sa._seal._suite, sa._seal._material)
    iv = bytes(8)
    return associated + iv + aead.encrypt(salt + iv, inner, associated)


class Bench:
    """A moat and a portal that are connected, and what a hostile hand can do to them."""

    def __init__(self) -> None:
        self.network = Network(1)
        self.moat = Peer(MOAT, MOAT_HOST, 11, SIGNERS[0], abilities=ABLE)
        tickets = TicketKeys(random.Random(5).randbytes, lambda: NOW + self.network.now)
        self.portal = Peer(
            PORTAL,
            PORTAL_HOST,
            22,
            SIGNERS[1],
            certificates=CERTIFICATES,
            tickets=tickets,
            abilities=ABLE,
        )
        self.network.join(self.moat, self.portal)
        self.portal.ike.add_connection(portal_config(self.moat), 0.0)
        # Two more that a stranger may claim to be.
        for name, secrets in (
            ("certificate", ConnectionSecrets(anchors=CA.anchors)),
            ("psk", ConnectionSecrets(psk=bytes(range(32)))),
        ):
            changes = {"name": name, "authentication": name, "remote_public_keys": ()}
            other = portal_config(self.moat, remote_identity=f"{name}.example.net", **changes)
            self.portal.ike.add_connection(other, 0.0, secrets)
        self.moat.ike.add_connection(moat_config(self.portal), 0.0)
        self.run(1.0)
        assert connected(self.moat, self.portal)
        self.liars: set[Peer] = set()
        self.acts: tuple[Callable[[int, bytes], None], ...] = (
            self.from_a_stranger,
            self.from_who_knows_spis,
            self.request,
            self.response,
            self.fragment,
            self.command,
            self.wait,
            self.half_open,
        )

    def run(self, seconds: float) -> None:
        """Let time go by."""
        self.network.run(self.network.now + seconds)

    def side(self, word: int) -> tuple[Peer, Peer, str]:
        """Return who sends, who receives, and what the receiver calls the connection."""
        if word & 1:
            return self.portal, self.moat, "portal"
        return self.moat, self.portal, "c0001"

    def sa_of(self, peer: Peer) -> IkeSa | None:
        """Return the IKE SA in use, if it has keys."""
        connection = peer.ike._context.connections["portal" if peer is self.moat else "c0001"]
        return connection.sa if connection.sa is not None and connection.sa._seal else None

    def give(self, peer: Peer, data: bytes, source: Endpoint) -> list[Datagram]:
        """Hand one message to peer; return what it sends, which goes nowhere."""
        self.network._collect()  # what it had to send anyway is under way
        local = Endpoint(peer.host, source.port)
        peer.ike.receive_datagram(Datagram(data, local, source), self.network.now)
        sent = peer.ike.datagrams_to_send()
        peer.take_events()
        return sent

    # What a step does

    def from_a_stranger(self, word: int, chunk: bytes) -> None:
        """Anything, from anywhere: counted once, or answered as a first request."""
        _, peer, name = self.side(word)
        before = dropped(peer), peer.ike.status(name), tables(peer), lasting(peer)
        sent = self.give(peer, chunk, STRANGER)
        after = dropped(peer), peer.ike.status(name), tables(peer), lasting(peer)
        assert (after[1], after[3]) == (before[1], before[3])
        if after[2] == before[2]:
            assert after[0] <= before[0] + 1
            assert after[0] > before[0] or sent  # the same request has the same answer
            assert after[0] == before[0] or sum(len(d.data) for d in sent) <= len(chunk)
        else:
            grown = {key: after[2][key] - number for key, number in before[2].items()}
            assert grown == {"ike_sas": 1, "half_open": 1, "init_secrets": 1, "child_spis": 0} or (
                grown["half_open"] == 0 and after[0] == before[0]
            )
            assert chunk[8:16] == NO_SPI
            assert len(sent) == 1
            assert peer is self.portal

    def from_who_knows_spis(self, word: int, chunk: bytes) -> None:
        """Anything about the IKE SA that is there: counted once."""
        sender, peer, name = self.side(word)
        sa = self.sa_of(sender)
        if sa is None or len(chunk) < HEADER_LENGTH:
            return
        length = len(chunk).to_bytes(4, "big")
        data = sa.spi_i + sa.spi_r + chunk[16:24] + length + chunk[HEADER_LENGTH:]
        before = dropped(peer), peer.ike.status(name), tables(peer), lasting(peer)
        sent = self.give(peer, data, Endpoint(sender.host, 500))
        after = dropped(peer), peer.ike.status(name), tables(peer), lasting(peer)
        assert after[1:] == before[1:]
        assert after[0] == before[0] + 1
        assert sum(len(d.data) for d in sent) <= len(data)

    def request(self, word: int, chunk: bytes) -> None:
        """An authentic request that says anything: answered once, if it can be opened at all."""
        sender, peer, _ = self.side(word)
        sa, other = self.sa_of(sender), self.sa_of(peer)
        if sa is None or other is None or sa.spi_i != other.spi_i or len(chunk) < 3:
            return
        message_id = other.expected_request
        data = hostile(sa, (chunk[0], False, message_id), chunk[1], b"", chunk[2:])
        self.liars.add(sender)
        sent = self.give(peer, data, Endpoint(sender.host, sa.local.port))
        answers = [d.data for d in sent if d.data[19] & 0x20 and d.data[:16] == data[:16]]
        if chunk[0] != Exchange.IKE_SA_INIT:
            assert answers
            assert {answer[18:24] for answer in answers} == {answers[0][18:24]}
            sa.next_request = message_id + 1
        self._bounded()

    def response(self, word: int, chunk: bytes) -> None:
        """An authentic response that says anything, to what is in flight if there is something."""
        sender, peer, _ = self.side(word)
        sa, other = self.sa_of(sender), self.sa_of(peer)
        if sa is None or other is None or sa.spi_i != other.spi_i or len(chunk) < 3:
            return
        message_id = other.pending.message_id if other.pending is not None else chunk[0]
        data = hostile(sa, (chunk[0], True, message_id), chunk[1], b"", chunk[2:])
        self.liars.add(sender)
        sent = self.give(peer, data, Endpoint(sender.host, sa.local.port))
        assert not any(d.data[19] & 0x20 for d in sent)  # no answer to an answer
        self._bounded()

    def fragment(self, word: int, chunk: bytes) -> None:
        """An authentic fragment: number, total, and what it holds."""
        sender, peer, _ = self.side(word)
        sa, other = self.sa_of(sender), self.sa_of(peer)
        if sa is None or other is None or sa.spi_i != other.spi_i or len(chunk) < 7:
            return
        message = (chunk[0], False, other.expected_request)
        data = hostile(sa, message, chunk[1], chunk[2:6], chunk[6:])
        self.liars.add(sender)
        self.give(peer, data, Endpoint(sender.host, sa.local.port))
        sa.next_request = max(sa.next_request, other.expected_request)
        assert len(peer.ike._context.reassembly) <= 2 * MOST_ENTRIES
        self._bounded()

    def command(self, word: int, chunk: bytes) -> None:
        """Something of our own, so that exchanges are in flight."""
        del chunk
        peer = self.side(word)[0]
        name = "portal" if peer is self.moat else "c0001"
        what = LOCAL_WORDS[(word >> 1) % len(LOCAL_WORDS)]
        if what == "outbound":
            peer.ike.note_outbound(name, self.network.now)
        elif what == "moved":
            peer.ike.local_address_changed(self.network.now)
        elif peer.ike.status(name).state == "established":
            peer.ike.rekey(name, "child" if what == "child" else "ike", self.network.now)

    def wait(self, word: int, chunk: bytes) -> None:
        """Let the network carry what is under way."""
        del chunk
        self.run(word / 100)

    def half_open(self, word: int, chunk: bytes) -> None:
        """A stranger that has keys, and says anything: whatever it is, it ends there."""
        if len(chunk) < 3:
            return
        stranger = Peer("stranger.example.net", STRANGER_HOST, word, SIGNERS[2])
        stranger.ike.add_connection(moat_config(self.portal), self.network.now)
        stranger.ike.handle_timer(self.network.now + 1.0)
        (asked,) = stranger.ike.datagrams_to_send()
        before = standing(self.portal), lasting(self.portal)
        (answer,) = self.give(self.portal, asked.data, STRANGER)
        self.give(stranger, answer.data, Endpoint(PORTAL_HOST, 500))
        attempt = stranger.ike._context.connections["portal"].attempt
        if attempt is None or attempt[0]._seal is None:
            return  # the cookie is for the next
        sa = attempt[0]
        for _ in range(2):  # a repeated request is no other
            data = hostile(sa, (chunk[0], False, 1), chunk[1], b"", chunk[2:])
            sent = self.give(self.portal, data, STRANGER)
            assert len(sent) <= 1
        assert (standing(self.portal), lasting(self.portal)) == before
        self._bounded()

    def _bounded(self) -> None:
        for peer in (self.moat, self.portal):
            assert max(tables(peer).values()) <= MOST_ENTRIES, tables(peer)

    def heal(self) -> None:
        """See that both find each other again, and that nothing is left behind.

        Whoever has lied starts over first: what it made the other believe was its own affair.
        """
        if self.moat in self.liars:
            self.network.peers.remove(self.moat)
            self.moat = Peer(MOAT, MOAT_HOST, 33, SIGNERS[0], abilities=ABLE)
            self.moat.ike.add_connection(moat_config(self.portal), self.network.now)
            self.network.join(self.moat)
        if self.portal in self.liars:
            self.network.peers.remove(self.portal)
            self.portal = Peer(PORTAL, PORTAL_HOST, 44, SIGNERS[1], abilities=ABLE)
            self.portal.ike.add_connection(portal_config(self.moat), self.network.now)
            self.network.join(self.portal)
        self.run(HEAL_SECONDS)
        assert connected(self.moat, self.portal)
        for peer in (self.moat, self.portal):
            assert tables(peer) == SETTLED
            assert len(peer.ike._context.reassembly) == 0


def dropped(peer: Peer) -> int:
    """Return how much a peer has counted."""
    return sum(peer.counters.snapshot().values())


def standing(portal: Peer) -> ConnectionStatus:
    """Return the status of the portal's connection, but for what a stranger failed by."""
    return replace(portal.ike.status("c0001"), failure=None)


def lasting(peer: Peer) -> list[Any]:
    """Return the events that are more than words."""
    peer.take_events()
    return [event for event in peer.events if not hasattr(event, "text")]


def run(data: bytes) -> None:
    """Take one input in; raise whatever no input may cause."""
    bench = Bench()
    for what, word, chunk in steps(data):
        bench.acts[what % len(bench.acts)](word, chunk)
        bench.network._collect()
    bench.heal()
