"""Single SAs: nonces, limits, extended sequence numbers, and the published packets."""

from __future__ import annotations

import copy
import hmac
import pickle
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from esp_peers import ALL, Ends, ipv4
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.esp import sa as sa_module
from moatvpn.esp.child import ChildSa
from moatvpn.esp.ring import Ring
from moatvpn.esp.sa import AeadOutboundSa, Opening, inbound_sa, outbound_sa
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.esp import parts_of, trailer

# RFC 7634, appendix A: number 5 of the SA with SPI 0x01020304, without extended numbers.
RFC7634_MATERIAL = bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3")
RFC7634_RAW = bytes.fromhex(
    "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
    "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
    "2425262728292a2b2c2d2e2f3031323334353637"
)
RFC7634_ESP = bytes.fromhex(
    "0102030400000005101112131415161724039428b97f417e3c13753a4f05087b"
    "67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"
    "2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da"
    "9165b82829f641e076aaa8266b7fb0f7b11b369907e1ad43"
)

# Two packets with AES-256-GCM-16, put together by hand and sealed with OpenSSL's GCM outside of
# this package: SPI 0xdeadbeef, key 00 to 1f, salt 20 to 23, the raw packet below (21 octets, so one
# octet of padding). Number 1 with 32-bit numbers, and number 2^32 + 2 with extended ones.
GCM_MATERIAL = bytes(range(36))
GCM_RAW = bytes.fromhex("4500001500000000401164ca 0ac9010a 0a32000a 78")
GCM_ESP = bytes.fromhex(
    "deadbeef0000000100000000000000012c8f3ba3566105da46dadf905bf57454"
    "544c57d9bc7d695e2b26580b785e172b990d2e059b365813"
)
GCM_ESP_EXTENDED = bytes.fromhex(
    "deadbeef000000020000000100000002bea6e9cb563532ce915eb86355892a2e"
    "235b36dd08964ee1e5e0d9c4d10f3a562ffdc5d69350e7bc"
)


def seal(sa, payload, next_header):
    """Return the ESP packet that holds payload, None where the SA's numbers are used up."""
    plaintext = payload + trailer(len(payload), next_header, sa.alignment)
    sealed = sa.seal([plaintext], Ring())
    return None if sealed is None else bytes(sealed)


def unseal(sa, data):
    """Return an ESP packet's payload, next header, and whether it is the newest so far."""
    opening = Opening()
    parts = parts_of(memoryview(data), len(data))
    assert sa.open(parts, 0, opening) == 1
    if opening.refused:
        raise PeerError(*opening.refused)
    _, plaintext, end, next_header = opening.opened[0]
    return plaintext[:end], next_header, opening.newest


def child(suite, material, spi, esn):
    return ChildSa("x", spi, spi, suite, esn, material, material, ALL, ALL, False)


def test_the_packet_of_rfc_7634_appendix_a():
    inbound = inbound_sa(child(CipherSuite.CHACHA20_POLY1305, RFC7634_MATERIAL, 0x01020304, False))
    assert unseal(inbound, RFC7634_ESP) == (RFC7634_RAW, 4, True)


@pytest.mark.parametrize(
    ("esn", "before", "packet"), [(False, 0, GCM_ESP), (True, 2**32 + 1, GCM_ESP_EXTENDED)]
)
def test_aes_256_gcm_packets_made_by_hand(esn, before, packet):
    sa = outbound_sa(child(CipherSuite.AES_256_GCM, GCM_MATERIAL, 0xDEADBEEF, esn))
    sa._sequence = before  # the SA in the middle of its life
    assert seal(sa, GCM_RAW, 4) == packet
    inbound = inbound_sa(child(CipherSuite.AES_256_GCM, GCM_MATERIAL, 0xDEADBEEF, esn))
    if before:
        inbound.window.commit(before)
    assert unseal(inbound, packet) == (GCM_RAW, 4, True)


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_outbound_sa_can_be_neither_copied_nor_stored(attempt):
    with pytest.raises(TypeError, match="nonces"):
        attempt(outbound_sa(Ends().moat))


