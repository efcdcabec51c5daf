"""Token buckets of constant memory, and the count of half-open IKE SAs."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from moatvpn.ike.gate import SLOTS, Bucket, Buckets, Gate, HalfOpen, Limits, Rate
from moatvpn.wire.endpoint import Endpoint


def dice(seed: int = 1) -> Any:
    return random.Random(seed).randbytes


def allowed(bucket: Any, times: list[float], *key: str) -> int:
    return sum(bucket.allows(*key, now) for now in times)


@pytest.mark.parametrize("burst", [1, 5, 300])
def test_a_rest_is_worth_a_burst_and_no_more(burst: int) -> None:
    bucket = Bucket(Rate(10, burst))
    assert allowed(bucket, [7.0] * 1000) == burst
    assert allowed(bucket, [1e9] * 1000) == burst


def test_over_time_the_rate_goes_through_however_much_is_asked() -> None:
    bucket = Bucket(Rate(100, 10))
    asked = [n / 20_000 for n in range(200_000)]
    assert allowed(bucket, asked) == pytest.approx(1000, abs=11)


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(Rate(1, 1))
    assert [bucket.allows(now) for now in (0.0, 0.5, 0.9, 1.0, 1.1)] == [1, 0, 0, 1, 0]


def test_one_address_does_not_use_up_anothers_rate() -> None:
    buckets = Buckets(Rate(10, 10), dice())
    assert allowed(buckets, [0.0] * 100, "203.0.113.66") == 10
    assert allowed(buckets, [0.0] * 100, "203.0.113.67") == 10


def test_any_number_of_addresses_takes_the_same_memory() -> None:
    buckets = Buckets(Rate(10, 10), dice())
    before = sys.getsizeof(buckets._full_at)
    for number in range(50_000):
        buckets.allows(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert sys.getsizeof(buckets._full_at) == before
    assert len(buckets._full_at) == SLOTS


def test_who_shares_a_slot_depends_on_the_secret() -> None:
    def sharing(seed: int) -> set[int]:
        buckets = Buckets(Rate(1, 1), dice(seed))
        buckets.allows("192.0.2.1", 0.0)
        hosts = range(1 << 16)
        return {n for n in hosts if not buckets.allows(f"10.9.{n >> 8}.{n & 255}", 0.0)} - {0}

    one, other = sharing(1), sharing(2)
    # Most of them share a slot with one that asked before; a second secret spreads them anew.
    assert one != other
    assert len(one) == pytest.approx((1 << 16) - SLOTS, rel=0.05)


def test_a_forger_uses_up_its_own_network_only() -> None:
    gate = Gate(Limits(network=Rate(50, 50)), dice())
    forged = [f"203.0.{n >> 8}.{n & 255}" for n in range(1000)]
    assert sum(gate.allows(host, 0.0) for host in forged) == 50
    assert not gate.allows("203.0.255.1", 0.0)
    assert gate.allows("203.1.0.1", 0.0)


def test_forgers_of_every_network_use_up_the_rest() -> None:
    gate = Gate(Limits(everybody=Rate(20, 20)), dice())
    assert sum(gate.allows(f"{n}.1.2.3", 0.0) for n in range(1, 200)) == 20
    assert gate.allows_proved("198.51.100.7", 0.0)  # but not what cookies have proved


class Waiting:
    """What HalfOpen looks at of an IKE SA."""

    def __init__(self, spi: int, host: str) -> None:
        self.spi_i, self.remote = spi.to_bytes(8, "big"), Endpoint(host, 500)


def half_open(spi: int, host: str) -> Any:
    return Waiting(spi, host)


def test_half_open_counts_by_host() -> None:
    table = HalfOpen()
    sas = [half_open(n, f"192.0.2.{n % 2}") for n in range(10)]
    for sa in sas:
        table.add(sa)
    assert (len(table), table.of_host("192.0.2.0"), table.of_host("192.0.2.9")) == (10, 5, 0)
    sas[0].remote = Endpoint("192.0.2.7", 500)  # it asks from elsewhere now
    for sa in sas:
        table.remove(sa)
        table.remove(sa)
    assert (len(table), table.of_host("192.0.2.0"), len(table._of_host)) == (0, 0, 0)


def test_a_second_one_of_the_same_initiator_takes_the_place_of_the_first() -> None:
    table = HalfOpen()
    first, second = half_open(1, "192.0.2.1"), half_open(1, "192.0.2.1")
    table.add(first)
    table.add(second)
    table.remove(first)
    assert table.get(second.spi_i, "192.0.2.1", 500) is second
    assert (len(table), table.of_host("192.0.2.1")) == (1, 1)
    table.remove(second)
    assert (len(table), table.of_host("192.0.2.1")) == (0, 0)
