"""The systems that are compared, by the names that they have in build/bench.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from boxes import MOAT, PORTAL, Namespace
from charon import Charon

from . import moatvpn, openvpn, strongswan, wireguard
from .street import MOAT_WILD, End, Street


def _nothing(_street: Street) -> None:
    pass


@dataclass(frozen=True)
class System:
    """A way to carry raw packets between moat and portal.

    start: sets the tunnel up; its first packets may still be lost.
    end: makes the namespaces of the two.
    check: fails where the tunnel is not the one that was asked for.
    tidy: removes what a system leaves outside of its namespaces.
    """

    start: Callable[[Street], None]
    end: End = Namespace
    check: Callable[[Street], None] = _nothing
    tidy: Callable[[Street], None] = _nothing


def _route(street: Street) -> None:
    """Let the wild side carry raw packets as they are."""
    street.wild.ip("route", "add", MOAT.networks[0], "via", MOAT_WILD)
    street.wild.ip("route", "add", PORTAL.networks[0], "via", PORTAL.wild)


def _moatvpn(encapsulation: str) -> System:
    return System(
        partial(moatvpn.start, encapsulation=encapsulation),
        moatvpn.box,
        partial(moatvpn.check, encapsulation=encapsulation),
    )


SYSTEMS = {
    "plain": System(_route),
    "moatvpn-udp": _moatvpn("udp"),
    "moatvpn-esp": _moatvpn("auto"),
    "strongswan-libipsec": System(strongswan.start, Charon),
    "openvpn": System(openvpn.start),
    "wireguard-go": System(wireguard.start, tidy=wireguard.tidy),
}
