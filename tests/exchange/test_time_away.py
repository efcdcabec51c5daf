"""How long traffic is away when an address or a NAT changes: in virtual time, with real envelopes.

Every tenth of a second each side that has something to send sends it. The same SAs must go on: a
tunnel that is set up anew would hide what is asked here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from memory_lab import BACK, MOAT_WILD, OUT, PORTAL_WILD, Lab, Nat

HOME, HOTEL = "203.0.113.7", "203.0.113.99"  # the outside of NATs
ELSEWHERE = "192.0.2.77"
TOLD, UNTOLD = 2.0, 10.0  # seconds that traffic may be away, by whether the moat notices

Change = Callable[[Lab, Nat], None]


def silent(*_: object) -> None:
    """Log nothing."""


def new_lab(behind_nat: bool) -> tuple[Lab, Nat]:
    """Return a lab whose tunnel is up and idle for a while, and a NAT that may stand before it."""
    lab, nat = Lab("auto", silent), Nat(MOAT_WILD, HOME)
    if behind_nat:
        lab.network.path = nat
    lab.run(33.3)
    assert lab.carries()
    lab.run(2.0)
    return lab, nat


def away(lab: Lab, upwards: bool, limit: float) -> float:
    """Return for how long no packet of the portal's reaches the moat, in seconds.

    upwards: the moat has packets to send, too, and these must come through as well.
    """
    start = lab.now
    while lab.now < start + limit:
        lab.moat.tun.delivered.clear()
        lab.portal.tun.delivered.clear()
        if upwards:
            lab.moat.tun.waiting.append(OUT)
            lab.settle()
        lab.portal.tun.waiting.append(BACK)
        lab.settle()
        if lab.moat.tun.delivered and (lab.portal.tun.delivered or not upwards):
            return lab.now - start
        lab.run(0.1)
    pytest.fail(f"no traffic for {limit:g} s")


def told(lab: Lab) -> None:
    """Let the moat's kernel tell that an address has changed."""
    lab.moat.engine.local_address_changed(lab.now)
    lab.moat.forwarder.flush()


def roam(lab: Lab, address: str) -> None:
    lab.network.move(lab.moat.host, address)
    told(lab)


def to_another_address(lab: Lab, nat: Nat) -> None:
    lab.network.path = lambda packet: (packet,)
    roam(lab, ELSEWHERE)


def behind_a_nat(lab: Lab, nat: Nat) -> None:
    lab.network.path = Nat("10.0.0.5", HOTEL)
    roam(lab, "10.0.0.5")


def behind_a_nat_with_the_same_address(lab: Lab, nat: Nat) -> None:
    lab.network.path = Nat(MOAT_WILD, HOTEL)
    told(lab)


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("behind_nat", [False, True])
@pytest.mark.parametrize(
    "change", [to_another_address, behind_a_nat, behind_a_nat_with_the_same_address]
)
def test_a_change_that_the_moat_notices(change: Change, behind_nat: bool, upwards: bool) -> None:
    lab, nat = new_lab(behind_nat)
    before = spis(lab)
    change(lab, nat)
    assert away(lab, upwards, TOLD) < TOLD
    settled(lab, before, udp=change is not to_another_address)


def new_port(lab: Lab, nat: Nat) -> None:
    nat.forget()


def new_outside(lab: Lab, nat: Nat) -> None:
    nat.forget()
    nat.outside = HOTEL


def nat_appears(lab: Lab, nat: Nat) -> None:
    lab.network.path = Nat(MOAT_WILD, HOTEL)


def nat_vanishes(lab: Lab, nat: Nat) -> None:
    lab.network.path = lambda packet: (packet,)


def address_without_a_word(lab: Lab, nat: Nat) -> None:
    lab.network.path = lambda packet: (packet,)
    lab.network.move(lab.moat.host, ELSEWHERE)


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize(
    ("change", "behind_nat", "udp"),
    [
        (new_port, True, True),
        (new_outside, True, True),
        (nat_appears, False, True),
        (nat_vanishes, True, False),
        (address_without_a_word, False, False),
        (address_without_a_word, True, False),
    ],
)
def test_a_change_that_the_moat_does_not_notice(
    change: Change, behind_nat: bool, udp: bool, upwards: bool
) -> None:
    lab, nat = new_lab(behind_nat)
    before = spis(lab)
    change(lab, nat)
    took = away(lab, upwards, UNTOLD)
    print(f"{change.__name__}: {took:.1f} s")
    assert took < UNTOLD
    settled(lab, before, udp)


def spis(lab: Lab) -> list[tuple[str, str]]:
    rows = [lab.moat.engine.show("portal1", lab.now), lab.portal.engine.show("m0001", lab.now)]
    return [(row["spi_in"], row["ike_spi_i"]) for row in rows]


def settled(lab: Lab, before: list[tuple[str, str]], udp: bool) -> None:
    """Check that the same SAs go on, and how both sides encapsulate."""
    lab.run(60.0)
    assert lab.carries()
    assert spis(lab) == before
    rows = [lab.moat.engine.show("portal1", lab.now), lab.portal.engine.show("m0001", lab.now)]
    assert [row["encapsulation"] for row in rows] == ["udp" if udp else "esp"] * 2
    assert rows[0]["peer"] == f"{PORTAL_WILD}:4500"


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("behind_nat", [False, True])
def test_an_address_of_the_portal_is_cut_off(behind_nat: bool, upwards: bool) -> None:
    second = "198.51.100.3"
    lab, nat = Lab("auto", silent, (PORTAL_WILD, second)), Nat(MOAT_WILD, HOME)
    lab.run(1.0)
    way = nat if behind_nat else lambda packet: (packet,)
    lab.network.path = way
    lab.run(32.0)
    assert lab.carries()
    before = spis(lab)
    lab.network.path = lambda packet: (
        () if PORTAL_WILD in (packet.source.host, packet.destination.host) else way(packet)
    )
    took = away(lab, upwards, UNTOLD)
    print(f"{took:.1f} s")
    assert took < UNTOLD
    lab.run(60.0)
    assert lab.carries()
    assert spis(lab) == before
    assert lab.moat.engine.show("portal1", lab.now)["peer"] == f"{second}:4500"
