"""What the numbers of the envelopes that come tell of those that do not."""

from __future__ import annotations

from random import Random

import pytest
from esp_peers import MOAT, PORTAL, Ends, ipv4, pair
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.esp.loss import LossEstimate, estimate, last_estimate
from moatvpn.esp.replay import LEAP, WINDOW, ReplayWindow
from moatvpn.wire.algorithms import CipherSuite

SENT = 10_000
SUBSPACE = 1 << 32


def arrive(window, numbers):
    """Let envelopes come as an SA takes them: runs at once, one by one what breaks them."""
    for number in numbers:
        if not window.check(number):
            window.refused(number)
        elif number > window.top:
            window.commit_run(number, 1)
        else:
            window.commit(number)
    return window


def path(random, *, loss=0.0, overtaken=0.0, depth=0, doubled=0.0):
    """Return the numbers in the order in which they come, and how many are lost and overtaken."""
    coming, lost = [], 0
    for number in range(1, SENT + 1):
        if random.random() < loss:
            lost += 1
            continue
        behind = random.randint(1, depth) + 0.5 if random.random() < overtaken else 0
        coming += [(number + behind, number)] * (1 + (random.random() < doubled))
    order = [number for _, number in sorted(coming)]
    top = overtakings = 0
    for number in dict.fromkeys(order):
        overtakings += number < top
        top = max(top, number)
    return order, lost, overtakings


@pytest.mark.parametrize("loss", [0, 0.001, 0.01, 0.05, 0.2])
@pytest.mark.parametrize(("overtaken", "depth"), [(0, 0), (0.01, 3), (0.01, 40), (0.1, 12)])
@pytest.mark.parametrize("doubled", [0, 0.02])
@pytest.mark.parametrize("seed", range(3))
def test_estimate_is_within_a_tenth_after_10_000_envelopes(loss, overtaken, depth, doubled, seed):
    random = Random(f"{loss} {overtaken} {depth} {doubled} {seed}")
    order, lost, overtakings = path(
        random, loss=loss, overtaken=overtaken, depth=depth, doubled=doubled
    )
    found = estimate(arrive(ReplayWindow(), order))
    assert found.lost == pytest.approx(lost, rel=0.1, abs=0.5)
    assert found.received == SENT - lost
    assert found.reordered == overtakings
    assert found.late == found.skipped == 0


def test_recent_rate_follows_the_last_envelopes():
    random = Random(4)
    bad = [number for number in range(1, SENT) if random.random() >= 0.3]
    window = arrive(ReplayWindow(), bad)
    assert estimate(window).rate == pytest.approx(0.3, rel=0.1)
    arrive(window, range(SENT, SENT + WINDOW + 1))
    found = estimate(window)
    assert found.rate == 0.0
    assert found.lost == SENT - 1 - len(bad)


def test_numbers_count_from_1():
    """What is lost before the first that comes is lost."""
    found = estimate(arrive(ReplayWindow(), [3, 4]))
    assert (found.received, found.expected, found.lost) == (2, 4, 2)
    assert estimate(ReplayWindow()) == LossEstimate()


def test_what_may_still_come_is_not_lost_yet():
    """Patience grows with how far envelopes have been overtaken, and no more than that."""
    window = arrive(ReplayWindow(), [2])
    assert estimate(window).lost == 1
    arrive(window, [1, 4])
    assert window.depth == 1
    assert estimate(window).lost == 0
    arrive(window, [5])
    assert estimate(window).lost == 1
    arrive(window, [3])
    assert estimate(window).lost == 0
    assert last_estimate(window).lost == 0


def test_one_overtaken_by_far_does_not_hide_all_further_loss():
    window = arrive(ReplayWindow(), [*range(2, WINDOW), 1, *range(WINDOW, SENT, 2)])
    found = estimate(window)
    assert found.recent > WINDOW // 3
    assert found.rate == pytest.approx(0.5, rel=0.01)


def test_last_estimate_waits_for_nothing():
    window = arrive(ReplayWindow(), [2, 1, 4])
    assert last_estimate(window).lost == 1
    assert last_estimate(window).recent == 0


@pytest.mark.parametrize("leap", [LEAP, 1 << 31, (1 << 63)])
def test_a_great_leap_is_no_loss(leap):
    window = arrive(ReplayWindow(), [1, 2, 4])
    first = 5 + leap
    arrive(window, [first, first + 2])
    found = estimate(window)
    assert (found.received, found.expected, found.lost) == (5, 7, 2)
    assert found.skipped == leap
    assert (found.recent, found.recent_lost) == (2, 1)
    # One of those that it left out comes after all, and is not what was missed otherwise.
    arrive(window, [first - 1])
    found = estimate(window)
    assert (found.received, found.expected, found.reordered) == (6, 8, 1)
    assert last_estimate(window).lost == 2
    assert found.skipped == leap - 1


