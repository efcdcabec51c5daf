"""The data of USE_AGGFRAG (RFC 9347, 5.1) and of our private notify."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ike_aggfrag import (
    DONT_FRAGMENT,
    MAGIC,
    PRIVATE_BLOCKS,
    parse_private_features,
    parse_use_aggfrag,
    private_features,
    use_aggfrag,
)
from moatvpn.wire.ike_payloads import Notify, NotifyType, parse_notify


def test_they_come_back() -> None:
    # Protocol and SPI size 0, the type, the flags.
    assert use_aggfrag().encode() == bytes.fromhex("0000403a00")
    assert parse_use_aggfrag(parse_notify(use_aggfrag().encode())) is False
    ours = parse_notify(private_features(PRIVATE_BLOCKS).encode())
    assert (ours.type, parse_private_features(ours)) == (41001, PRIVATE_BLOCKS)


@given(st.binary(max_size=4))
def test_one_octet_of_what_we_can_do_and_nothing_else(data: bytes) -> None:
    notify = Notify(NotifyType.USE_AGGFRAG, data)
    if data in (b"\x00", bytes((DONT_FRAGMENT,))):
        assert parse_use_aggfrag(notify) is (data != b"\x00")
        return
    with pytest.raises(PeerError) as caught:
        parse_use_aggfrag(notify)
    assert caught.value.reason is DropReason.IKE_AGGFRAG_REFUSED


@given(st.binary(max_size=20))
def test_another_vendor_s_notify_says_nothing(data: bytes) -> None:
    features = parse_private_features(Notify(NotifyType.MOAT_FEATURES, data))
    assert features == (data[len(MAGIC)] if data[:-1].startswith(MAGIC) else 0)
