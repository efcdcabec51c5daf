"""Which connections a changed ruleset is news for: those of the pairs whose rules have changed.

Connection tracking remembers what passed once, and rules let what it knows pass again. So whoever
loads another ruleset makes it forget what the new one might decide otherwise.
"""

from __future__ import annotations

from typing import Any

from moatvpn.lockdown.readback import chains_of
from moatvpn.lockdown.ruleset import POLICY_CHAIN
from moatvpn.subnets import Network, parse_network

_BETWEEN = "_to_"
_ZONE = "from_"
_PRIVATE = "private"
_SOURCES = ("ip saddr ", "ip6 saddr ")


def affected(before: Any, after: Any) -> tuple[Network, ...] | None:
    """Return the networks whose connections are to be forgotten, None for all connections.

    before, after: what `nft -j list table inet moat` said before and after; before is None where
    there was no such table. An empty tuple: nothing has changed.
    """
    old, new = chains_of(before), chains_of(after)
    changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    zones: set[str] = set()
    for name in changed:
        one, between, other = name.partition(_BETWEEN)
        if between:
            zones |= {one, other}
        elif name == POLICY_CHAIN:
            zones |= {zone for zone in _zones(old) | _zones(new) if zone.startswith(_PRIVATE)}
        elif name.startswith(_ZONE):
            zones.add(name.removeprefix(_ZONE))
        else:
            return None
    networks = {
        network for zone in zones for network in (*_subnets(old, zone), *_subnets(new, zone))
    }
    if changed and not networks:
        return None  # between zones that are known by no addresses
    for name in changed:
        pair = [part for part in name.partition(_BETWEEN)[::2] if part]
        if _BETWEEN in name and not any(_subnets(old, z) or _subnets(new, z) for z in pair):
            return None
    return tuple(sorted(networks, key=lambda each: (each.version, each)))


def _zones(chains: dict[str, list[str]]) -> set[str]:
    return {name.removeprefix(_ZONE) for name in chains if name.startswith(_ZONE)}


def _subnets(chains: dict[str, list[str]], zone: str) -> list[Network]:
    """Return a zone's own addresses, by the rules of what it may send."""
    found = []
    for rule in chains.get(f"{_ZONE}{zone}", []):
        for start in _SOURCES:
            if rule.startswith(start) and rule.endswith(" accept"):
                words = rule.removeprefix(start).removesuffix(" accept").strip("{} ")
                found += [_network(each) for each in words.split(", ") if " " not in each]
    return [each for each in found if each is not None and not each.is_link_local]


def _network(text: str) -> Network | None:
    host = "/128" if ":" in text else "/32"
    try:
        return parse_network(text if "/" in text else text + host)
    except ValueError:
        return None