def test_an_outage_short_of_a_leap_is_loss():
    found = estimate(arrive(ReplayWindow(), [1, LEAP + 1]))
    assert (found.lost, found.skipped) == (LEAP - 1, 0)


def test_late_ones_are_those_older_than_the_window():
    window = arrive(ReplayWindow(), [5000])
    before = window.missing
    arrive(window, [5000 - WINDOW, 1, 5000 - WINDOW + 1, 5000, 5000 - WINDOW + 1])
    assert window.late == 2
    assert window.missing == before - 1


@pytest.mark.parametrize("top", [5000, SUBSPACE + 100, 3 * SUBSPACE - 1])
def test_late_ones_with_extended_numbers(top):
    """Such a one is taken for a number of the next subspace, and is not authentic then."""
    window = ReplayWindow(top)
    for number in (top - WINDOW, top - WINDOW - 50):
        extended = window.extend(number % SUBSPACE)
        assert window.check(extended)
        window.refused(extended)
    assert window.late == 2
    window.refused(window.extend((top - 1) % SUBSPACE))
    window.refused(window.extend((top + 1) % SUBSPACE))
    assert window.late == 2


@given(st.lists(st.integers(0, (1 << 64) + 10), max_size=50))
def test_forged_numbers_move_nothing_but_the_late(numbers):
    window = arrive(ReplayWindow(), [1, 2, 5, 9, 7])
    before = estimate(window)
    for number in numbers:
        window.check(number)
        window.refused(number)
    assert estimate(window)._replace(late=0) == before


def test_both_together():
    one = estimate(arrive(ReplayWindow(), [1, 3, 4]))
    other = estimate(arrive(ReplayWindow(), [2, 1, 3, 5, 6]))
    both = one.plus(other)
    assert (both.received, both.expected, both.lost, both.reordered) == (8, 10, 2, 1)
    assert both.rate == (one.recent_lost + other.recent_lost) / (one.recent + other.recent)


# What SAs tell


@pytest.mark.parametrize("suite", [CipherSuite.AES_256_GCM, CipherSuite.AES_256_CBC_SHA2_256])
@pytest.mark.parametrize("esn", [False, True])
def test_a_connection_tells_what_its_envelopes_tell(suite, esn):
    moat, portal = pair(Ends(suite=suite, esn=esn))
    sent = [moat.send(ipv4()).data for _ in range(WINDOW + 10)]
    for data in (*sent[1:4], sent[0], sent[9], *sent[11:]):
        assert portal.receive(data) is not None
    for data in sent[4:6]:  # older than the window by now
        assert portal.receive(data) is None
    found = portal.esp.statistics("c0001").loss
    assert (found.lost, found.reordered, found.late) == (6, 1, 2)
    assert found.received == len(sent) - 6
    assert moat.esp.statistics("portal1").loss == LossEstimate()


@pytest.mark.parametrize("suite", [CipherSuite.AES_256_GCM, CipherSuite.AES_256_CBC_SHA2_256])
@pytest.mark.parametrize("esn", [False, True])
def test_a_flood_of_forged_envelopes_moves_no_estimate(suite, esn):
    moat, portal = pair(Ends(suite=suite, esn=esn))
    sent = [moat.send(ipv4()).data for _ in range(3 * WINDOW)]
    for data in sent[: WINDOW + 5 : 2]:
        portal.receive(data)
    before = portal.esp.statistics("c0001").loss
    random = Random(1)
    for number in (1, 2, WINDOW, 2 * WINDOW, 1 << 31, (1 << 32) - 1, *range(3, 5000, 7)):
        head = sent[0][:4] + number.to_bytes(4, "big")
        assert portal.receive(head + random.randbytes(len(sent[0]) - 8)) is None
    assert portal.esp.statistics("c0001").loss._replace(late=0) == before


def test_totals_outlive_a_rekey():
    moat, portal = pair(Ends(number=1))
    lost = moat.send(ipv4())
    portal.receive(moat.send(ipv4()).data)
    late = moat.send(ipv4())
    portal.receive(moat.send(ipv4()).data)
    portal.receive(late.data)
    portal.esp.install(Ends(number=2).portal, MOAT, activate_outbound=True)
    moat.esp.install(Ends(number=2).moat, PORTAL, activate_outbound=True)
    for _ in range(5):
        portal.receive(moat.send(ipv4()).data)
    both = portal.esp.statistics("c0001").loss
    portal.esp.remove(0x2001)
    after = portal.esp.statistics("c0001").loss
    for found in (both, after):
        assert (found.received, found.expected, found.lost, found.reordered) == (8, 9, 1, 1)
    assert portal.receive(lost.data) is None