def test_a_subclass_may_not_be_copied_either():
    class Other(AeadOutboundSa):
        pass

    with pytest.raises(TypeError, match="nonces"):
        copy.copy(Other(Ends().moat))


@pytest.mark.parametrize("esn", [True, False])
def test_numbers_start_at_1_and_no_nonce_comes_twice(esn):
    sa = outbound_sa(Ends(esn=esn).moat)
    packets = [seal(sa, ipv4(), 4) for _ in range(300)]
    numbers = [int.from_bytes(packet[4:8], "big") for packet in packets]
    assert numbers == list(range(1, 301))
    assert len({packet[8:16] for packet in packets}) == 300
    assert sa.sequence == 300


def test_the_number_cannot_be_set_from_outside():
    with pytest.raises(AttributeError):
        outbound_sa(Ends().moat).sequence = 0


@pytest.mark.parametrize(
    ("esn", "limit"), [(True, "LAST_PACKET_EXTENDED"), (False, "LAST_SEQUENCE")]
)
def test_the_end_of_the_numbers_is_final(monkeypatch, esn, limit):
    monkeypatch.setattr(sa_module, limit, 8)
    sa = outbound_sa(Ends(esn=esn).moat)
    worn = []
    for _ in range(8):
        assert seal(sa, ipv4(), 4) is not None
        worn.append(sa.worn)
    assert worn == [False] * 5 + [True] * 3
    assert [seal(sa, ipv4(), 4) for _ in range(3)] == [None] * 3
    assert sa.sequence == 8


def test_the_real_limits():
    assert sa_module.LAST_SEQUENCE == 2**32 - 1
    assert 2**32 < sa_module.LAST_PACKET_EXTENDED <= 2**36


@pytest.mark.parametrize("suite", list(CipherSuite))
def test_extended_numbers_pass_the_end_of_the_first_2_to_the_32(suite):
    ends = Ends(suite=suite)
    outbound, inbound = outbound_sa(ends.moat), inbound_sa(ends.portal)
    outbound._sequence = 2**32 - 4  # what 2^32 - 4 packets would have led to
    inbound.window.commit(2**32 - 4)
    packets = [seal(outbound, ipv4(bytes((index,))), 4) for index in range(8)]
    low = [int.from_bytes(packet[4:8], "big") for packet in packets]
    assert low == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2, 3, 4]
    order = [0, 3, 2, 5, 4, 1, 7, 6]  # late ones come from the other side of the wrap
    for index in order:
        payload, next_header, _ = unseal(inbound, packets[index])
        assert (payload, next_header) == (ipv4(bytes((index,))), 4)
    for packet in packets:
        with pytest.raises(PeerError) as raised:
            unseal(inbound, packet)
        assert raised.value.reason is DropReason.ESP_REPLAYED


def test_without_extended_numbers_nothing_follows_the_last():
    ends = Ends(esn=False)
    outbound, inbound = outbound_sa(ends.moat), inbound_sa(ends.portal)
    outbound._sequence = 2**32 - 2
    last = seal(outbound, ipv4(), 4)
    assert unseal(inbound, last)[0] == ipv4()
    assert seal(outbound, ipv4(), 4) is None


def test_the_two_kinds_of_number_do_not_understand_each_other():
    outbound, inbound = outbound_sa(Ends(esn=True).moat), inbound_sa(Ends(esn=False).portal)
    with pytest.raises(PeerError) as raised:
        unseal(inbound, seal(outbound, ipv4(), 4))
    assert raised.value.reason is DropReason.ESP_NOT_AUTHENTIC


def test_a_forgery_does_not_move_the_window():
    ends = Ends()
    outbound, inbound = outbound_sa(ends.moat), inbound_sa(ends.portal)
    packets = [seal(outbound, ipv4(), 4) for _ in range(2)]
    forged = packets[0][:4] + (4_000_000).to_bytes(4, "big") + packets[0][8:]
    with pytest.raises(PeerError) as raised:
        unseal(inbound, forged)
    assert raised.value.reason is DropReason.ESP_NOT_AUTHENTIC
    assert [unseal(inbound, packet)[2] for packet in packets] == [True, True]


