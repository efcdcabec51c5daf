"""Writes the matrix down as one nftables table, `inet moat`.

A packet meets, in this order: `prerouting`, before fragments are put together, which knows what
each side may send at all; `marks`, where a policy says what goes straight to the wild side; and
`input`, `forward` or `output`, each of which looks up the pair of zones and goes on in that pair's
chain. Every base chain drops by default, and every drop is counted under a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moatvpn.lockdown.matrix import DIRECT_MARK, Allowance, Matrix, Pair, State, matrix
from moatvpn.lockdown.zones import LOCAL, TRANSLATED_PORTS, Box, Kind, Zone
from moatvpn.subnets import Network

TABLE = "moat"
POLICY_CHAIN = "policy_mark"
POLICY_FILES = "/etc/moatvpn/policy.d/*.nft"
# Connections of a kid-net at once, so that it cannot fill the table of all connections.
MOST_KID_CONNECTIONS = 4096
# What a zone with a bounded rate may send at once: nftables adds its rate of one second to this.
BURST = 1500
# The smallest fragment of a path that anybody uses; smaller ones hide what they carry.
SMALLEST_FRAGMENT = 256
# Sources that no packet from outside can have (RFC 6890), whatever the wild side's own network is.
BOGONS = "{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 192.0.0.0/24, 224.0.0.0/4, 240.0.0.0/4 }"
_NO_HOSTS = "{ broadcast, local, multicast }"
_FRAGMENT = "ip frag-off & 0x3fff != 0"
_MORE_FRAGMENTS = "ip frag-off & 0x2000 != 0"
_STATES = {State.EACH: "", State.NEW: "ct state new", State.KNOWN: "ct state established,related"}


@dataclass(frozen=True)
class Chain:
    """A chain: its name, what makes it a base chain ("" otherwise), and its rules."""

    name: str
    hook: str
    rules: tuple[str, ...]


def ruleset(box: Box) -> str:
    """Return the text that `nft -f` loads, in one transaction with the policy's files."""
    parts = [f"table inet {TABLE}", f"delete table inet {TABLE}", "", f"table inet {TABLE} {{"]
    parts += [f"    counter {name} {{}}" for name in counters(box)]
    for chain in chains(box):
        parts += ["", f"    chain {chain.name} {{"]
        if chain.hook:
            parts.append(f"        type {chain.hook}; policy drop;")
        parts += [f"        {rule}" for rule in chain.rules]
        parts.append("    }")
    parts.append("}")
    if box.direct:
        parts += ["", f'include "{POLICY_FILES}"']
    return "\n".join(parts) + "\n"


def chains(box: Box) -> tuple[Chain, ...]:
    """Return the table's chains. The policy's own chain is among them, and empty."""
    verdicts = matrix(box)
    made = [Chain("prerouting", "filter hook prerouting priority -450", _prerouting(box))]
    made += [Chain(f"from_{zone.name}", "", _from(box, zone)) for zone in box.zones]
    if box.direct:
        made += [
            Chain(POLICY_CHAIN, "", ()),
            Chain("marks", "filter hook prerouting priority mangle", _marks(box)),
        ]
    made += [
        Chain("input", "filter hook input priority filter", _input(box)),
        Chain("forward", "filter hook forward priority filter", _forward(box)),
        Chain("output", "filter hook output priority filter", _output(box)),
        Chain("envelopes", "filter hook output priority raw", _envelopes(box)),
    ]
    made += [Chain(pair_chain(pair), "", _pair(box, verdicts, pair)) for pair in _pairs(box)]
    if box.mss is not None:
        made.append(Chain("segments", "", _segments(*box.mss)))
    translated = _translated(box)
    if translated:
        made.append(Chain("postrouting", "nat hook postrouting priority srcnat", translated))
    return tuple(made)


