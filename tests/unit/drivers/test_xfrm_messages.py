"""Messages of the kernel's IPsec: their layout (linux/xfrm.h), and what is read of them.

That the kernel means the same is for tests/interop/kernel/test_kernel_plane.py to show.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.drivers import xfrm_messages as xfrm
from moatvpn.drivers.netlink_codec import attributes
from moatvpn.drivers.xfrm_messages import KernelSa, SaEvent, Selector, Template
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint

ALG_CRYPT, ENCAP, TEMPLATE, ALG_AEAD, ALG_AUTH_TRUNC, REPLAY, IF_ID, MAPPING_TIME = (
    2, 4, 5, 18, 20, 23, 31, 32,
)  # fmt: skip


def sa(suite: CipherSuite = CipherSuite.AES_256_GCM, **changes: object) -> KernelSa:
    key = bytes(range(suite.material_length))
    made = KernelSa("192.0.2.10", "192.0.2.1", 0x1001, 5, 7, suite, key, True, False, None)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_sizes_are_the_kernels() -> None:
    assert xfrm.SA_SIZE == 224
    assert len(Selector("10.0.0.0", 8, "10.1.0.0", 16).encode()) == 56
    assert len(Template(1).encode()) == 64
    assert len(sa().identity()) == 24


def test_a_new_sa_says_where_it_is_and_what_it_is_for() -> None:
    body = sa().encode()
    assert body[56:60] == bytes((192, 0, 2, 1))
    assert body[72:76] == (0x1001).to_bytes(4, "big")
    assert body[76] == 50
    assert body[80:84] == bytes((192, 0, 2, 10))
    reqid, family, mode = struct.unpack_from("=IHB", body, 208)
    assert (reqid, family, mode) == (5, 2, 1)
    # No DF outside, any family inside, numbers of 64 bits.
    assert body[216] == 4 | 32 | 128
    found = attributes(body[224:])
    assert found[IF_ID] == struct.pack("=I", 7)
    assert struct.unpack_from("=6I", found[REPLAY]) == (64, 0, 0, 0, 0, 2048)
    assert len(found[REPLAY]) == 24 + 256
    assert ENCAP not in found
    assert MAPPING_TIME not in found


@pytest.mark.parametrize("suite", CipherSuite, ids=lambda suite: suite.value)
def test_algorithms_have_all_of_the_keying_material(suite: CipherSuite) -> None:
    made = sa(suite)
    found = attributes(made.encode()[224:])
    if suite.combined:
        bits, icv = struct.unpack_from("=II", found[ALG_AEAD], 64)
        assert (bits, icv) == (8 * suite.material_length, 128)
        assert found[ALG_AEAD][72:] == made.key
    else:
        key, mac = found[ALG_CRYPT], found[ALG_AUTH_TRUNC]
        assert struct.unpack_from("=I", key, 64)[0] == 8 * suite.key_length
        assert mac[:64].rstrip(b"\0") == b"hmac(sha%d)" % (8 * suite.integrity_key_length)
        assert struct.unpack_from("=II", mac, 64)[1] == 4 * suite.integrity_key_length
        assert key[68:] + mac[72:] == made.key


def test_a_key_is_never_shown() -> None:
    assert "key" not in repr(sa())


def test_in_udp_an_inbound_sa_tells_of_moves() -> None:
    inbound = attributes(sa(inbound=True, ports=(1234, 4500)).encode()[224:])
    assert inbound[ENCAP][:6] == struct.pack("=H", 2) + b"\x04\xd2\x11\x94"
    assert MAPPING_TIME in inbound
    outbound = attributes(sa(ports=(4500, 1234)).encode()[224:])
    assert MAPPING_TIME not in outbound


def replay(sent: int, top: int = 9) -> bytes:
    low, high = sent & 0xFFFFFFFF, sent >> 32
    return struct.pack("=6I", 64, low, top, high, 0, 2048) + bytes(256)


def packet_limits(body: bytes) -> tuple[int, int]:
    soft, hard = struct.unpack_from("=2Q", body, 96 + 16)
    return soft, hard


@pytest.mark.parametrize(("esn", "last"), [(False, (1 << 32) - 1), (True, 1 << 36)])
def test_an_outbound_sa_ends_before_its_numbers_do(esn: bool, last: int) -> None:
    assert packet_limits(sa(esn=esn).encode()) == (last * 3 // 4, last)
    # One that goes on for another has that much less.
    later = sa(esn=esn, replay=replay(1000)).encode()
    assert packet_limits(later) == (last * 3 // 4 - 1000, last - 1000)
    assert packet_limits(sa(inbound=True).encode()) == ((1 << 64) - 1,) * 2


def test_numbers_are_left_out_across_the_end_of_the_low_half() -> None:
    later = xfrm.skipped(replay(0xFFFFFFFF), 5, esn=True)
    assert xfrm.sequence_out(later) == 0x100000004
    assert later[8:12] == struct.pack("=I", 9)  # the inbound side is what it was
    assert xfrm.sequence_out(xfrm.skipped(replay(0xFFFFFFFE), 5, esn=False)) == 0xFFFFFFFF


def test_what_the_kernel_counts_is_read_back() -> None:
    body = bytearray(sa(replay=replay(77)).encode())
    struct.pack_into("=2Q", body, 160, 5000, 50)
    state = xfrm.read_sa(bytes(body))
    assert (state.octets, state.packets) == (5000, 50)
    assert xfrm.sequence_out(state.replay) == 77
    assert xfrm.sa_if_id(bytes(body)) == 7
    assert xfrm.sa_identity(bytes(body)) == sa().identity()


@pytest.mark.parametrize("six", [False, True])
def test_a_policy_is_found_again(six: bool) -> None:
    net = Selector("fd00:1::", 64, "::", 0) if six else Selector("10.1.0.0", 16, "0.0.0.0", 0)
    body = xfrm.set_policy(xfrm.FORWARD, net, Template(5, "192.0.2.1", "192.0.2.2", 9), 100, 7)
    assert xfrm.policy_key(body) == (xfrm.FORWARD, net.encode(), 7)
    template = attributes(body[168:])[TEMPLATE]
    assert template[:4] == bytes((192, 0, 2, 2))
    assert template[16:20] == (9).to_bytes(4, "big")
    assert xfrm.delete_policy(xfrm.FORWARD, net.encode(), 7).startswith(net.encode())


def sa_id(target: str = "192.0.2.1", spi: int = 0x1001) -> bytes:
    return sa(target=target, spi=spi).identity()


def test_events_are_told_by_target_and_spi() -> None:
    used = xfrm.read_event(xfrm.NEW_AE, sa_id() + bytes(24))
    assert used == SaEvent("192.0.2.1", 0x1001)
    worn = xfrm.read_event(xfrm.EXPIRE, sa().encode()[:224] + bytes(8))
    assert worn == SaEvent("192.0.2.1", 0x1001, worn=True)
    assert xfrm.read_event(xfrm.EXPIRE, sa().encode()[:224] + b"\1" + bytes(7)) is None
    old, new = bytes(16), bytes((198, 51, 100, 7)) + bytes(12)
    moved = sa_id() + struct.pack("=I", 5) + old + new + b"\x11\x94" + b"\x04\xd2"
    assert xfrm.read_event(xfrm.MAPPING, moved) == SaEvent(
        "192.0.2.1", 0x1001, moved=Endpoint("198.51.100.7", 1234)
    )
    assert xfrm.read_event(0x99, moved) is None


@given(st.sampled_from([xfrm.NEW_AE, xfrm.EXPIRE, xfrm.MAPPING]), st.binary(max_size=300))
def test_no_octets_are_an_error(kind: int, body: bytes) -> None:
    xfrm.read_event(kind, body)