def test_wrong_length_of_keying_material_is_our_own_fault():
    for suite in CipherSuite:
        wrong = bytes(suite.material_length - 1)
        with pytest.raises(ValueError, match=f"{len(wrong)} octets"):
            outbound_sa(replace(Ends(suite=suite).moat, key_out=wrong))


@pytest.mark.parametrize("suite", CipherSuite)
def test_a_half_cannot_do_what_the_other_half_is_for(suite):
    whole = child(suite, bytes(suite.material_length), 0x11, True)
    sealing, opening = whole.sealing_half(), whole.opening_half()
    assert seal(outbound_sa(opening), b"packet", 4) is None
    envelope = seal(outbound_sa(sealing), b"packet", 4)
    refused = Opening()
    assert inbound_sa(sealing).open(parts_of(memoryview(envelope), len(envelope)), 0, refused) == 1
    assert (refused.opened, refused.refused) == ([], [DropReason.ESP_NOT_AUTHENTIC])
    taken = Opening()
    inbound_sa(opening).open(parts_of(memoryview(envelope), len(envelope)), 0, taken)
    assert [plaintext[:end] for _, plaintext, end, _ in taken.opened] == [b"packet"]


def test_no_key_shows_in_what_may_be_logged():
    shown = repr(Ends().moat)
    assert Ends().moat.key_in.hex() not in shown
    assert "key_in" not in shown
    assert "key_out" not in shown


@given(
    suite=st.sampled_from(CipherSuite),
    esn=st.booleans(),
    payload=st.binary(max_size=2000),
    next_header=st.integers(0, 255),
)
def test_what_is_encrypted_is_decrypted(suite, esn, payload, next_header):
    ends = Ends(suite=suite, esn=esn)
    packet = seal(outbound_sa(ends.moat), payload, next_header)
    assert len(packet) % 4 == 0
    assert unseal(inbound_sa(ends.portal), packet) == (payload, next_header, True)


@pytest.mark.parametrize("esn", [True, False])
@pytest.mark.parametrize("suite", [suite for suite in CipherSuite if not suite.combined])
def test_an_hmac_packet_taken_apart_by_hand(suite, esn):
    """RFC 4303, 2 and 2.2.1; RFC 4868, 2.6: the ICV covers header, IV, ciphertext and high half."""
    sa = outbound_sa(Ends(suite=suite, esn=esn).moat)
    sa._sequence = 2**32 if esn else 6
    packet = seal(sa, ipv4(), 4)
    keys = Ends(suite=suite).moat.key_out
    key, mac_key = keys[: suite.key_length], keys[suite.key_length :]
    name = "sha256" if suite.integrity_key_length == 32 else "sha512"
    icv = packet[-len(mac_key) // 2 :]
    covered = packet[: -len(icv)] + (b"\0\0\0\1" if esn else b"")
    assert hmac.digest(mac_key, covered, name)[: len(icv)] == icv
    cipher = Cipher(algorithms.AES(key), modes.CBC(packet[8:24])).decryptor()
    plaintext = cipher.update(packet[24 : -len(icv)]) + cipher.finalize()
    assert plaintext.startswith(ipv4())
    assert plaintext[-1] == 4
    assert len(plaintext) % 16 == 0


@pytest.mark.parametrize("suite", [suite for suite in CipherSuite if not suite.combined])
@given(data=st.binary(max_size=200), cut=st.integers(0, 80))
def test_hostile_octets_to_an_hmac_sa_are_refused(suite, data, cut):
    ends = Ends(suite=suite)
    inbound = inbound_sa(ends.portal)
    real = seal(outbound_sa(ends.moat), ipv4(), 4)
    for packet in (real[: len(real) - 1 - cut], real[:8] + data, real + data + b"\0"):
        with pytest.raises(PeerError):
            unseal(inbound, packet)
    assert unseal(inbound, real)[0] == ipv4()
