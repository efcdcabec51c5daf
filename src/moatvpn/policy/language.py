"""The language that a policy is written in (docs/policy.md): from YAML to values.

Rules stand in order, and the first one that matches a packet decides. What none matches goes
through the tunnel. A direct rule is about IPv4 only, for the wild side has nothing else: to it,
IPv6 is no match.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from moatvpn.config_fields import short
from moatvpn.policy.rules import (
    MOST_PORT,
    MOST_VERSION,
    NAME,
    NAME_SHAPE,
    NEVER_DIRECT,
    Protocol,
    Verdict,
    never_direct,
)
from moatvpn.policy.source import Place, Value, read_yaml
from moatvpn.subnets import Network, parse_network

EVERYBODY = "everybody"
ANYWHERE = "anywhere"
INTERNET = "internet"
_ALL = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_NOBODY: frozenset[str] = frozenset()
_RESERVED = frozenset({ANYWHERE, INTERNET, EVERYBODY})
_DOMAIN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.[A-Za-z][A-Za-z0-9-]*\.?")
_TRAFFIC = re.compile(r"(tcp|udp)/([0-9]{1,5})(?:-([0-9]{1,5}))?")
_TERM_SHAPE = "Give a word of a-z, 0-9, '_' and '-' that means nothing yet"
_SHAPE = "Give tcp/443, udp/3478-3481, tcp, udp, icmp, any, or a name of services"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Traffic:
    """A protocol, and a range of the destination's ports; None for all, or where there are none."""

    protocol: Protocol
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Who:
    """Whose packets a rule is for: those of any of the customers, or of any of the profiles."""

    everybody: bool = False
    customers: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SourceRule:
    """One rule, as written, with the names in it resolved."""

    name: str
    who: Who
    where: tuple[Network, ...]
    what: tuple[Traffic, ...]
    verdict: Verdict
    place: Place


@dataclass(frozen=True, slots=True)
class Example:
    """A packet, whose it is, and what has to become of it."""

    who: Who
    to: ipaddress.IPv4Address | ipaddress.IPv6Address
    what: Traffic
    verdict: Verdict
    place: Place


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, as written."""

    name: str
    version: int
    rules: tuple[SourceRule, ...]
    examples: tuple[Example, ...]
    place: Place


def read_policy(text: str, file: str) -> Policy:
    """Return the policy that text, the content of file, holds.

    Raises ConfigError, which names file, line and field, for the first thing that is wrong.
    """
    top = read_yaml(text, file)
    known = ("name", "version", "groups", "destinations", "services", "rules", "examples")
    content = top.mapping(known)
    names = _Names(
        groups=_named(content, "groups", _members),
        destinations=_named(content, "destinations", _prefixes),
        services=_named(content, "services", _services),
    )
    rules = tuple(names.rule(value) for value in top.get("rules").items())
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise rule.place.error(f"{rule.name} stands twice", "Give each rule its own name")
        seen.add(rule.name)
    examples = names.examples(content["examples"]) if "examples" in content else ()
    _check_shown(rules, examples)
    return Policy(
        name=_name(top.get("name")),
        version=_version(top.get("version")),
        rules=rules,
        examples=examples,
        place=top.place,
    )


def _check_shown(rules: tuple[SourceRule, ...], examples: tuple[Example, ...]) -> None:
    """Refuse what opens something, or closes something, and shows no example of it."""
    shown = {example.verdict for example in examples}
    for rule in rules:
        if rule.verdict is Verdict.TUNNEL or rule.verdict in shown:
            continue
        where = "must-block" if rule.verdict is Verdict.DENY else "must-pass with way: direct"
        why = f"{rule.name} is a {rule.verdict} rule, and no example shows one at work"
        raise rule.place.error(why, f"Add an example to {where}")


@dataclass(frozen=True, slots=True)
class _Names:
    """What a policy has given names to."""

    groups: dict[str, frozenset[str]]
    destinations: dict[str, tuple[Network, ...]]
    services: dict[str, tuple[Traffic, ...]]

    def rule(self, value: Value) -> SourceRule:
        value.mapping(("name", "who", "where", "what", "action", "way"))
        name = _name(value.get("name"))
        verdict = _verdict(value)
        where = self._where(value.get("where"), verdict)
        what = tuple(t for each in _listed(value.get("what")) for t in self._traffic(each))
        who = self._who(value.get("who"))
        return SourceRule(name, who, where, what, verdict, value.place)

    def _who(self, value: Value) -> Who:
        if value.content == EVERYBODY:
            return Who(everybody=True)
        parts = value.mapping(("customers", "groups", "profiles"))
        if not parts:
            raise value.error("is nobody", f"Give {EVERYBODY}, customers, groups or profiles")
        customers = _members(parts["customers"]) if "customers" in parts else _NOBODY
        for each in _listed(parts["groups"]) if "groups" in parts else ():
            customers |= _look_up(self.groups, each, "groups")
        return Who(
            customers=customers,
            profiles=_members(parts["profiles"]) if "profiles" in parts else _NOBODY,
        )

    def _where(self, value: Value, verdict: Verdict) -> tuple[Network, ...]:
        found = tuple(n for each in _listed(value) for n in self._destination(each))
        if verdict is not Verdict.DIRECT:
            return found
        # The wild side is IPv4: what a destination has besides goes on to the next rule.
        direct = tuple(network for network in found if network.version == 4)
        if not direct:
            raise value.error("has no IPv4 network, and the wild side is IPv4", "Name one")
        bad = never_direct(direct)
        if bad is not None:
            why = f"has {bad}, which private, shared or reserved addresses lie in"
            remedy = f"Name public networks; all of them are called {INTERNET}"
            raise value.error(f"{why}: nothing goes there in clear", remedy)
        return direct

    def _destination(self, value: Value) -> tuple[Network, ...]:
        text = value.text()
        if text == ANYWHERE:
            return _ALL
        if text == INTERNET:
            return _INTERNET
        if text in self.destinations:
            return self.destinations[text]
        return (_prefix(value),)

    def _traffic(self, value: Value) -> tuple[Traffic, ...]:
        text = value.text()
        return self.services[text] if text in self.services else (_traffic(value),)

    def examples(self, value: Value) -> tuple[Example, ...]:
        parts = value.mapping(("must-pass", "must-block"))
        passing = parts["must-pass"].items() if "must-pass" in parts else ()
        blocked = parts["must-block"].items() if "must-block" in parts else ()
        return (
            *(self._example(each, passes=True) for each in passing),
            *(self._example(each, passes=False) for each in blocked),
        )

    def _example(self, value: Value, *, passes: bool) -> Example:
        value.mapping(("who", "to", "what", "way") if passes else ("who", "to", "what"))
        verdict = _way(value.get("way")) if passes else Verdict.DENY
        to, what = value.get("to"), _traffic(value.get("what"))
        single = what.ports is not None and what.ports[0] == what.ports[1]
        if not single and what.protocol is not Protocol.ICMP:
            raise value.get("what").error("is no single port", "Give one such as tcp/443, or icmp")
        try:
            address = ipaddress.ip_address(to.text())
        except ValueError as error:
            raise to.error(str(error), "Give an address such as 198.51.100.80") from error
        return Example(self._who(value.get("who")), address, what, verdict, value.place)


def _verdict(value: Value) -> Verdict:
    action = value.get("action")
    content = value.mapping()
    if action.content == "deny":
        if "way" in content:
            raise content["way"].error("stands beside action: deny", "Leave it out")
        return Verdict.DENY
    if action.content == "allow":
        return _way(value.get("way"))
    raise action.error(f"is {short(action.content)}", "Give allow or deny")


def _way(value: Value) -> Verdict:
    text = value.text()
    if text not in (Verdict.DIRECT, Verdict.TUNNEL):
        raise value.error(f"is {short(text)}", "Give direct or tunnel")
    return Verdict(text)


def _listed(value: Value) -> tuple[Value, ...]:
    """Return a list's values; a text alone is a list of one."""
    return (value,) if isinstance(value.content, str) else value.items()


