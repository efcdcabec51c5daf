"""AGGFRAG's blocks: their lengths, and the private ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.errors import PeerError
from moatvpn.wire import aggfrag
from moatvpn.wire.aggfrag import block_length

IPV4 = bytes.fromhex("4500 0034") + bytes(48)
IPV6 = bytes.fromhex("60000000 0010") + bytes(50)


def test_the_header_is_that_of_rfc_9347_6_1() -> None:
    assert aggfrag.header(0) == bytes(4)
    assert aggfrag.header(0x1234) == bytes.fromhex("0000 1234")


@pytest.mark.parametrize(("block", "length"), [(IPV4, 52), (IPV6, 56)])
def test_a_packet_tells_its_own_length(block: bytes, length: int) -> None:
    assert block_length(block, 0, len(block)) == length
    assert block_length(b"xyz" + block, 3, 3 + len(block)) == length


@pytest.mark.parametrize(("block", "telling"), [(IPV4, 4), (IPV6, 6)])
def test_a_length_that_is_cut_off_is_not_known(block: bytes, telling: int) -> None:
    assert block_length(block, 0, telling - 1) is None
    assert block_length(block, 0, telling) is not None


@pytest.mark.parametrize("first", [0x10, 0x35, 0x50, 0x70, 0xB0, 0xFF])
def test_an_unknown_type_is_malformed(first: int) -> None:
    with pytest.raises(PeerError, match="esp-aggfrag-malformed"):
        block_length(bytes([first]) * 40, 0, 40)


@pytest.mark.parametrize("length", [0, 19])
@pytest.mark.parametrize("first", [0x45, 0x81])
def test_a_block_shorter_than_its_header_is_malformed(first: int, length: int) -> None:
    with pytest.raises(PeerError, match="esp-aggfrag-malformed"):
        block_length(bytes([first, 1]) + length.to_bytes(2, "big") + bytes(40), 0, 44)


@given(st.binary(min_size=1, max_size=80), st.integers(0, 79))
def test_every_block_makes_progress(data: bytes, at: int) -> None:
    at %= len(data)
    if data[at] >> 4 == aggfrag.PADDING:
        return
    try:
        length = block_length(data, at, len(data))
    except PeerError:
        return
    assert length is None or length >= aggfrag.PROBE_LENGTH


@given(
    flags=st.integers(0, 3),
    kind=st.sampled_from([0, 1, 4, 0x81, 0x84]),
    fields=st.tuples(*[st.integers(0, 0xFFFF)] * 3),
    length=st.integers(20, 0xFFFF),
)
def test_a_virtio_header_survives(
    flags: int, kind: int, fields: tuple[int, int, int], length: int
) -> None:
    size, start, at = (field.to_bytes(2, "little") for field in fields)
    virtio = bytes((flags, kind, 0, 0)) + size + start + at
    header = aggfrag.super_header(virtio, length)
    assert len(header) == aggfrag.SUPER_HEADER_LENGTH
    assert header[0] >> 4 == aggfrag.SUPER_PACKET
    assert block_length(header, 0, len(header)) == length + aggfrag.SUPER_HEADER_LENGTH
    assert aggfrag.offload_of(header + b"packet") == virtio


@pytest.mark.parametrize("answer", [False, True])
def test_a_probe_and_its_answer(answer: bool) -> None:
    block = aggfrag.probe(0xDEADBEEF, answer=answer)
    assert len(block) == aggfrag.PROBE_LENGTH == block_length(block, 0, len(block))
    assert block[0] >> 4 == (aggfrag.PROBE_ANSWER if answer else aggfrag.PROBE)
    assert aggfrag.identifier_of(block) == 0xDEADBEEF
