"""Allocation and overlap, by example and by property."""

from __future__ import annotations

import ipaddress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn import subnets
from moatvpn.subnets import OverlapError, SubnetPool, parse_interface, parse_network


def nets(*texts: str) -> list[subnets.Network]:
    return [parse_network(text) for text in texts]


@st.composite
def networks(draw: st.DrawFn, shortest: int = 14, longest: int = 32) -> subnets.Network:
    """Networks in and around 10.0.0.0/14, so that they often meet."""
    length = draw(st.integers(shortest, longest))
    address = draw(st.integers(0x0A000000, 0x0A03FFFF))
    return ipaddress.ip_network((address >> (32 - length) << (32 - length), length))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/24", "host bits"),
        ("10.0.0.0", "PREFIX-LENGTH"),
        ("10.0.0.0/", "PREFIX-LENGTH"),
        ("10.0.0.0/255.255.255.0", "PREFIX-LENGTH"),
        ("10.0.0.0/33", "no IP network"),
        ("10.0.0/24", "no IP network"),
        ("fe80::%eth0/64", "PREFIX-LENGTH"),
        ("10.0.0.0/٢٤", "PREFIX-LENGTH"),
        ("", "PREFIX-LENGTH"),
    ],
)
def test_network_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_network(text)


def test_network_of_the_other_family_is_refused() -> None:
    assert str(parse_network("fd00:201:1:0::/64", 6)) == "fd00:201:1::/64"
    with pytest.raises(ValueError, match="IPv6, not IPv4"):
        parse_network("fd00::/64", 4)


@pytest.mark.parametrize("text", ["10.0.0.0/24", "10.0.0.255/24", "fd00::/64", "10.0.0.1"])
def test_interface_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a host's|PREFIX-LENGTH"):
        parse_interface(text)


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.1/32", "10.0.0.1/24", "fd00::1/64"])
def test_interface_accepted(text: str) -> None:
    assert str(parse_interface(text)) == text


@pytest.mark.parametrize(
    ("subnet", "router"),
    [("10.201.1.0/24", "10.201.1.1/24"), ("fd00:201:1::/64", "fd00:201:1::1/64")],
)
def test_router_address(subnet: str, router: str) -> None:
    assert str(subnets.router_address(parse_network(subnet))) == router


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127"])
def test_router_address_needs_room(subnet: str) -> None:
    with pytest.raises(ValueError, match="too small"):
        subnets.router_address(parse_network(subnet))


