"""Hostile octets into every parser: they return a value or raise PeerError, and nothing else.

The first octet of an input picks the parser, in the order of PARSERS; the rest is what it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network

from pki import NOW, Authority
from single import SingleProcessor

from moatvpn.counters import Counters
from moatvpn.crypto.certificates import dns_names, parse_certificate
from moatvpn.crypto.signature_algorithms import split_auth_data
from moatvpn.crypto.trust import CertificateError
from moatvpn.errors import PeerError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.coalesce import coalesce
from moatvpn.esp.ring import Ring
from moatvpn.wire import (
    ike_aggfrag,
    ike_config,
    ike_fragment,
    ike_mobike,
    ike_payloads,
    ip,
    offload,
)
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import trailer
from moatvpn.wire.ike_first import cookie_answer, first_request, is_other_version, receiver_spi
from moatvpn.wire.ike_header import (
    GENERIC_LENGTH,
    HEADER_LENGTH,
    PayloadType,
    encode_chain,
    parse_chain,
    parse_header,
)
from moatvpn.wire.ike_proposal import encode_proposals, parse_proposals
from moatvpn.wire.selectors import TrafficSelector

MOAT, PORTAL = Endpoint("192.0.2.10", 4500), Endpoint("198.51.100.2", 4500)
TOS_OF_CONGESTION = 3


def _first(data: bytes) -> None:
    receiver_spi(data)
    is_other_version(data)
    if first_request(data) is not None:
        assert len(cookie_answer(data, bytes(17))) < HEADER_LENGTH + 32


def _chain(data: bytes) -> None:
    first, octets = data[0] if data else 0, data[1:]
    payloads = parse_chain(first, octets)
    # Each moves on by its own header at least.
    assert len(octets) >= GENERIC_LENGTH * len(payloads)
    again = encode_chain([(p.type, p.body) for p in payloads])
    assert len(again[1]) == len(octets)


def _proposals(data: bytes) -> None:
    proposals = parse_proposals(data)
    if all(p.transforms for p in proposals):
        assert parse_proposals(encode_proposals(proposals)) == proposals


def _selectors(data: bytes) -> None:
    selectors = ike_payloads.parse_selectors(data)
    if selectors:
        assert ike_payloads.parse_selectors(ike_payloads.encode_selectors(selectors)) == selectors


def _notify(data: bytes) -> None:
    notify = ike_payloads.parse_notify(data)
    assert notify.encode() == data
    with suppress(KeyError, ValueError):
        ike_payloads.NotifyType(notify.type)
        if notify.type in ike_mobike._LENGTHS:
            ike_mobike.parse_additional_address(notify)
    with suppress(PeerError):
        ike_mobike.check_cookie2(notify.data)
    with suppress(PeerError):
        unsplit = ike_aggfrag.parse_use_aggfrag(notify)
        assert notify.data == bytes((unsplit,))
    assert 0 <= ike_aggfrag.parse_private_features(notify) <= 0xFF


def _delete(data: bytes) -> None:
    delete = ike_payloads.parse_delete(data)
    assert len(data) == 4 + sum(map(len, delete.spis))


def _ke(data: bytes) -> None:
    group, public = ike_payloads.parse_ke(data)
    assert ike_payloads.encode_ke(group, public)[4:] == data[4:]


def _configuration(data: bytes) -> None:
    assigned = ike_config.assigned_of(ike_config.parse_attributes(data)[1])
    for network in assigned.networks:
        ip_network(network)


def _certificate(data: bytes) -> None:
    with suppress(CertificateError):
        ANCHORS.verify([data], NOW, ())
    with suppress(CertificateError):
        ANCHORS.verify([SOUND, data], NOW, ())
    with suppress(ValueError):
        dns_names(parse_certificate(data))


def _identity(data: bytes) -> None:
    ike_payloads.parse_fqdn(data)
    ike_payloads.parse_distinguished_name(data)


def _raw_packet(data: bytes) -> None:
    version, length, *_ = ip.read_header(data)
    assert length <= len(data)
    ip.protocol_and_ports(data)
    assert 0 <= ip.traffic_class(data) <= 255
    for ecn in range(4):
        assert len(ip.set_ecn(data, ecn)) == len(data)
    assert version in (4, 6)


def _offload(data: bytes) -> None:
    header, packet = data[: offload.HEADER_LENGTH], data[offload.HEADER_LENGTH :]
    with suppress(PeerError):
        offload.segments(header, packet)
    sound = offload.for_kernel(header, packet)
    assert len(b"".join(offload.segments(sound, packet))) >= len(packet)


def _burst(data: bytes) -> None:
    """Raw packets, each after its length in one octet."""
    packets = []
    while data:
        packets.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    written = 0
    for (head, *payloads), header in coalesce(packets, udp=True, fewest=2):
        written += len(payloads) or 1
        if header and header[1] != offload.GSO_UDP_L4:
            cut = offload.segments(header, b"".join((head, *payloads)))
            assert [packet[len(head) :] for packet in cut] == payloads
    assert written == len(packets)


def _message(data: bytes) -> None:
    header = parse_header(data)
    if header.next_payload == PayloadType.SKF:
        ike_fragment.parse_fragment(data)
    for payload in parse_chain(header.next_payload, data[HEADER_LENGTH:]):
        parser = BODIES.get(payload.type)
        if parser is not None:
            with suppress(PeerError):
                parser(payload.body)


BODIES: dict[int, Callable[[bytes], object]] = {
    PayloadType.SA: _proposals,
    PayloadType.KE: _ke,
    PayloadType.ID_I: _identity,
    PayloadType.ID_R: _identity,
    PayloadType.AUTH: ike_payloads.parse_auth,
    PayloadType.NONCE: ike_payloads.parse_nonce,
    PayloadType.NOTIFY: _notify,
    PayloadType.DELETE: _delete,
    PayloadType.TS_I: _selectors,
    PayloadType.TS_R: _selectors,
    PayloadType.CP: _configuration,
}


class Tunnel:
    """One direction of an ESP tunnel, whose sender says whatever it likes."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._sender, self._receiver = SingleProcessor(Counters()), SingleProcessor(self._counters)
        private = (TrafficSelector.from_network("10.201.1.0/24"),)
        everywhere = tuple(map(TrafficSelector.from_network, ("0.0.0.0/0", "::/0")))
        suite = CipherSuite.AES_256_GCM
        key = bytes(suite.material_length)
        there = ChildSa("m", 257, 258, suite, True, key, key, everywhere, everywhere, True)
        here = ChildSa("p", 258, 257, suite, True, key, key, everywhere, private, True)
        self._sender.install(there, PORTAL, activate_outbound=True)
        self._receiver.install(here, MOAT, activate_outbound=True)

    def authentic(self, data: bytes) -> None:
        """An envelope of a peer's that holds anything: the first octet is the next header."""
        pair = self._sender._pairs[257]
        plaintext = data[1:] + trailer(len(data[1:]), data[0] if data else 0)
        sealed = pair.outbound.seal([plaintext], RING)
        assert sealed is not None
        envelope = bytes(sealed)
        before = self._dropped()
        raw = self._receiver.raw_packet(envelope, MOAT, TOS_OF_CONGESTION)
        if raw is None:
            dummy = data[:1] == b"\x3b"
            assert self._dropped() == before + (not dummy)
        else:
            assert self._dropped() == before
            assert not raw.moved

    def forged(self, data: bytes) -> None:
        """An envelope of a stranger's, to an SPI that is there."""
        before = self._dropped()
        assert self._receiver.raw_packet((258).to_bytes(4, "big") + data, MOAT, 0) is None
        assert self._receiver.raw_packet(data, MOAT, 0) is None
        assert self._dropped() == before + 2

    def _dropped(self) -> int:
        return sum(self._counters.snapshot().values())


RING = Ring()
TUNNEL = Tunnel()
ANCHORS = Authority().anchors
SOUND = Authority().issue("m1.example.net").der[0]  # of another CA, of the same name

PARSERS: tuple[Callable[[bytes], object], ...] = (
    _message,
    _first,
    _chain,
    _proposals,
    _selectors,
    _notify,
    _delete,
    _configuration,
    _raw_packet,
    TUNNEL.authentic,
    TUNNEL.forged,
    _identity,
    ike_payloads.parse_auth,
    _certificate,
    split_auth_data,
    _offload,
    _burst,
)


def run(data: bytes) -> None:
    """Take one input in; raise whatever no input may cause."""
    if data:
        with suppress(PeerError):
            PARSERS[data[0] % len(PARSERS)](data[1:])
