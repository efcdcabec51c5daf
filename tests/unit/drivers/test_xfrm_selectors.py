"""Traffic selectors as prefixes and masks: exactly the packets that they mean, and no others."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from moatvpn.drivers.xfrm_messages import Selector
from moatvpn.drivers.xfrm_selectors import kernel_selectors, masked_ports
from moatvpn.wire.selectors import TrafficSelector

PORTS = st.integers(0, 65535)


@given(PORTS, PORTS, PORTS)
def test_masks_match_the_range_and_nothing_else(one: int, other: int, port: int) -> None:
    start, end = sorted((one, other))
    masks = masked_ports(start, end)
    assert len(masks) <= 31
    for tried in (start, end, start - 1, end + 1, port):
        matching = [value for value, mask in masks if tried & mask == value]
        assert len(matching) == (start <= tried <= end)


def test_all_ports_are_one_mask_of_nothing() -> None:
    assert masked_ports(0, 65535) == [(0, 0)]


def ts(network: str, protocol: int = 0) -> TrafficSelector:
    whole = TrafficSelector.from_network(network)
    return TrafficSelector(whole.start, whole.end, protocol)


def test_each_pair_of_networks_of_one_family() -> None:
    whence, to = (ts("10.1.0.0/24"), ts("fd00:1::/64")), (ts("0.0.0.0/0"), ts("::/0"))
    assert list(kernel_selectors(whence, to)) == [
        Selector("10.1.0.0", 24, "0.0.0.0", 0),
        Selector("fd00:1::", 64, "::", 0),
    ]


def test_protocols_that_exclude_each_other_select_nothing() -> None:
    assert list(kernel_selectors([ts("10.1.0.0/24", 6)], [ts("10.2.0.0/24", 17)])) == []
    (both,) = kernel_selectors([ts("10.1.0.0/24", 6)], [ts("10.2.0.0/24")])
    assert both.protocol == 6


def test_a_range_is_as_many_prefixes_as_it_takes() -> None:
    uneven = TrafficSelector(ip_address("10.1.0.1"), ip_address("10.1.0.6"))
    found = list(kernel_selectors([uneven], [ts("10.2.0.0/24")]))
    assert [(s.source, s.source_length) for s in found] == [
        ("10.1.0.1", 32), ("10.1.0.2", 31), ("10.1.0.4", 31), ("10.1.0.6", 32),
    ]  # fmt: skip
