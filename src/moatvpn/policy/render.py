"""Compiled rules as nftables: the fragment that the lockdown ruleset includes.

The lockdown calls the chain policy_mark for packets from private zones, and lets what carries the
mark go from private to wild. Only names, networks and numbers that moatvpn.policy.rules has checked
are written here. A rule is one line, a direct one is two: a connection that is known goes on as it
began (the lockdown marks those that began as direct), a new one is marked.
"""

from __future__ import annotations

from collections.abc import Iterator

from moatvpn.lockdown.matrix import DIRECT_MARK
from moatvpn.lockdown.ruleset import POLICY_CHAIN, TABLE
from moatvpn.policy.rules import Compiled, Ports, Protocol, Rule, Verdict
from moatvpn.subnets import Network

DIRECT_COUNTER = "policy_direct"
DENY_COUNTER = "dropped_policy"
_VERDICTS = {
    Verdict.DIRECT: (
        # What began as something else has no translation of its address, and goes on as it began.
        "ct status confirmed meta mark set ct mark return",
        f"counter name {DIRECT_COUNTER} meta mark set {DIRECT_MARK:#x} return",
    ),
    Verdict.TUNNEL: ("return",),
    Verdict.DENY: (f"counter name {DENY_COUNTER} drop",),
}
_EXPRESSION = {4: "ip", 6: "ip6"}
_ICMP = {4: "icmp", 6: "icmpv6"}


def signature_comment(compiled: Compiled, digest: str) -> str:
    """Return the comment by which a loaded ruleset tells which policy is in it.

    digest is the policy's hash in hexadecimal; nft takes 128 characters at most.
    """
    return f"moat-policy {compiled.version} {digest}"


def rule_lines(compiled: Compiled, digest: str) -> tuple[str, ...]:
    """Return the chain's rules, one a line, in order."""
    return (
        # What ends here or goes to several is no packet that is forwarded.
        "fib daddr type { local, broadcast, multicast, anycast } return "
        f'comment "{signature_comment(compiled, digest)}"',
        _only_from(compiled, 4),
        _only_from(compiled, 6),
        *(line for rule in compiled.rules for line in _lines(rule)),
    )


def render(compiled: Compiled, digest: str) -> str:
    """Return the fragment as nftables reads it, for the end of the lockdown ruleset."""
    return "\n".join(_fragment(compiled, digest)) + "\n"


def _fragment(compiled: Compiled, digest: str) -> Iterator[str]:
    yield "# Written by `moat-policy install` out of a signed policy. Do not edit: it is compared."
    yield f"table inet {TABLE} {{"
    yield f"    counter {DIRECT_COUNTER} {{}}"
    yield f"    counter {DENY_COUNTER} {{}}"
    yield f"    chain {POLICY_CHAIN} {{"
    for line in rule_lines(compiled, digest):
        yield f"        {line}"
    yield "    }"
    yield "}"


def _only_from(compiled: Compiled, version: int) -> str:
    """Return the rule that leaves alone what is from no private subnet of the policy's box."""
    sources = tuple(network for network in compiled.sources if network.version == version)
    if not sources:
        return f"meta nfproto ipv{version} return"
    return f"{_EXPRESSION[version]} saddr != {_set(sources)} return"


def _lines(rule: Rule) -> Iterator[str]:
    match = [f"meta nfproto ipv{rule.family}"]
    if rule.networks[0].prefixlen:  # else it is the whole family
        match = [f"{_EXPRESSION[rule.family]} daddr {_set(rule.networks)}"]
    if rule.protocol is Protocol.ICMP:
        match.append(f"meta l4proto {_ICMP[rule.family]}")
    elif rule.ports:
        match.append(f"{rule.protocol} dport {_ranges(rule.ports)}")
    elif rule.protocol is not Protocol.ANY:
        match.append(f"meta l4proto {rule.protocol}")
    for verdict in _VERDICTS[rule.verdict]:
        yield f"{' '.join(match)} {verdict}"


def _set(networks: tuple[Network, ...]) -> str:
    return "{ " + ", ".join(str(network) for network in networks) + " }"


def _ranges(ports: Ports) -> str:
    ranges = (f"{first}" if first == last else f"{first}-{last}" for first, last in ports)
    return "{ " + ", ".join(ranges) + " }"