def _named(content: dict[str, Value], key: str, read: Callable[[Value], T]) -> dict[str, T]:
    if key not in content:
        return {}
    found: dict[str, T] = {}
    for name, value in content[key].mapping().items():
        if not NAME.fullmatch(name) or name in _RESERVED or "." in name or _known_traffic(name):
            raise value.error(f"{short(name)} is no name for one", _TERM_SHAPE)
        found[name] = read(value)
    return found


def _known_traffic(name: str) -> bool:
    return name in frozenset(Protocol)


def _look_up(table: Mapping[str, T], value: Value, what: str) -> T:
    text = value.text()
    if text not in table:
        known = ", ".join(table) or "none"
        raise value.error(f"{short(text)} is none of {what}", f"Known: {known}")
    return table[text]


def _name(value: Value) -> str:
    text = value.text()
    if not NAME.fullmatch(text):
        raise value.error(f"{short(text)} is no name", f"Give {NAME_SHAPE}")
    return text


def _members(value: Value) -> frozenset[str]:
    return frozenset(_name(each) for each in _listed(value))


def _version(value: Value) -> int:
    text = value.text()
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text) or int(text) > MOST_VERSION:
        raise value.error(f"is {short(text)}", f"Give a whole number from 1 to {MOST_VERSION}")
    return int(text)


def _prefixes(value: Value) -> tuple[Network, ...]:
    return tuple(_prefix(each) for each in _listed(value))


def _prefix(value: Value) -> Network:
    text = value.text()
    if _DOMAIN.fullmatch(text):
        why = (
            f"{text} is a domain, and rules are about addresses: a name's answer is whatever its "
            "owner says at the moment, so the examples could not be held against it"
        )
        raise value.error(why, "Give the prefixes that its owner publishes")
    if "/" not in text and NAME.fullmatch(text) and not text[0].isdigit():
        raise value.error(f"{text} is none of destinations", "Define it, or give a prefix")
    try:
        return parse_network(text)
    except ValueError as error:
        raise value.error(str(error), "Give a prefix such as 198.51.100.0/24") from error


def _services(value: Value) -> tuple[Traffic, ...]:
    return tuple(_traffic(each) for each in _listed(value))


def _traffic(value: Value) -> Traffic:
    text = value.text()
    if _known_traffic(text):
        return Traffic(Protocol(text))
    found = _TRAFFIC.fullmatch(text)
    if found is None:
        raise value.error(f"{short(text)} is no traffic", _SHAPE)
    first = int(found[2])
    last = int(found[3] or first)
    if not first <= last <= MOST_PORT:
        raise value.error(f"{text} is no range of ports", f"Give 0 to {MOST_PORT}, ascending")
    return Traffic(Protocol(found[1]), (first, last))


def _public() -> tuple[Network, ...]:
    """Return the internet: of IPv4 what may be reached in clear, of IPv6 2000::/3 (RFC 4291)."""
    public: list[Network] = [_ALL[0]]
    for never in NEVER_DIRECT:
        rest: list[Network] = []
        for network in public:
            if never.subnet_of(network):  # type: ignore[arg-type]
                rest.extend(network.address_exclude(never))  # type: ignore[arg-type]
            else:
                rest.append(network)
        public = rest
    return (*sorted(public), ipaddress.ip_network("2000::/3"))


_INTERNET = _public()