def counters(box: Box) -> tuple[str, ...]:
    """Return the names of the table's counters, each the reason of a drop."""
    named = dict.fromkeys(
        word
        for chain in chains(box)
        for rule in chain.rules
        for before, word in zip(rule.split(), rule.split()[1:], strict=False)
        if before == "name"
    )
    return tuple(sorted(named))


def reason(a: Zone, b: Zone) -> str:
    """Return the counter of what is dropped between two zones."""
    if b is LOCAL:
        return f"dropped_{a.kind}_input"
    if a is LOCAL:
        return f"dropped_{b.kind}_output"
    return f"dropped_{a.kind}_to_{b.kind}"


def pair_chain(pair: Pair) -> str:
    """Return the chain that a pair's packets go through."""
    return f"{pair[0].name}_to_{pair[1].name}"


def _pairs(box: Box) -> Iterable[Pair]:
    """All pairs that have a chain: every one, but the box with itself."""
    return [pair for pair in matrix(box) if pair != (LOCAL, LOCAL)]


def _drop(why: str) -> str:
    return f"counter name {why} drop"


def words(values: Iterable[object]) -> str:
    """Return values as nft wants them: one alone, several as a set."""
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def _quoted(zones: Iterable[Zone]) -> str:
    return words(f'"{zone.interface}"' for zone in zones)


def _prerouting(box: Box) -> tuple[str, ...]:
    entries = ", ".join(f'"{zone.interface}" : jump from_{zone.name}' for zone in box.zones)
    return (
        'iifname "lo" accept',
        f"ip option lsrr exists {_drop('dropped_source_route')}",
        f"ip option ssrr exists {_drop('dropped_source_route')}",
        f"exthdr rt exists {_drop('dropped_source_route')}",
        f"icmp type redirect {_drop('dropped_redirect')}",
        f"icmpv6 type nd-redirect {_drop('dropped_redirect')}",
        f"icmpv6 type nd-router-advert {_drop('dropped_router_advert')}",
        f"iifname vmap {{ {entries} }}",
        _drop("dropped_no_zone"),
    )


def _from(box: Box, zone: Zone) -> tuple[str, ...]:
    """What a zone may send at all: whose sources, and in which pieces."""
    local = f"fib saddr type {_NO_HOSTS} {_drop('dropped_spoofed')}"
    if zone.kind is Kind.WILD:
        return (
            f"meta nfproto ipv6 {_drop('dropped_wild_ipv6')}",
            f"ip saddr {BOGONS} {_drop('dropped_bogon')}",
            *_not_of_others(box, zone),
            local,
            *_fragments(box),
            "meta l4proto esp notrack accept",
            f"udp dport {words(box.ike_ports)} notrack accept",
            # Enrolment's strangers fill no connection table either: the kernel has SYN cookies.
            *([f"tcp dport {box.enrolment} notrack accept"] if box.enrolment else []),
            "accept",
        )
    if not zone.subnets:
        return (*_not_of_others(box, zone), local, "accept")
    rules = []
    if zone.kind is Kind.KID:
        rules.append(f"meta nfproto ipv6 {_drop('dropped_kid_ipv6')}")
    if zone.kind in (Kind.KID, Kind.PRIVATE):  # who has no address yet
        rules.append("ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept")
    if zone.kind is Kind.PRIVATE:
        rules += ["ip6 saddr :: icmpv6 type nd-neighbor-solicit accept"]
        rules += ["ip6 saddr :: icmpv6 type nd-router-solicit accept"]
    rules.append(local)
    rules += _share(zone)
    if inside4 := zone.of_family(4):
        rules.append(f"ip saddr {words(inside4)} accept")
    inside6 = [str(each) for each in zone.of_family(6)]
    if zone.kind is Kind.PRIVATE:
        inside6.append("fe80::/10")
    if inside6:
        rules.append(f"ip6 saddr {words(inside6)} accept")
    return (*rules, _drop("dropped_spoofed"))


