"""Path MTU discovery by probes alone, in virtual time against a simulated path."""

from __future__ import annotations

import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_path import SimulatedPath

from moatvpn.esp.path_mtu import BASE, DOUBT_SECONDS, GRAIN, MAX_PROBES, RAISE_SECONDS, PathMtu

USUAL = [1500, 1492, 1400, 1280, 1124, 576]
HOUR = 3600.0


def in_use(mtu, **kwargs):
    """Return a path that has been measured and has traffic."""
    path = SimulatedPath(mtu, **kwargs)
    path.search()
    assert path.size == min(mtu // GRAIN * GRAIN, kwargs.get("largest", 1500))
    path.traffic = True
    path.run(5)
    return path


def falls(path):
    """Return when size went down."""
    return [when for (_, before), (when, after) in pairwise(path.sizes) if after < before]


# --- A first measurement.
@pytest.mark.parametrize("mtu", USUAL)
@pytest.mark.parametrize("rtt", [0.001, 0.02, 0.15, 0.6])
def test_a_usual_size_is_in_use_after_one_round_trip(mtu, rtt):
    path = SimulatedPath(mtu, rtt=rtt)
    assert path.size == BASE
    path.run(rtt)
    assert path.size == mtu
    # That nothing larger goes takes a few rounds more, of a tenth of a second at least.
    assert path.search() <= 7 * max(0.1, 1.25 * rtt)
    assert path.size == mtu
    assert path.sizes[1:] in ([(rtt, mtu)], [])
    assert len(path.probes) <= 45


@pytest.mark.parametrize("rtt", [0.001, 0.6])
@pytest.mark.parametrize("largest", [1500, 4000, 9000])
def test_any_size_is_found_to_a_grain(rtt, largest):
    choose = random.Random(f"{rtt} {largest}")
    for mtu in (BASE, *(choose.randrange(BASE, largest + 1) for _ in range(200)), largest, 65535):
        path = SimulatedPath(mtu, rtt=rtt, largest=largest)
        assert path.search() <= 9 * max(0.1, 1.25 * rtt)
        assert path.size == min(mtu, largest) // GRAIN * GRAIN
        assert max(size for _, size in path.probes) == largest
        assert len(path.probes) <= 60


def test_a_path_as_large_as_the_interface_costs_one_round():
    path = SimulatedPath(1500)
    assert path.search() == path.rtt
    assert len(path.probes) <= 10  # and no burst of octets longer than TCP's first (RFC 6928)
    assert sum(size for _, size in path.probes) <= 10 * 1460


@pytest.mark.parametrize(
    ("loss", "exact"), [(0.0, 1.0), (0.01, 0.99), (0.05, 0.98), (0.1, 0.95), (0.2, 0.85)]
)
def test_loss_is_no_proof(loss, exact):
    # loss is each way's: at 0.2 a probe goes unanswered with a probability of 0.36.
    choose = random.Random(7)
    mtus = [choose.choice((*USUAL, choose.randrange(BASE, 1501))) for _ in range(300)]
    paths = [
        SimulatedPath(mtu, loss=loss, jitter=0.01, twice=0.05, seed=n)
        for n, mtu in enumerate(mtus)
    ]  # fmt: skip
    assert max(path.search() for path in paths) < 8
    assert max(len(path.probes) for path in paths) <= 130
    assert all(path.size <= path.mtu for path in paths)
    right = [path.size == path.mtu // GRAIN * GRAIN for path in paths]
    assert sum(right) >= exact * len(paths)
    # Traffic goes on in envelopes nearly as large as can be, false alarms and all.
    for path in paths:
        path.traffic = True
        path.run(2.5 * DOUBT_SECONDS)
    shares = sorted(path.size / (path.mtu // GRAIN * GRAIN) for path in paths)
    assert shares[0] >= 1 - loss
    assert sum(shares) >= (1 - loss / 20) * len(shares)


def test_a_peer_that_begins_to_answer_later_is_measured_then():
    path = SimulatedPath(0)  # nothing comes through
    path.run(10)
    assert path.path.get_timer() is None
    assert not path.path.measured
    path.mtu, path.traffic = 1400, True
    path.run(3)
    assert path.path.measured
    assert path.size == 1400


def test_answers_slower_than_any_wait_still_count():
    for mtu in USUAL:
        path = SimulatedPath(mtu, rtt=2.5)
        path.run(60)
        assert path.size == mtu


def test_an_answer_that_comes_after_its_size_was_given_up_takes_that_back():
    path = PathMtu(0.0)
    for identifier, _ in path.probes(0.0):
        path.answered(identifier, 0.01)
    path.sent_full(10.0)
    now, [(first, size)] = 10.0, path.probes(10.0)
    while path.size == size == 1500:
        now = path.get_timer()
        for identifier, small in path.probes(now):
            if small <= 1280:
                path.answered(identifier, now + 0.01)
    assert now < 10.5
    assert path.size == 1280
    path.answered(first, now + 0.01)
    assert path.size == 1500
    assert path.get_timer() is None


# --- A path that changes under traffic.
@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize(
    ("rtt", "usually", "always"),
    [(0.001, 0.9, 1.2), (0.02, 0.9, 1.2), (0.1, 1.0, 1.4), (0.3, 2.0, 2.8), (0.6, 3.6, 5.0)],
)
def test_a_path_that_shrinks_is_right_again_soon(rtt, usually, always, loss):
    choose = random.Random(11)
    took = []
    for seed in range(100):
        mtu = choose.choice((1492, 1400, 1280, 1124, 576, choose.randrange(BASE, 1492)))
        path = in_use(1500, rtt=rtt, jitter=rtt / 4, seed=seed)
        path.loss = loss
        path.run(choose.random())
        path.mtu, begun = mtu, path.now
        took.append(path.run(30, until=lambda: path.size <= path.mtu) - begun)  # noqa: B023
        path.run(10)
        assert mtu - 2 * GRAIN < path.size <= mtu  # it is found again, not only left
    took.sort()
    assert took[94] <= usually
    assert took[-1] <= always


def test_a_path_that_shrinks_in_the_middle_of_a_search_is_right_again_soon():
    path = SimulatedPath(1400)
    path.run(0.15)
    assert path.path.get_timer() is not None
    path.mtu, path.traffic = 1280, True
    assert path.settle(1280, 10) < 1


def test_a_path_that_grows_is_found_out():
    path = in_use(1400)
    path.run(2 * DOUBT_SECONDS)
    path.mtu = 1500
    assert path.settle(1500, 1.25 * RAISE_SECONDS + 2) > DOUBT_SECONDS


def test_a_path_that_was_small_for_a_moment_is_large_again_in_a_minute_or_so():
    path = in_use(1500)
    path.mtu = 1280
    path.run(3)
    assert path.size == 1280
    path.mtu = 1500
    assert path.settle(1500, 1.25 * DOUBT_SECONDS + 2) > 0.5 * DOUBT_SECONDS


def test_looking_for_more_is_rare_and_never_costs_what_is_in_use():
    path = in_use(1400)
    path.run(2 * DOUBT_SECONDS)
    path.probes.clear()
    path.run(10 * HOUR)
    assert path.sizes[-1] == (path.rtt, 1400)
    searches = [when for when, size in path.probes if size == 1420]
    assert len(searches) / MAX_PROBES <= 10 * HOUR / (0.75 * RAISE_SECONDS) + 1
    gaps = {round(b - a) for a, b in pairwise(searches) if b - a > 1}
    assert len(gaps) > 5  # jitter
    assert 0.75 * RAISE_SECONDS - 1 <= min(gaps) < max(gaps) <= 1.25 * RAISE_SECONDS + 2


@pytest.mark.parametrize(("loss", "hours", "most"), [(0.02, 20, 0), (0.05, 20, 2), (0.1, 10, 20)])
def test_false_alarms_are_rare(loss, hours, most):
    """Loss of 5 % each way costs less than one false alarm in ten hours of full traffic."""
    path = in_use(1500, jitter=0.005, seed=3)
    path.loss = loss
    path.run(hours * HOUR)
    assert len(falls(path)) <= most
    # And such an alarm costs a few octets for a minute, for what is just below is answered.
    assert min(size for _, size in path.sizes[1:]) >= 1400
    assert len(path.probes) <= 4 * hours * HOUR


def test_delay_that_comes_all_at_once_is_no_black_hole():
    path = in_use(1500, rtt=0.01)
    path.rtt = 1.5  # a queue has filled
    path.run(60)
    path.rtt = 0.01
    path.run(60)
    assert falls(path) == []


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 5.0, 60.0])
@pytest.mark.parametrize("then", [1500, 1280])
def test_a_path_that_carries_nothing_says_nothing_about_sizes(seconds, then):
    path = in_use(1500)
    path.mtu = 0
    path.run(seconds)
    assert falls(path) == []
    path.mtu, begun = then, path.now
    path.run(10)
    assert path.size == then
    assert path.sizes[-1][0] - begun < 5
    probes = [when for when, _ in path.probes if when < begun]
    assert len(probes) <= 30 + 10 * seconds


def test_a_path_that_carries_not_even_base_keeps_what_it_has():
    path = in_use(1500)
    path.mtu = BASE - 1
    path.run(60)
    assert path.size == 1500
    assert falls(path) == []


# --- What an idle path costs.
def test_an_idle_path_has_no_timer_and_sends_nothing():
    path = in_use(1400)
    path.traffic = False
    path.run(5)
    path.probes.clear()
    path.run(10 * HOUR)
    assert path.probes == []
    assert path.path.get_timer() is None


def test_traffic_that_starts_again_is_confirmed_at_once():
    path = in_use(1500)
    path.traffic = False
    path.run(HOUR)
    path.mtu, begun = 1280, path.now
    path.traffic = True
    path.run(5)
    assert path.size == 1280
    assert falls(path)[0] - begun < 0.7


def test_a_size_in_use_is_confirmed_twice_a_second():
    path = in_use(1500)
    path.probes.clear()
    path.run(100)
    assert 190 <= len(path.probes) <= 201
    assert {size for _, size in path.probes} == {1500}


def test_ten_thousand_take_little_memory():
    path = in_use(1400).path
    path.sent_full(1e6)
    assert sys.getsizeof(path) + 6 * sys.getsizeof(1.5) + 3 * sys.getsizeof(1 << 32) < 500
    assert not hasattr(path, "__dict__")


# --- Another path, and answers that nobody waits for.
def test_another_path_is_measured_anew():
    path = in_use(1500)
    path.mtu = 1400
    path.path.path_changed(path.now)
    assert path.size == BASE
    assert not path.path.measured
    begun = path.now
    path._send()
    path.run(path.rtt)
    assert path.size == 1400
    assert path.now == begun + path.rtt


def test_an_answer_of_a_former_path_does_not_count():
    path = PathMtu(0.0)
    former = path.probes(0.0)
    path.path_changed(0.01)
    probes = path.probes(0.01)
    assert not {identifier for identifier, _ in former} & {identifier for identifier, _ in probes}
    for identifier, _ in former:
        path.answered(identifier, 0.02)
    assert path.size == BASE
    assert not path.measured


@given(st.lists(st.integers(min_value=-1, max_value=1 << 33)))
def test_identifiers_that_nobody_knows_mean_nothing(identifiers):
    path = PathMtu(0.0)
    known = {identifier for identifier, _ in path.probes(0.0)}
    timer = path.get_timer()
    for identifier in identifiers:
        if identifier not in known:
            path.answered(identifier, 0.01)
    assert (path.size, path.get_timer(), path.measured) == (BASE, timer, False)


def test_an_answer_counts_once():
    path = PathMtu(0.0)
    identifier = next(number for number, size in path.probes(0.0) if size == 1280)
    path.answered(identifier, 0.01)
    timer = path.get_timer()
    path.answered(identifier, 0.09)
    assert path.get_timer() == timer  # a longer round trip would have made it later
    assert path.size == 1280


def test_identifiers_go_round_within_32_bits():
    path = PathMtu(0.0)
    path._identifier = (1 << 32) - 3
    probes = dict(path.probes(0.0))
    assert {0, (1 << 32) - 1} <= set(probes)
    assert max(probes) < 1 << 32


@pytest.mark.parametrize(("largest", "most"), [(1499, 1496), (500, BASE), (BASE, BASE)])
def test_largest_is_kept_to_what_an_envelope_can_be(largest, most):
    path = SimulatedPath(9000, largest=largest)
    path.search()
    assert path.size == most
    assert max(size for _, size in path.probes) == most


@given(st.data())
def test_whatever_a_peer_answers_size_is_one_that_was_asked_for(data):
    """A hostile peer can only spoil its own traffic, and not make us send without end."""
    now, path, asked = 0.0, PathMtu(0.0), {}
    sent = 0
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.001, 0.1, 0.3, 1.0, 700.0]))
        probes = path.probes(now)
        sent += len(probes)
        assert len(probes) <= 20
        asked.update(probes)
        for identifier in data.draw(st.lists(st.sampled_from(sorted(asked)), max_size=4)):
            path.answered(identifier, now)
        if data.draw(st.booleans()):
            path.sent_full(now)
        assert path.size in {BASE, *asked.values()}
        timer = path.get_timer()
        assert timer is None or timer <= now + 2.0
