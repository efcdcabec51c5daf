"""What `make bench` reads from iperf3, ping and the kernel."""

from __future__ import annotations

import json
import os

import pytest
from peers.figures import (
    UnusableError,
    busy,
    datagrams,
    medians,
    megabits,
    octets,
    peak_megabytes,
    round_trip,
    spread,
)

PING = """\
PING 10.50.0.10 (10.50.0.10) 56(84) bytes of data.
64 bytes from 10.50.0.10: icmp_seq=1 ttl=62 time=0.900 ms
64 bytes from 10.50.0.10: icmp_seq=2 ttl=62 time=0.300 ms
64 bytes from 10.50.0.10: icmp_seq=3 ttl=62 time=12.0 ms

3 packets transmitted, 3 received, 0% packet loss, time 20ms
rtt min/avg/max/mdev = 0.300/4.400/12.000/1.000 ms
"""

SNMP = """\
Tcp: RtoAlgorithm RtoMin
Tcp: 1 200
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors
Udp: 3641250 7 1463262 5 1463262
UdpLite: InDatagrams NoPorts
UdpLite: 9 9
"""

DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0
   lan:1000000      10    0    0    0     0          0         0    20000       9    0    0    0
"""


def test_what_arrives_counts_and_not_what_was_sent() -> None:
    end = {
        "sum_sent": {"bits_per_second": 9e8},
        "sum_received": {"bits_per_second": 8.5e8, "sender": True},
    }
    assert megabits(json.dumps({"start": {}, "end": end})) == 850


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"start": {}, "end": {}, "error": "server is busy"}), "server is busy"),
        (json.dumps({"start": {}, "end": {}}), "sum_received"),
        ("iperf3: not found", "no JSON"),
    ],
)
def test_a_transfer_that_failed_says_why(text: str, words: str) -> None:
    with pytest.raises(UnusableError, match=words):
        megabits(text)


def test_a_round_trip_is_the_median() -> None:
    assert round_trip(PING) == 0.9


def test_pings_without_any_answer_are_an_error() -> None:
    with pytest.raises(UnusableError, match="100% packet loss"):
        round_trip("1 packets transmitted, 0 received, 100% packet loss, time 0ms")


def test_datagrams_are_those_that_a_program_got() -> None:
    assert datagrams(SNMP) == 3641250


def test_octets_are_counted_both_ways() -> None:
    assert octets(DEV, "lan") == 1020000
    with pytest.raises(UnusableError):
        octets(DEV, "wild0")


def test_the_processor_s_time_is_found_behind_any_name() -> None:
    # 14 to 17 of proc(5): utime, stime, and those of children that have ended.
    stat = "7 (a) S 1 (b) S 1 7 7 0 -1 4194560 100 0 0 0 200 50 30 20 20 0 1 0 5 0 0"
    assert busy(stat) == 300 / os.sysconf("SC_CLK_TCK")


def test_the_peak_of_memory() -> None:
    assert peak_megabytes("Name:\tx\nVmHWM:\t   50000 kB\nVmRSS:\t   40000 kB\n") == 51.2
    assert peak_megabytes("Name:\tended\n") == 0


def test_the_spread_is_that_of_the_worse_direction() -> None:
    rounds = [
        {"up": 90.0, "down": 50.0},
        {"up": 100.0, "down": 100.0},
        {"up": 110.0, "down": 130.0},
    ]
    assert spread(rounds, ("up", "down")) == 0.8
    assert spread(rounds, ("up",)) == 0.2
    assert spread([{}, {"up": 0.0}], ("up", "down")) == 0


def test_medians_are_of_the_rounds_that_have_the_figure() -> None:
    rounds = [{"up": 1.0, "down": 5.0}, {"up": 100.0}, {"up": 3.0, "down": 7.0}, {}]
    assert medians(rounds) == {"up": 3.0, "down": 6.0}
    assert medians([]) == {}