def _share(zone: Zone) -> tuple[str, ...]:
    """Bound the rate of a zone, so that it leaves the others theirs: a token bucket for each way.

    What it sends is bounded before connections are looked up, where a flood costs least.
    """
    if not zone.rate:
        return ()
    octets = zone.rate * 1000 // 8
    limit = f"limit rate over {octets} bytes/second burst {BURST} bytes"
    return (f"{limit} {_drop(f'dropped_{zone.kind}_share')}",)


def _not_of_others(box: Box, zone: Zone) -> tuple[str, ...]:
    """Sources that belong to another zone do not come from this one."""
    others = [subnet for other in box.zones if other is not zone for subnet in other.subnets]
    rules = []
    for family, version in (("ip", 4), ("ip6", 6)):
        subnets = [subnet for subnet in others if subnet.version == version]
        if subnets and not (zone.kind is Kind.WILD and version == 6):
            rules.append(f"{family} saddr {words(subnets)} {_drop('dropped_spoofed')}")
    return tuple(rules)


def _fragments(box: Box) -> tuple[str, ...]:
    """Pieces from the wild side: of protocols that it may send, and none that are for hiding."""
    protocols = ["esp", "udp"]
    if box.direct or box.of(Kind.KID):
        protocols += ["icmp", "tcp"]
    drop = _drop("dropped_fragment")
    return (
        f"{_FRAGMENT} ip protocol != {words(protocols)} {drop}",
        f"{_MORE_FRAGMENTS} ip length < {SMALLEST_FRAGMENT} {drop}",
        # All pieces of a packet take one way: only the first of them has ports to choose it by.
        f"{_FRAGMENT} accept",
    )


def _marks(box: Box) -> tuple[str, ...]:
    private = _quoted(box.of(Kind.PRIVATE))
    return (f"iifname {private} meta mark set 0 jump {POLICY_CHAIN}", "accept")


def _input(box: Box) -> tuple[str, ...]:
    entries = ", ".join(
        f'"{zone.interface}" : jump {pair_chain((zone, LOCAL))}' for zone in box.zones
    )
    return (
        'iifname "lo" accept',
        *(_own_addresses(box) if box.is_home else ()),
        f"iifname vmap {{ {entries} }}",
        _drop("dropped_input"),
    )


def _own_addresses(box: Box) -> tuple[str, ...]:
    """In a home a side reaches the box at its own address there, not at one of another side."""
    drop = _drop("dropped_foreign_address")
    own = _quoted(box.of(Kind.WILD, Kind.PRIVATE, Kind.KID))
    rules = [f"iifname {own} fib daddr . iif type != {_NO_HOSTS} {drop}"]
    for zone in box.of(Kind.PRIVATE):
        tunnel = _quoted([box.tunnel_of(zone)])
        for family, subnet in (("ip", zone.subnet4), ("ip6", zone.subnet6)):
            if subnet is None:
                nfproto = "ipv4" if family == "ip" else "ipv6"
                rules.append(f"iifname {tunnel} meta nfproto {nfproto} {drop}")
            else:
                rules.append(f"iifname {tunnel} {family} daddr != {subnet} {drop}")
    return tuple(rules)


def _forward(box: Box) -> tuple[str, ...]:
    entries = ", ".join(
        f'"{a.interface}" . "{b.interface}" : jump {pair_chain((a, b))}'
        for a, b in _pairs(box)
        if LOCAL not in (a, b)
    )
    return (f"iifname . oifname vmap {{ {entries} }}", _drop("dropped_forward"))


def _output(box: Box) -> tuple[str, ...]:
    entries = ", ".join(
        f'"{zone.interface}" : jump {pair_chain((LOCAL, zone))}' for zone in box.zones
    )
    return ('oifname "lo" accept', f"oifname vmap {{ {entries} }}", _drop("dropped_output"))


def _envelopes(box: Box) -> tuple[str, ...]:
    """Envelopes and IKE are no connections: a flood of them fills no table."""
    wild = _quoted(box.of(Kind.WILD))
    return (
        f"oifname {wild} meta l4proto esp notrack accept",
        f"oifname {wild} udp sport {words(box.ike_ports)} notrack accept",
        *([f"oifname {wild} tcp sport {box.enrolment} notrack accept"] if box.enrolment else []),
        "accept",
    )


