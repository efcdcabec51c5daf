"""Traffic selectors: narrowing (RFC 7296, 2.9) and cover."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.wire.selectors import TrafficSelector


def ts(first, last, protocol=0, ports=(0, 65535)):
    return TrafficSelector(ip_address(first), ip_address(last), protocol, *ports)


def test_from_network():
    assert TrafficSelector.from_network("10.1.2.0/24") == ts("10.1.2.0", "10.1.2.255")
    assert TrafficSelector.from_network(ip_network("fd00::/127")) == ts("fd00::", "fd00::1")
    with pytest.raises(ValueError, match="host bits"):
        TrafficSelector.from_network("10.1.2.3/24")


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (ts("10.0.0.0", "10.0.0.9"), ts("10.0.0.5", "10.0.0.20"), ts("10.0.0.5", "10.0.0.9")),
        (ts("10.0.0.0", "10.0.0.9"), ts("10.0.0.9", "10.0.0.9"), ts("10.0.0.9", "10.0.0.9")),
        (ts("10.0.0.0", "10.0.0.9"), ts("10.0.0.10", "10.0.0.20"), None),
        (ts("10.0.0.0", "10.0.0.9"), ts("::a00:0", "::a00:9"), None),
        (ts("::1", "::9", 6), ts("::1", "::9"), ts("::1", "::9", 6)),
        (ts("::1", "::9", 6), ts("::1", "::9", 17), None),
        (
            ts("::1", "::9", 6, (1, 100)),
            ts("::1", "::9", 6, (50, 200)),
            ts("::1", "::9", 6, (50, 100)),
        ),
        (ts("::1", "::9", 6, (1, 49)), ts("::1", "::9", 6, (50, 200)), None),
    ],
)
def test_intersect(one, other, both):
    assert one.intersect(other) == both
    assert other.intersect(one) == both


def test_covers():
    wide, narrow = ts("10.0.0.0", "10.0.0.255"), ts("10.0.0.1", "10.0.0.2", 6, (22, 22))
    assert wide.covers(narrow)
    assert wide.covers(wide)
    assert not narrow.covers(wide)
    assert not wide.covers(ts("::1", "::2"))


spans = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted)
selectors = st.builds(
    lambda span, protocol, ports: ts(
        f"10.0.0.{span[0]}", f"10.0.0.{span[1]}", protocol, tuple(ports)
    ),
    spans,
    st.sampled_from([0, 6, 17]),
    spans,
)


def selects(selector, address, protocol, port):
    return (
        int(selector.start) <= address <= int(selector.end)
        and selector.protocol in (0, protocol)
        and selector.start_port <= port <= selector.end_port
    )


@given(selectors, selectors)
def test_the_intersection_selects_exactly_what_both_select(one, other):
    both = one.intersect(other)
    base = int(ip_address("10.0.0.0"))
    for address in range(base, base + 8):
        for protocol in (6, 17):
            for port in range(8):
                packet = (address, protocol, port)
                expected = selects(one, *packet) and selects(other, *packet)
                assert (both is not None and selects(both, *packet)) == expected
    assert one.covers(other) == (both == other)
