"""What two connections must not share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moatvpn.config import ConnectionConfig
from moatvpn.daemon.connections import Connections
from moatvpn.errors import ConfigError, OperatorError

Make = Callable[..., ConnectionConfig]


def test_put_get_remove(make_connection: Make) -> None:
    connections = Connections()
    first, second = make_connection(1), make_connection(2)
    connections.put(first)
    connections.put(second)
    assert list(connections) == [first, second]
    assert connections.get("c1") is connections.expect("c1") is first
    connections.remove("c1")
    connections.remove("c1")
    assert connections.get("c1") is None
    assert len(connections) == 1
    with pytest.raises(OperatorError, match=r"connection c1: is not known. See `moatctl status`"):
        connections.expect("c1")


@pytest.mark.parametrize(
    "changes",
    [
        {"remote_identity": "m1.moats.example.net"},
        {"remote_selectors": ["10.201.1.0/24"]},
        {"remote_selectors": ["10.201.9.0/24", "fd00:201:1::/64"]},
    ],
)
def test_an_identity_or_network_has_one_owner(
    make_connection: Make, changes: dict[str, object]
) -> None:
    connections = Connections()
    connections.put(make_connection(1))
    with pytest.raises(ConfigError, match=r"connection c2: .* belongs to connection c1"):
        connections.check(make_connection(2, **changes))


def test_a_connection_may_take_its_own_place_and_free_what_it_had(make_connection: Make) -> None:
    connections = Connections()
    connections.put(make_connection(1))
    moved = make_connection(1, remote_selectors=["10.201.7.0/24"])
    connections.check(moved)
    connections.put(moved)
    connections.check(make_connection(2, remote_selectors=["10.201.1.0/24"]))
    with pytest.raises(ConfigError, match=r"10\.201\.7\.0/24 belongs to connection c1"):
        connections.check(make_connection(2, remote_selectors=["10.201.7.0/24"]))


def test_a_network_is_shared_by_connections_of_different_metrics(make_connection: Make) -> None:
    connections = Connections()
    first = make_connection(1)
    connections.put(first)
    same = list(first.remote_selectors)
    connections.check(make_connection(2, remote_selectors=same, metric=1))
    connections.put(make_connection(2, remote_selectors=same, metric=1))
    with pytest.raises(ConfigError, match=r"at metric 1 belongs to connection c2"):
        connections.check(make_connection(3, remote_selectors=same, metric=1))
    connections.put(make_connection(1, metric=2))
    connections.check(make_connection(3, remote_selectors=same))


def test_where_the_kernel_carries_the_packets_a_network_is_shared_by_none(
    make_connection: Make,
) -> None:
    connections = Connections(one_for_each_network=True)
    first = make_connection(1)
    connections.put(first)
    with pytest.raises(ConfigError, match=r"belongs to connection c1"):
        connections.check(
            make_connection(2, remote_selectors=list(first.remote_selectors), metric=1)
        )