def _pair(box: Box, verdicts: Matrix, pair: Pair) -> tuple[str, ...]:
    """The rules of a pair: what passes, and the counted drop of all else."""
    a, b = pair
    allowances = verdicts[pair]
    rules = []
    if any(each.state is not State.EACH for each in allowances) and a is not LOCAL:
        rules.append(f"ct state invalid {_drop('dropped_invalid')}")
    if a.kind is Kind.KID and any(each.state is State.NEW for each in allowances):
        count = f"ct state new ct count over {MOST_KID_CONNECTIONS}"
        rules.append(f"{count} {_drop('dropped_kid_connections')}")
    if allowances and a is not LOCAL:
        rules += _share(b)
    if box.mss is not None and {a.kind, b.kind} == {Kind.PRIVATE, Kind.TUNNEL} and allowances:
        rules.append("jump segments")
    rules += [_rule(each) for each in allowances]
    return (*rules, _drop(reason(a, b)))


def _rule(allowance: Allowance) -> str:
    """Return the rule that lets an allowance's packets pass."""
    parts = [_STATES[allowance.state]]
    if allowance.direct:
        parts.append(_mark(allowance))
    addressed = allowance.sources or allowance.destinations
    implied = allowance.protocol in ("icmp", "icmpv6") or addressed
    if len(allowance.families) == 1 and not implied:
        parts.append(f"meta nfproto ipv{allowance.families[0]}")
    ip = "ip" if 4 in allowance.families else "ip6"
    for word, networks in (("saddr", allowance.sources), ("daddr", allowance.destinations)):
        if networks:
            parts.append(f"{ip} {word} {words(networks)}")
    parts.append(_protocol(allowance))
    if allowance.direct and allowance.state is State.NEW:
        parts.append(f"ct mark set {DIRECT_MARK}")
    return " ".join(part for part in (*parts, "accept") if part)


def _mark(allowance: Allowance) -> str:
    """Return the marks that go with an allowance for what a policy lets go straight out."""
    marked = f"meta mark {DIRECT_MARK}" if allowance.sources else ""
    if allowance.state is State.NEW:
        return marked
    # A connection that was not begun as a direct one has no translation, and never gets out.
    return f"{marked} ct mark {DIRECT_MARK}".strip()


def _protocol(allowance: Allowance) -> str:
    if allowance.types:
        return f"{allowance.protocol} type {words(allowance.types)}"
    ports = [
        f"{allowance.protocol} {word} {words(numbers)}"
        for word, numbers in (("sport", allowance.sports), ("dport", allowance.dports))
        if numbers
    ]
    if ports or not allowance.protocol:
        return " ".join(ports)
    return f"meta l4proto {allowance.protocol}"


def _segments(mss: int, mss6: int) -> tuple[str, ...]:
    """The kernel carries no raw packet larger than its interface's MTU: TCP learns of it here."""
    return tuple(
        f"meta nfproto {family} tcp flags syn tcp option maxseg size > {largest} "
        f"tcp option maxseg size set {largest}"
        for family, largest in (("ipv4", mss), ("ipv6", mss6))
    )


def _translated(box: Box) -> tuple[str, ...]:
    """What leaves straight for the wild side leaves under the box's address there."""
    zones = box.of(Kind.KID) + (box.of(Kind.PRIVATE) if box.direct else ())
    subnets: list[Network] = [zone.subnet4 for zone in zones if zone.subnet4 is not None]
    if not subnets:
        return ()
    out = f"oifname {_quoted(box.of(Kind.WILD))} ip saddr {words(subnets)}"
    ports = "-".join(str(port) for port in TRANSLATED_PORTS)
    return (
        f"{out} meta l4proto {{ tcp, udp }} masquerade to :{ports}",
        f"{out} masquerade",
        "accept",
    )
