"""The data of MOBIKE's notifies (RFC 4555, 4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_mobike import (
    additional_address,
    check_cookie2,
    no_nats_allowed,
    parse_additional_address,
)
from moatvpn.wire.ike_payloads import Notify, NotifyType, parse_notify


@given(st.ip_addresses())
def test_an_additional_address_comes_back(address):
    notify = parse_notify(additional_address(str(address)).encode())
    four = NotifyType.ADDITIONAL_IP4_ADDRESS, NotifyType.ADDITIONAL_IP6_ADDRESS
    assert notify.type == four[address.version == 6]
    assert parse_additional_address(notify) == str(address)


@given(
    st.sampled_from([NotifyType.ADDITIONAL_IP4_ADDRESS, NotifyType.ADDITIONAL_IP6_ADDRESS]),
    st.binary(max_size=20),
)
def test_any_other_length_is_malformed(kind, data):
    length = 4 if kind == NotifyType.ADDITIONAL_IP4_ADDRESS else 16
    if len(data) == length:
        assert parse_additional_address(Notify(kind, data))
        return
    with pytest.raises(PeerError) as caught:
        parse_additional_address(Notify(kind, data))
    assert caught.value.reason is DropReason.IKE_MALFORMED


def test_no_nats_allowed_holds_both_addresses_and_then_both_ports():
    data = no_nats_allowed(Endpoint("192.0.2.1", 4500), Endpoint("198.51.100.2", 500))
    assert data == bytes.fromhex("c0000201 c6336402 1194 01f4")
    assert len(no_nats_allowed(Endpoint("2001:db8::1", 1), Endpoint("2001:db8::2", 2))) == 36


@given(st.binary(max_size=80))
def test_a_cookie2_has_8_to_64_octets(cookie):
    if 8 <= len(cookie) <= 64:
        assert check_cookie2(cookie) is cookie
        return
    with pytest.raises(PeerError):
        check_cookie2(cookie)
