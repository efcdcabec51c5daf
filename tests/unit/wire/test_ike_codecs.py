"""IKE's codecs: what is encoded is read back, and hostile octets only ever raise PeerError."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire import ike_header, ike_payloads, ike_proposal
from moatvpn.wire.ike_header import IkeHeader, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Delete, Notify
from moatvpn.wire.ike_proposal import Proposal, Transform
from moatvpn.wire.selectors import TrafficSelector

octet = st.integers(0, 255)
word = st.integers(0, 65535)


def ranges(family, bits):
    """Selectors of one address family."""
    numbers = st.integers(0, (1 << bits) - 1)
    pairs = st.tuples(numbers, numbers).map(sorted)
    ports = st.tuples(word, word).map(sorted)
    return st.builds(
        lambda a, protocol, p: TrafficSelector(family(a[0]), family(a[1]), protocol, *p),
        pairs, octet, ports,
    )  # fmt: skip


headers = st.builds(
    IkeHeader,
    st.binary(min_size=8, max_size=8).filter(any), st.binary(min_size=8, max_size=8),
    octet, octet, st.booleans(), st.booleans(), st.integers(0, 2**32 - 1), st.just(28),
)  # fmt: skip
chains = st.lists(
    st.tuples(octet.filter(lambda kind: kind not in (0, 46, 53)), st.binary(max_size=40)),
    min_size=1,
)
notifies = st.builds(Notify, word, st.binary(max_size=30), octet, st.binary(max_size=255))
deletes = st.integers(1, 8).flatmap(
    lambda size: st.builds(
        Delete, octet, st.lists(st.binary(min_size=size, max_size=size)).map(tuple)
    )
)
selectors = st.lists(
    ranges(IPv4Address, 32) | ranges(IPv6Address, 128), min_size=1, max_size=255
).map(tuple)
transforms = st.builds(Transform, octet, word, st.none() | word)
proposals = st.lists(
    st.builds(
        Proposal, octet, octet, st.binary(max_size=8), st.lists(transforms, max_size=5).map(tuple)
    ),
    min_size=1, max_size=5,
).map(tuple)  # fmt: skip

# Every parser, with octets that it accepts.
PARSERS = {
    "header": (ike_header.parse_header, headers.map(IkeHeader.encode)),
    "chain": (
        lambda data: ike_header.parse_chain(data[0] if data else 33, data[1:]),
        chains.map(ike_header.encode_chain).map(lambda first: bytes((first[0],)) + first[1]),
    ),
    "notify": (ike_payloads.parse_notify, notifies.map(Notify.encode)),
    "delete": (ike_payloads.parse_delete, deletes.map(Delete.encode)),
    "ke": (
        ike_payloads.parse_ke,
        st.builds(ike_payloads.encode_ke, word, st.binary(min_size=1, max_size=64)),
    ),
    "nonce": (ike_payloads.parse_nonce, st.binary(min_size=16, max_size=256)),
    "fqdn": (ike_payloads.parse_fqdn, st.just(ike_payloads.encode_fqdn("m1.example"))),
    "auth": (
        ike_payloads.parse_auth,
        st.builds(ike_payloads.encode_auth, octet, st.binary(min_size=1, max_size=80)),
    ),
    "selectors": (
        ike_payloads.parse_selectors,
        selectors.map(ike_payloads.encode_selectors),
    ),
    "proposals": (ike_proposal.parse_proposals, proposals.map(ike_proposal.encode_proposals)),
}
parsers = st.sampled_from(sorted(PARSERS))


def refused(parse, data):
    """Return why hostile octets are malformed, None where they mean something."""
    try:
        parse(data)
    except PeerError as error:
        return error.reason
    return None


REFUSALS = (None, DropReason.IKE_MALFORMED, DropReason.IKE_VERSION)


@given(parsers, st.binary(max_size=600))
def test_no_octets_make_a_parser_fail_otherwise(name, data):
    assert refused(PARSERS[name][0], data) in REFUSALS


@given(st.data())
def test_no_damaged_octets_make_a_parser_fail_otherwise(data):
    parse, valid = PARSERS[data.draw(parsers)]
    octets = bytearray(data.draw(valid))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(octet)
    assert refused(parse, bytes(octets)) in REFUSALS
    cut = data.draw(st.integers(0, len(octets)))
    assert refused(parse, bytes(octets[:cut])) in REFUSALS


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(data=st.data())
def test_what_is_valid_is_accepted(name, data):
    parse, valid = PARSERS[name]
    parse(data.draw(valid))


@given(headers)
def test_header_comes_back(header):
    assert ike_header.parse_header(header.encode()) == header


@given(chains)
def test_chain_comes_back(chain):
    payloads = [RawPayload(kind, False, body) for kind, body in chain]
    assert ike_header.parse_chain(*ike_header.encode_chain(chain)) == payloads


@given(notifies)
def test_notify_comes_back(notify):
    assert ike_payloads.parse_notify(notify.encode()) == notify


@given(deletes)
def test_delete_comes_back(delete):
    assert ike_payloads.parse_delete(delete.encode()) == delete


@given(selectors)
def test_selectors_come_back(those):
    assert ike_payloads.parse_selectors(ike_payloads.encode_selectors(those)) == those


@given(proposals)
def test_proposals_come_back(those):
    assert ike_proposal.parse_proposals(ike_proposal.encode_proposals(those)) == those


def test_an_identity_is_read_in_lower_case():
    assert ike_payloads.parse_fqdn(ike_payloads.encode_fqdn("M1.Example")) == "m1.example"
    assert ike_payloads.parse_fqdn(b"\x01\0\0\0\xc0\0\x02\x01") is None  # ID_IPV4_ADDR


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m[:27], DropReason.IKE_MALFORMED),
        (lambda m: m + b"\0", DropReason.IKE_MALFORMED),
        (lambda m: bytes(8) + m[8:], DropReason.IKE_MALFORMED),
        (lambda m: m[:17] + b"\x10" + m[18:], DropReason.IKE_VERSION),
        (lambda m: m[:17] + b"\x30" + m[18:], DropReason.IKE_VERSION),
    ],
    ids=["short", "long", "no initiator SPI", "version 1", "version 3"],
)
def test_a_wrong_header_is_refused(change, reason):
    header = IkeHeader(b"initiate", bytes(8), 33, 34, True, False, 0, 28).encode()
    with pytest.raises(PeerError) as caught:
        ike_header.parse_header(change(header))
    assert caught.value.reason is reason


def test_an_encrypted_payload_ends_the_chain():
    # Its next-payload field (here 41) names what is inside (RFC 7296, 3.14).
    data = b"\x29\0\0\x08abcd"
    assert ike_header.parse_chain(PayloadType.SK, data) == [RawPayload(46, False, b"abcd")]


def test_a_minor_version_and_the_critical_bit_are_understood():
    header = bytearray(IkeHeader(b"initiate", bytes(8), 33, 34, True, False, 0, 28).encode())
    header[17] = 0x2F  # a newer minor version is read as this one (2.5)
    assert ike_header.parse_header(bytes(header)).spi_i == b"initiate"
    assert ike_header.parse_chain(200, b"\0\x80\0\x04") == [RawPayload(200, True, b"")]


def test_an_unknown_selector_type_is_left_out():
    known = ike_payloads.encode_selectors([TrafficSelector.from_network("10.0.0.0/8")])[4:]
    fibre_channel = b"\x09\0\0\x0c\0\0\xff\xffabcd"
    body = b"\x02\0\0\0" + fibre_channel + known
    assert ike_payloads.parse_selectors(body) == (TrafficSelector.from_network("10.0.0.0/8"),)


def test_a_transform_with_an_unknown_attribute_is_left_out():
    body = bytes.fromhex("000000180103000100000010 0100 0014 800e0100 80120001".replace(" ", ""))
    (proposal,) = ike_proposal.parse_proposals(body)
    assert proposal.transforms == ()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 65535])
def test_a_length_that_would_stand_still_or_lead_outside_is_refused(length):
    octets = length.to_bytes(2, "big")
    payload = b"\x21\0" + octets + b"abcd"  # the next payload is one like it
    selector = b"\x01\0\0\0\x07\0" + octets + b"\0\0\xff\xff" + bytes(8)
    proposal = b"\x02\0" + octets + b"\x01\x03\0\0"
    transform = bytes.fromhex("0000001001030001") + b"\x03\0" + octets + bytes(4)
    with pytest.raises(PeerError):
        ike_header.parse_chain(33, payload)
    with pytest.raises(PeerError):
        ike_payloads.parse_selectors(selector)
    with pytest.raises(PeerError):
        ike_proposal.parse_proposals(proposal)
    with pytest.raises(PeerError):
        ike_proposal.parse_proposals(transform)
