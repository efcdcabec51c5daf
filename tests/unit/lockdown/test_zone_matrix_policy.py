"""No combination of settings opens a pair, a family or a protocol that the policy does not list.

The policy stands here in other words than in matrix.py, and each allowance is held against it.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given
from lockdown_boxes import further, moat, portal

from moatvpn.lockdown.matrix import Allowance, State, matrix
from moatvpn.lockdown.ruleset import chains, pair_chain, ruleset
from moatvpn.lockdown.zones import LOCAL, Box, Kind, Zone

WILD, PRIVATE, KID, TUNNEL = Kind.WILD, Kind.PRIVATE, Kind.KID, Kind.TUNNEL
ROUTERS = {"destination-unreachable", "echo-request", "time-exceeded", "packet-too-big"}
ND = {"nd-neighbor-advert", "nd-neighbor-solicit"}
INSIDE = [PRIVATE, KID, TUNNEL]

entries = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["one", "two"]),
        "protocol": st.sampled_from(["tcp", "udp"]),
        "port": st.sampled_from([22, 53, 67, 68, 123, 500, 514, 546, 547, 8080, 65535]),
    }
)


def listed_for(kinds: list[Kind], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    zones = st.lists(st.sampled_from([str(kind) for kind in kinds]), max_size=4, unique=True)
    extra = st.fixed_dictionaries({"zones": zones}, optional=more)
    return st.lists(st.builds(lambda a, b: a | b, entries, extra), max_size=4)


sources = st.lists(st.sampled_from(["10.9.0.0/16", "fd00:9::/32", "10.8.1.1/32"]), max_size=3)
shared = {
    "services": listed_for(INSIDE, sources=sources),
    "outgoing": listed_for([WILD, *INSIDE]),
    "mss": st.sampled_from([[], [1360, 1340]]),
}
moats = st.builds(
    lambda changes, vpns: moat(**changes, vpns=[further(n + 1) for n in range(vpns)]),
    st.fixed_dictionaries(
        shared
        | {
            "wild_dhcp": st.booleans(),
            "private_subnet6": st.sampled_from(["", "fd00:201:1::/64"]),
            "kid": st.sampled_from([None, {"interface": "kid0", "subnet": "192.168.77.0/24"}]),
        }
    ),
    st.integers(0, 4),
)
portals = st.builds(
    lambda changes: portal(**changes),
    st.fixed_dictionaries(shared | {"pool6": st.sampled_from(["", "fd00:201::/32"])}),
)
boxes = st.one_of(moats, portals)


def is_listed(box: Box, a: Zone, b: Zone, allowed: Allowance) -> bool:
    """Tell whether the policy lists what an allowance lets pass."""
    if a is LOCAL or b is LOCAL:
        zone, own = (b, True) if a is LOCAL else (a, False)
        if zone is LOCAL:
            return True
        if zone.kind in (WILD, KID) and allowed.families != (4,):
            return False
        return (
            _wild_and_box(box, allowed, own)
            if zone.kind is WILD
            else _inside(box, zone, allowed, own)
        )
    kinds = (a.kind, b.kind)
    if a is b:
        return False
    if kinds in ((PRIVATE, TUNNEL), (TUNNEL, PRIVATE)):
        private, tunnel = (a, b) if a.kind is PRIVATE else (b, a)
        at = {*allowed.sources, *allowed.destinations}
        return private.tunnel == tunnel.name and bool(at) and at <= {*a.subnets, *b.subnets}
    if allowed.families != (4,):
        return False
    if kinds == (PRIVATE, WILD):
        return box.direct and allowed.direct and allowed.sources == (a.subnet4,)
    if kinds == (WILD, PRIVATE):
        return box.direct and allowed.direct and allowed.state is State.KNOWN
    if kinds == (KID, WILD):
        return allowed.sources == (a.subnet4,) and (
            allowed.state is State.KNOWN or allowed.protocol in ("tcp", "udp", "icmp")
        )
    return kinds == (WILD, KID) and allowed.state is State.KNOWN


def _wild_and_box(box: Box, allowed: Allowance, own: bool) -> bool:
    """Envelopes and IKE, a lease, and what the box is told to start there."""
    if allowed.protocol == "esp":
        return True
    if box.wild_dhcp and allowed.sports == ((68,) if own else (67,)):
        return allowed.protocol == "udp" and allowed.dports == ((67,) if own else (68,))
    starts = {(each.protocol, each.port) for each in box.outgoing if WILD in each.zones}
    if own:
        ike = allowed.protocol == "udp" and allowed.sports == box.ike_ports
        return ike or {(allowed.protocol, port) for port in allowed.dports} <= starts
    if allowed.state is State.KNOWN:
        return bool(starts)
    return allowed.protocol == "udp" and allowed.dports == box.ike_ports


def _inside(box: Box, zone: Zone, allowed: Allowance, own: bool) -> bool:
    if allowed.state is State.KNOWN:
        return True
    if allowed.protocol in ("icmp", "icmpv6"):
        types = ROUTERS if own else {"echo-request"}
        if zone.kind is PRIVATE:
            types = types | ND | {"nd-router-advert" if own else "nd-router-solicit"}
        return bool(allowed.types) and set(allowed.types) <= types
    if own:
        return any(
            (allowed.protocol, allowed.dports) == (each.protocol, (each.port,))
            and zone.kind in each.zones
            for each in box.outgoing
        )
    return any(
        (allowed.protocol, allowed.dports) == (each.protocol, (each.port,))
        and zone.kind in each.zones
        and (
            not allowed.sources if each.sources is None else set(allowed.sources) <= {*each.sources}
        )
        and (each.sources is None or bool(allowed.sources))
        for each in box.services
    )


@given(boxes)
def test_nothing_opens_that_the_policy_does_not_list(box: Box) -> None:
    for (a, b), verdict in matrix(box).items():
        for allowed in verdict:
            assert is_listed(box, a, b, allowed), f"{a.name} to {b.name}: {allowed}"


@given(boxes)
def test_every_ordered_pair_has_a_verdict(box: Box) -> None:
    assert set(matrix(box)) == {(a, b) for a in box.everywhere for b in box.everywhere}


@given(boxes)
def test_the_rules_open_what_the_matrix_opens_and_no_more(box: Box) -> None:
    rules = {chain.name: chain.rules for chain in chains(box)}
    (jumps,) = (rule for rule in rules["forward"] if "vmap" in rule)
    for (a, b), verdict in matrix(box).items():
        if (a, b) == (LOCAL, LOCAL):
            continue
        chain = pair_chain((a, b))
        accepts = [rule for rule in rules[chain] if rule.endswith("accept")]
        assert len(accepts) == len(verdict)
        if LOCAL not in (a, b):
            assert jumps.count(f'"{a.interface}" . "{b.interface}" : jump {chain}') == 1
    # Whatever else accepts has only said what may come in at all, and from whom.
    pairs = {pair_chain(pair) for pair in matrix(box)}
    others = {name for name, lines in rules.items() if "accept" in " ".join(lines)} - pairs
    sides = {f"from_{zone.name}" for zone in box.zones}
    assert others <= sides | {
        "prerouting", "marks", "input", "output", "envelopes", "postrouting",
    }  # fmt: skip
    for hook in ("input", "output", "prerouting"):
        assert [r for r in rules[hook] if r.endswith("accept")] == [
            f'{"o" if hook == "output" else "i"}ifname "lo" accept'
        ]


@given(boxes)
def test_every_base_chain_drops_by_default(box: Box) -> None:
    hooks = [line for line in ruleset(box).splitlines() if line.strip().startswith("type ")]
    assert hooks
    assert all(line.endswith("policy drop;") for line in hooks)
