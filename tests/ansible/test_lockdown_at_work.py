"""What the lockdown rulesets let in, out and through, asked of the kernel packet by packet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from ansible_bench import MOAT, PORTAL, Rulesets
from namespaces import Wires

# A question to the wires, and whether the answer is yes.
Question = Callable[[Wires], bool]

HOME, HOME6 = "10.201.1.10", "fd00:201:1::10"
CORP, CORP6 = "10.50.0.10", "fd00:50::10"


def wires(name: str) -> Wires:
    return Wires(f"{name}{os.getpid() % 10_000}")


@pytest.fixture(scope="module")
def moat(rulesets: Rulesets) -> Iterator[Wires]:
    """A moat; what its tunnel brings comes from a neighbour at moat0."""
    made = wires("m")
    try:
        made.wild = made.neighbour("wild0", ["192.0.2.10/24"], ["192.0.2.1/24"])
        made.home = made.neighbour(
            "home0",
            ["10.201.1.1/24", "fd00:201:1::1/64"],
            [f"{HOME}/24", f"{HOME6}/64", "10.9.9.9/32"],
        )
        made.tunnel = made.neighbour(
            "moat0",
            ["10.50.0.1/24", "fd00:50::1/64"],
            [f"{CORP}/24", f"{CORP6}/64", "10.201.1.66/32"],
        )
        made.other = made.neighbour("other0", ["10.77.0.1/24"], ["10.77.0.2/24"])
        made.load(rulesets[MOAT, "lab"])
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def portal(rulesets: Rulesets) -> Iterator[Wires]:
    """A portal; what its tunnels bring comes from a neighbour at moat0."""
    made = wires("p")
    try:
        made.wild = made.neighbour("wild0", ["198.51.100.2/24"], ["198.51.100.1/24"])
        made.corp = made.neighbour(
            "corp0",
            ["10.50.0.1/24", "fd00:50::1/64"],
            [f"{CORP}/24", f"{CORP6}/64", "10.201.9.9/32"],
        )
        made.tunnel = made.neighbour(
            "moat0",
            ["10.201.1.1/24", "fd00:201:1::1/64"],
            [f"{HOME}/24", f"{HOME6}/64", "192.0.2.77/32"],
        )
        made.other = made.neighbour("other0", ["10.77.0.1/24"], ["10.77.0.2/24"])
        made.load(rulesets[PORTAL, "lab"])
        yield made
    finally:
        made.close()


MOAT_QUESTIONS: dict[str, tuple[bool, Question]] = {
    "ESP from the wild side": (True, lambda w: w.esp(w.wild, w.box, "192.0.2.10")),
    "ESP to the wild side": (True, lambda w: w.esp(w.box, w.wild, "192.0.2.1")),
    "IKE in": (True, lambda w: w.udp(w.wild, w.box, "192.0.2.10", 500, 500)),
    "IKE out": (True, lambda w: w.udp(w.box, w.wild, "192.0.2.1", 500, 500)),
    "ESP in UDP in": (True, lambda w: w.udp(w.wild, w.box, "192.0.2.10", 4500, 4500)),
    "ESP in UDP out": (True, lambda w: w.udp(w.box, w.wild, "192.0.2.1", 4500, 4500)),
    "a lease in": (True, lambda w: w.udp(w.wild, w.box, "192.0.2.10", 68, 67)),
    "a lease out": (True, lambda w: w.udp(w.box, w.wild, "192.0.2.1", 67, 68)),
    "other UDP in": (False, lambda w: w.udp(w.wild, w.box, "192.0.2.10", 53)),
    "other UDP out": (False, lambda w: w.udp(w.box, w.wild, "192.0.2.1", 53)),
    "ssh from the wild side": (False, lambda w: w.tcp(w.wild, w.box, "192.0.2.10", 22)),
    "TCP to the wild side": (False, lambda w: w.tcp(w.box, w.wild, "192.0.2.1", 443)),
    "ping from the wild side": (False, lambda w: w.ping(w.wild, "192.0.2.10")),
    "ping to the wild side": (False, lambda w: w.ping(w.box, "192.0.2.1")),
    "ssh from the private side": (True, lambda w: w.tcp(w.home, w.box, "10.201.1.1", 22)),
    "ssh by IPv6": (True, lambda w: w.tcp(w.home, w.box, "fd00:201:1::1", 22)),
    "ssh out of the tunnel": (False, lambda w: w.tcp(w.tunnel, w.box, "10.201.1.1", 22)),
    "other TCP from the private side": (
        False,
        lambda w: w.tcp(w.home, w.box, "10.201.1.1", 80),
    ),
    "IKE from the private side": (
        False,
        lambda w: w.udp(w.home, w.box, "10.201.1.1", 500, 500),
    ),
    "ping from the private side": (True, lambda w: w.ping(w.home, "10.201.1.1")),
    "ping by IPv6, which needs neighbours": (True, lambda w: w.ping(w.home, "fd00:201:1::1")),
    "home into the tunnel": (True, lambda w: w.udp(w.home, w.tunnel, CORP, 7001)),
    "home into the tunnel by IPv6": (True, lambda w: w.udp(w.home, w.tunnel, CORP6, 7001)),
    "the tunnel to home": (True, lambda w: w.udp(w.tunnel, w.home, HOME, 7001)),
    "the tunnel to home by IPv6": (True, lambda w: w.udp(w.tunnel, w.home, HOME6, 7001)),
    "home into the tunnel under another's address": (
        False,
        lambda w: w.udp(w.home, w.tunnel, CORP, 7001, source="10.9.9.9"),
    ),
    "the tunnel to home under an address of home": (
        False,
        lambda w: w.udp(w.tunnel, w.home, HOME, 7001, source="10.201.1.66"),
    ),
    "home to the wild side": (False, lambda w: w.udp(w.home, w.wild, "192.0.2.1", 500, 500)),
    "the wild side to home": (False, lambda w: w.udp(w.wild, w.home, HOME, 7001)),
    "the wild side into the tunnel": (False, lambda w: w.udp(w.wild, w.tunnel, CORP, 7001)),
    "the tunnel to the wild side": (
        False,
        lambda w: w.udp(w.tunnel, w.wild, "192.0.2.1", 500, 500),
    ),
    "IKE from a port of no side": (
        False,
        lambda w: w.udp(w.other, w.box, "192.0.2.10", 500, 500),
    ),
    "ping from a port of no side": (False, lambda w: w.ping(w.other, "10.201.1.1")),
}

PORTAL_QUESTIONS: dict[str, tuple[bool, Question]] = {
    "ESP from the wild side": (True, lambda w: w.esp(w.wild, w.box, "198.51.100.2")),
    "ESP to the wild side": (True, lambda w: w.esp(w.box, w.wild, "198.51.100.1")),
    "IKE in": (True, lambda w: w.udp(w.wild, w.box, "198.51.100.2", 500, 500)),
    "IKE out": (True, lambda w: w.udp(w.box, w.wild, "198.51.100.1", 500, 500)),
    "IKE in from behind a NAT": (
        True,
        lambda w: w.udp(w.wild, w.box, "198.51.100.2", 4500, 31000),
    ),
    "IKE out to behind a NAT": (
        True,
        lambda w: w.udp(w.box, w.wild, "198.51.100.1", 31000, 4500),
    ),
    "other UDP in": (False, lambda w: w.udp(w.wild, w.box, "198.51.100.2", 53)),
    "other UDP out": (False, lambda w: w.udp(w.box, w.wild, "198.51.100.1", 500)),
    "ssh from the wild side": (False, lambda w: w.tcp(w.wild, w.box, "198.51.100.2", 22)),
    "ping from the wild side": (False, lambda w: w.ping(w.wild, "198.51.100.2")),
    "ssh from the corporate side": (True, lambda w: w.tcp(w.corp, w.box, "10.50.0.1", 22)),
    "ssh by IPv6": (True, lambda w: w.tcp(w.corp, w.box, "fd00:50::1", 22)),
    "ssh out of a tunnel": (False, lambda w: w.tcp(w.tunnel, w.box, "10.50.0.1", 22)),
    "ping from the corporate side": (True, lambda w: w.ping(w.corp, "10.50.0.1")),
    "a tunnel to corp": (True, lambda w: w.udp(w.tunnel, w.corp, CORP, 7001)),
    "a tunnel to corp by IPv6": (True, lambda w: w.udp(w.tunnel, w.corp, CORP6, 7001)),
    "corp into a tunnel": (True, lambda w: w.udp(w.corp, w.tunnel, HOME, 7001)),
    "corp into a tunnel by IPv6": (True, lambda w: w.udp(w.corp, w.tunnel, HOME6, 7001)),
    "corp into a tunnel under an address of the pool": (
        False,
        lambda w: w.udp(w.corp, w.tunnel, HOME, 7001, source="10.201.9.9"),
    ),
    "a tunnel to corp under an address outside the pool": (
        False,
        lambda w: w.udp(w.tunnel, w.corp, CORP, 7001, source="192.0.2.77"),
    ),
    "ping out of a tunnel under an address outside the pool": (
        False,
        lambda w: w.udp(w.tunnel, w.box, "198.51.100.2", 500, 500, source="192.0.2.77"),
    ),
    "corp to the wild side": (
        False,
        lambda w: w.udp(w.corp, w.wild, "198.51.100.1", 500, 500),
    ),
    "a tunnel to the wild side": (
        False,
        lambda w: w.udp(w.tunnel, w.wild, "198.51.100.1", 500, 500),
    ),
    "the wild side to corp": (False, lambda w: w.udp(w.wild, w.corp, CORP, 7001)),
    "the wild side into a tunnel": (False, lambda w: w.udp(w.wild, w.tunnel, HOME, 7001)),
    "IKE from a port of no side": (
        False,
        lambda w: w.udp(w.other, w.box, "198.51.100.2", 500, 500),
    ),
}


def answered(wires: Wires, expected: bool, ask: Question) -> bool:
    """Tell whether the answer is the expected one: a no is waited for less than a yes."""
    wires.patience = 2.0 if expected else 0.1
    return ask(wires) is expected


@pytest.mark.parametrize("question", MOAT_QUESTIONS)
def test_the_moat(moat: Wires, question: str) -> None:
    assert answered(moat, *MOAT_QUESTIONS[question])


@pytest.mark.parametrize("question", PORTAL_QUESTIONS)
def test_the_portal(portal: Wires, question: str) -> None:
    assert answered(portal, *PORTAL_QUESTIONS[question])


# The MTU of moat0 where moatd carries the packets, and where the kernel's IPsec does.
VIRTUALLY_LARGE, OF_THE_KERNEL = 65_535, 1400
TCP_TIMESTAMPS = 12  # octets in each segment


@contextmanager
def tunnel(wires: Wires, mtu: int, rulesets: Rulesets, box: str, variant: str) -> Iterator[Wires]:
    """Let moat0 have an MTU, and the box the ruleset that goes with it, for a while."""
    wires.mtu("moat0", mtu)
    wires.load(rulesets[box, variant])
    wires.patience = 2.0
    try:
        yield wires
    finally:
        wires.load(rulesets[box, "lab"])
        wires.mtu("moat0", 1500)


@pytest.fixture
def large(moat: Wires, rulesets: Rulesets) -> Iterator[Wires]:
    """A moat whose moatd carries the packets."""
    with tunnel(moat, VIRTUALLY_LARGE, rulesets, MOAT, "lab") as wires:
        yield wires


@pytest.fixture
def large_portal(portal: Wires, rulesets: Rulesets) -> Iterator[Wires]:
    """A portal whose moatd carries the packets."""
    with tunnel(portal, VIRTUALLY_LARGE, rulesets, PORTAL, "lab") as wires:
        yield wires


@pytest.fixture
def narrow(moat: Wires, rulesets: Rulesets) -> Iterator[Wires]:
    """A moat whose kernel carries the packets."""
    with tunnel(moat, OF_THE_KERNEL, rulesets, MOAT, "kernel") as wires:
        yield wires
    for family in ("-4", "-6"):  # which hold what home has been told
        moat.run(moat.home, "ip", family, "route", "flush", "cache")


@pytest.mark.parametrize(("home", "corp"), [(HOME, CORP), (HOME6, CORP6)])
def test_the_largest_datagrams_pass_a_moat_whole(large: Wires, home: str, corp: str) -> None:
    assert large.largest_udp(large.home, large.tunnel, corp)
    assert large.largest_udp(large.tunnel, large.home, home)


@pytest.mark.parametrize(("home", "corp"), [(HOME, CORP), (HOME6, CORP6)])
def test_the_largest_datagrams_pass_a_portal_whole(
    large_portal: Wires, home: str, corp: str
) -> None:
    assert large_portal.largest_udp(large_portal.tunnel, large_portal.corp, corp)
    assert large_portal.largest_udp(large_portal.corp, large_portal.tunnel, home)


@pytest.mark.parametrize(("address", "headers"), [(CORP, 40), (CORP6, 60)])
def test_no_ruleset_makes_tcp_of_home_smaller(large: Wires, address: str, headers: int) -> None:
    full = 1500 - headers - TCP_TIMESTAMPS
    assert large.segments(large.home, large.tunnel, address) == {full}


@pytest.mark.parametrize(("address", "headers"), [(HOME, 40), (HOME6, 60)])
def test_no_ruleset_makes_tcp_of_corp_smaller(
    large_portal: Wires, address: str, headers: int
) -> None:
    full = 1500 - headers - TCP_TIMESTAMPS
    assert large_portal.segments(large_portal.corp, large_portal.tunnel, address) == {full}


@pytest.mark.parametrize(("address", "headers"), [(CORP, 40), (CORP6, 60)])
def test_tcp_fits_into_what_the_kernel_carries(narrow: Wires, address: str, headers: int) -> None:
    fitting = OF_THE_KERNEL - headers - TCP_TIMESTAMPS
    assert narrow.segments(narrow.home, narrow.tunnel, address) == {fitting}


@pytest.mark.parametrize("address", [CORP, CORP6])
def test_home_learns_what_the_kernel_carries(narrow: Wires, address: str) -> None:
    assert narrow.learns_the_mtu(narrow.home, address)


@pytest.mark.parametrize("address", [CORP, CORP6])
def test_home_is_told_of_no_mtu_where_any_size_is_carried(large: Wires, address: str) -> None:
    large.patience = 0.2
    assert not large.learns_the_mtu(large.home, address)


def test_without_a_lease_the_moat_speaks_no_dhcp(rulesets: Rulesets, moat: Wires) -> None:
    moat.load(rulesets[MOAT, "static"])
    moat.patience = 0.1
    try:
        assert not moat.udp(moat.wild, moat.box, "192.0.2.10", 68, 67)
        assert not moat.udp(moat.box, moat.wild, "192.0.2.1", 67, 68)
    finally:
        moat.load(rulesets[MOAT, "lab"])


def test_every_question_is_answered_with_yes_where_nothing_is_locked(moat: Wires) -> None:
    """A no proves nothing if the packet would not have come through anyway."""
    moat.run(moat.box, "nft", "flush", "ruleset")
    for question, (_, ask) in MOAT_QUESTIONS.items():
        assert answered(moat, True, ask), question