@pytest.mark.parametrize(
    ("subnet", "first", "last"),
    [
        ("10.201.1.0/24", "10.201.1.64", "10.201.1.254"),
        ("10.0.0.0/30", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.0/29", "10.0.0.2", "10.0.0.6"),
        ("fd00:201:1::/64", "fd00:201:1::1:0", "fd00:201:1::1:ffff"),
        ("fd00::/126", "fd00::2", "fd00::3"),
    ],
)
def test_lease_range(subnet: str, first: str, last: str) -> None:
    assert tuple(map(str, subnets.lease_range(parse_network(subnet)))) == (first, last)


@given(networks(longest=30))
def test_a_router_is_never_given_out(subnet: subnets.Network) -> None:
    first, last = subnets.lease_range(subnet)
    assert subnets.router_address(subnet).ip < first <= last
    assert last < subnet.broadcast_address


@given(networks(), networks())
def test_overlap_agrees_with_ipaddress(one: subnets.Network, other: subnets.Network) -> None:
    assert subnets.overlaps(one, other) == one.overlaps(other)
    assert subnets.contains(one, other) == other.subnet_of(one)


def test_families_never_overlap() -> None:
    four, six = nets("0.0.0.0/0", "::/0")
    assert not subnets.overlaps(four, six)
    assert not subnets.contains(six, four)


@given(st.lists(networks(20, 32), max_size=12))
def test_first_overlap_finds_one_where_there_is_one(found: list[subnets.Network]) -> None:
    pair = subnets.first_overlap(found)
    assert (pair is not None) == any(a.overlaps(b) for a, b in combinations(found, 2))
    if pair is not None:
        assert pair[0].overlaps(pair[1])
        assert set(pair) <= set(found)


@given(st.lists(networks(), max_size=20), st.lists(st.integers(16, 28), max_size=20))
def test_allocation_stays_in_the_pool_and_never_overlaps(
    taken: list[subnets.Network], lengths: list[int]
) -> None:
    network = parse_network("10.1.0.0/16")
    pool = SubnetPool(network, taken)
    given_out: list[subnets.Network] = []
    for length in lengths:
        try:
            subnet = pool.allocate(length)
        except ValueError:
            # It says that nothing is left, so nothing must be.
            free = network.subnets(new_prefix=length)
            assert all(any(each.overlaps(t) for t in taken + given_out) for each in free)
            continue
        assert subnet.prefixlen == length
        assert subnet.subnet_of(network)
        assert not any(subnet.overlaps(other) for other in taken + given_out)
        given_out.append(subnet)


@given(st.lists(networks(), max_size=10), st.integers(16, 26))
def test_the_lowest_free_subnet_is_given(taken: list[subnets.Network], length: int) -> None:
    network = parse_network("10.1.0.0/16")
    free = (
        each
        for each in network.subnets(new_prefix=length)
        if not any(each.overlaps(other) for other in taken)
    )
    lowest = next(free, None)
    try:
        assert SubnetPool(network, taken).allocate(length) == lowest
    except ValueError:
        assert lowest is None


@given(st.lists(networks(17, 30), max_size=20))
def test_a_claim_is_granted_just_when_it_is_free(wanted: list[subnets.Network]) -> None:
    network = parse_network("10.1.0.0/16")
    pool = SubnetPool(network)
    granted: list[subnets.Network] = []
    for subnet in wanted:
        met = [other for other in granted if subnet.overlaps(other)]
        if not subnet.subnet_of(network):
            with pytest.raises(ValueError, match="does not lie in"):
                pool.claim(subnet)
        elif met:
            with pytest.raises(OverlapError) as caught:
                pool.claim(subnet)
            assert caught.value.other in met
        else:
            pool.claim(subnet)
            granted.append(subnet)


def test_a_refused_claim_takes_nothing() -> None:
    pool = SubnetPool(parse_network("10.1.0.0/16"), nets("10.1.1.0/24"))
    with pytest.raises(OverlapError, match=r"10\.1\.0\.0/23 overlaps 10\.1\.1\.0/24"):
        pool.claim(parse_network("10.1.0.0/23"))
    assert str(pool.allocate(24)) == "10.1.0.0/24"


def test_a_pool_runs_dry() -> None:
    pool = SubnetPool(parse_network("fd00::/62"))
    assert [str(pool.allocate(64)) for _ in range(4)] == [
        "fd00::/64",
        "fd00:0:0:1::/64",
        "fd00:0:0:2::/64",
        "fd00:0:0:3::/64",
    ]
    with pytest.raises(ValueError, match="no free subnet"):
        pool.allocate(64)
    with pytest.raises(ValueError, match="fits"):
        pool.allocate(61)


class CountingPool(SubnetPool):
    """Counts the places that are looked at."""

    looks = 0

    def _blocker(self, first: int, last: int) -> subnets.Network | None:
        self.looks += 1
        return super()._blocker(first, last)


def test_ten_thousand_allocations_look_at_each_place_once() -> None:
    pool_network = parse_network("10.0.0.0/8")
    every_other = [each for each in pool_network.subnets(new_prefix=24) if int(each[0]) & 0x100]
    pool = CountingPool(pool_network, every_other[:10_000])
    found = [pool.allocate(24) for _ in range(10_000)]
    assert len(set(found)) == 10_000
    assert pool.looks <= 20_000
