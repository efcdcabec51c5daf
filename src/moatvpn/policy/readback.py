"""The kernel's rules, as `nft -j` lists them, held against a compiled policy.

nft lists networks as it has merged them, and leaves out what follows from the rest; so both sides
are brought into one form, and whatever is in no form of ours is a difference.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from moatvpn.lockdown.matrix import DIRECT_MARK
from moatvpn.policy.render import DENY_COUNTER, DIRECT_COUNTER, signature_comment
from moatvpn.policy.rules import (
    MOST_PORT,
    Compiled,
    Ports,
    Protocol,
    Rule,
    Verdict,
    merged_networks,
    merged_ports,
)
from moatvpn.subnets import Network

_EVERYTHING = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
_ICMP = {"icmp": 4, "icmpv6": 6, "ipv6-icmp": 6}
_NOT_FORWARDED = {"local", "broadcast", "multicast", "anycast"}
_MARKED = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": DIRECT_MARK}}
_AS_BEGUN = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"ct": {"key": "mark"}}}}
_KNOWN = "known"  # a direct rule's other half, for connections that are known
_VERDICTS: tuple[tuple[list[Any], str], ...] = (
    ([_AS_BEGUN, {"return": None}], _KNOWN),
    ([{"counter": DIRECT_COUNTER}, _MARKED, {"return": None}], Verdict.DIRECT),
    ([{"counter": DENY_COUNTER}, {"drop": None}], Verdict.DENY),
    ([{"return": None}], Verdict.TUNNEL),
)
_Meaning = tuple[str, tuple[Network, ...], Protocol, Ports]


def is_loaded(listed: list[dict[str, Any]], compiled: Compiled, digest: str) -> bool:
    """Return whether the rules of the policy's chain, as nft lists them, are those of compiled."""
    try:
        head, only4, only6, *rest = listed
        return (
            head.get("comment") == signature_comment(compiled, digest)
            and _is_head(head["expr"])
            and _sources(only4["expr"], 4) == merged_networks(compiled.sources, 4)
            and _sources(only6["expr"], 6) == merged_networks(compiled.sources, 6)
            and [_meaning(rule["expr"]) for rule in rest]
            == [each for rule in compiled.rules for each in _of(rule)]
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _of(rule: Rule) -> Iterator[_Meaning]:
    if rule.verdict is Verdict.DIRECT:
        yield _KNOWN, rule.networks, rule.protocol, rule.ports
    yield rule.verdict, rule.networks, rule.protocol, rule.ports


def _is_head(expressions: list[Any]) -> bool:
    match, verdict = expressions
    operator, left, right = _match(match)
    fib = {"fib": {"result": "type", "flags": ["daddr"]}}
    return (
        (operator, left, verdict) == ("==", fib, {"return": None})
        and set(right["set"]) == _NOT_FORWARDED
    )  # fmt: skip


def _sources(expressions: list[Any], version: int) -> tuple[Network, ...]:
    """Return which sources of a family are not left alone by a rule; none where all are."""
    match, verdict = expressions
    operator, left, right = _match(match)
    if verdict != {"return": None}:
        raise ValueError("no return")
    if left == {"meta": {"key": "nfproto"}} and (operator, right) == ("==", f"ipv{version}"):
        return ()
    if (operator, left) != ("!=", _payload(version, "saddr")):
        raise ValueError("no rule about sources")
    return _networks(right, version)


def _meaning(expressions: list[Any]) -> _Meaning:
    for end, found in _VERDICTS:
        if expressions[-len(end):] == end:  # fmt: skip
            verdict, matches = found, expressions[: -len(end)]
            break
    else:
        raise ValueError("no verdict of ours")
    networks: tuple[Network, ...] = ()
    protocol = Protocol.ANY
    ports: Ports = ()
    if verdict == _KNOWN and not _is_confirmed(matches.pop()):
        raise ValueError("not of known connections alone")
    for each in matches:
        operator, left, right = _match(each)
        if operator != "==":
            raise ValueError("no match of ours")
        if left == {"meta": {"key": "nfproto"}}:
            networks = (_EVERYTHING[int(right.removeprefix("ipv"))],)
        elif left == {"meta": {"key": "l4proto"}}:
            protocol = Protocol.ICMP if right in _ICMP else Protocol(right)
            if right in _ICMP and not networks:
                networks = (_EVERYTHING[_ICMP[right]],)  # the family follows from the protocol
        elif left["payload"]["field"] == "daddr":
            version = {"ip": 4, "ip6": 6}[left["payload"]["protocol"]]
            networks = _networks(right, version)
        elif left["payload"]["field"] == "dport":
            protocol, ports = Protocol(left["payload"]["protocol"]), _ports(right)
        else:
            raise ValueError("no match of ours")
    return verdict, networks, protocol, ports


def _is_confirmed(expression: dict[str, Any]) -> bool:
    status = {"ct": {"key": "status"}}
    return _match(expression) in (("in", status, "confirmed"), ("==", status, "confirmed"))


def _match(expression: dict[str, Any]) -> tuple[Any, Any, Any]:
    match = expression["match"]
    return match["op"], match["left"], match["right"]


def _payload(version: int, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": "ip" if version == 4 else "ip6", "field": field}}


def _elements(value: Any) -> list[Any]:
    return list(value["set"]) if isinstance(value, dict) and "set" in value else [value]


def _networks(value: Any, version: int) -> tuple[Network, ...]:
    found: list[Network] = []
    for each in _elements(value):
        if isinstance(each, str):
            found.append(ipaddress.ip_network(each))
        elif "prefix" in each:
            found.append(ipaddress.ip_network(f"{each['prefix']['addr']}/{each['prefix']['len']}"))
        else:
            first, last = (ipaddress.ip_address(end) for end in each["range"])
            found.extend(ipaddress.summarize_address_range(first, last))
    networks = merged_networks(found, version)
    if sum(n.num_addresses for n in networks) != sum(n.num_addresses for n in found):
        raise ValueError("networks of another family, or twice")
    return networks


def _ports(value: Any) -> Ports:
    found = []
    for each in _elements(value):
        first, last = (each, each) if isinstance(each, int) else each["range"]
        found.append((first, last))
    ports = merged_ports(found)
    if not all(0 <= first <= last <= MOST_PORT for first, last in ports):
        raise ValueError("no ports")
    return ports
