"""The SPD: longest prefix, ranges, and removal without a trace."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.esp.spd import Spd
from moatvpn.wire.selectors import TrafficSelector


def ts(network):
    return TrafficSelector.from_network(network)


def find(spd, address):
    address = ip_address(address)
    return spd.find(address.version, int(address))


@pytest.fixture
def spd():
    spd = Spd()
    spd.set("default", [ts("0.0.0.0/0")])
    spd.set("c1", [ts("10.201.1.0/24"), ts("fd00:201:1::/64")])
    spd.set("c2", [ts("10.201.2.0/24"), ts("10.201.1.128/25")])
    return spd


@pytest.mark.parametrize(
    ("address", "connection"),
    [
        ("10.201.1.0", "c1"),
        ("10.201.1.127", "c1"),
        ("10.201.1.128", "c2"),
        ("10.201.2.255", "c2"),
        ("10.201.3.0", "default"),
        ("255.255.255.255", "default"),
        ("fd00:201:1::1", "c1"),
        ("fd00:201:2::1", None),
        ("::a01:100", None),  # an IPv6 address with the number of an IPv4 one
    ],
)
def test_the_longest_prefix_wins(spd, address, connection):
    assert find(spd, address) == connection


def test_an_empty_spd_knows_nothing():
    assert find(Spd(), "10.0.0.1") is None


def test_a_range_that_is_no_network():
    spd = Spd()
    spd.set("c1", [TrafficSelector(ip_address("10.0.0.3"), ip_address("10.0.1.8"))])
    inside = ["10.0.0.3", "10.0.0.4", "10.0.0.255", "10.0.1.0", "10.0.1.8"]
    assert {find(spd, address) for address in inside} == {"c1"}
    assert find(spd, "10.0.0.2") is None
    assert find(spd, "10.0.1.9") is None


def test_set_replaces_what_the_connection_had(spd):
    spd.set("c1", [ts("10.201.9.0/24")])
    assert find(spd, "10.201.1.1") == "default"
    assert find(spd, "10.201.9.1") == "c1"
    assert find(spd, "fd00:201:1::1") is None


def test_remove_leaves_the_others(spd):
    spd.remove("c2")
    spd.remove("c2")
    spd.remove("nobody")
    assert find(spd, "10.201.1.128") == "c1"
    assert find(spd, "10.201.2.1") == "default"
    spd.remove("default")
    assert find(spd, "10.201.2.1") is None
    assert find(spd, "10.201.1.1") == "c1"


networks = st.builds(
    lambda number, length: ip_network((number >> (32 - length) << (32 - length), length)),
    st.integers(0x0A000000, 0x0A00001F),
    st.integers(24, 32),
)


@given(
    owners=st.dictionaries(networks, st.sampled_from(["a", "b", "c"]), max_size=8),
    removed=st.sampled_from(["a", "b", "c", None]),
)
def test_agrees_with_looking_at_every_network(owners, removed):
    spd = Spd()
    for name in ("a", "b", "c"):
        spd.set(name, [ts(net) for net, owner in owners.items() if owner == name])
    if removed is not None:
        spd.remove(removed)
    left = {net: owner for net, owner in owners.items() if owner != removed}
    for number in range(0x0A000000, 0x0A000020):
        address = ip_address(number)
        holding = [net for net in left if address in net]
        expected = left[max(holding, key=lambda net: net.prefixlen)] if holding else None
        assert find(spd, address) == expected


@pytest.fixture
def two():
    """Two connections that want everything, the second of the higher metric."""
    spd = Spd()
    spd.set("old", [ts("0.0.0.0/0"), ts("::/0")])
    spd.prefer("new", 1)
    spd.set("new", [ts("0.0.0.0/0"), ts("::/0")])
    return spd


def test_of_several_the_lowest_metric_has_a_network(two):
    assert find(two, "10.0.0.1") == find(two, "fd00::1") == "old"
    two.prefer("old", 2)
    assert find(two, "10.0.0.1") == find(two, "fd00::1") == "new"
    two.prefer("new", 3)
    assert find(two, "10.0.0.1") == "old"
    two.prefer("old", 0)
    two.prefer("new", 0)
    assert find(two, "10.0.0.1") == "new"  # of equals the latest, as it is without metrics


def test_one_that_is_not_ready_gives_way_to_one_that_is(two):
    two.ready("old", False)
    assert find(two, "10.0.0.1") == "new"
    two.ready("new", False)
    assert find(two, "10.0.0.1") == "old"  # whose packets are then dropped
    two.ready("new", True)
    two.ready("old", True)
    assert find(two, "10.0.0.1") == "old"


@pytest.mark.parametrize(("gone", "left"), [("old", "new"), ("new", "old")])
def test_who_is_left_has_what_was_shared(two, gone, left):
    two.remove(gone)
    assert find(two, "10.0.0.1") == find(two, "fd00::1") == left
    two.ready(left, False)
    assert find(two, "10.0.0.1") == left
    two.set(gone, [ts("0.0.0.0/0")])
    assert (find(two, "10.0.0.1"), find(two, "fd00::1")) == (gone, left)
    two.remove(left)
    two.remove(gone)
    assert find(two, "10.0.0.1") is None


@given(
    metrics=st.permutations([0, 1, 2]),
    idle=st.sets(st.sampled_from(["a", "b", "c"])),
    removed=st.sampled_from(["a", "b", "c", None]),
    first=st.permutations(["metric", "ready", "set"]),
)
def test_shared_networks_agree_with_looking_at_all_who_want_them(metrics, idle, removed, first):
    spd = Spd()
    ranks = dict(zip("abc", metrics, strict=True))
    for step in first:
        for name, metric in ranks.items():
            if step == "metric":
                spd.prefer(name, metric)
            elif step == "ready":
                spd.ready(name, name not in idle)
            else:
                spd.set(name, [ts("10.0.0.0/8")])
    if removed is not None:
        spd.remove(removed)
    left = [name for name in ranks if name != removed]
    assert find(spd, "10.1.1.1") == min(left, key=lambda name: (name in idle, ranks[name]))
