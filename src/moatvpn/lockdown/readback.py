"""Checks what the kernel has against the matrix, by `nft -j list table inet moat`.

The kernel's rules are put into the same words as ours, one by one, and compared chain by chain:
what is missing and what is there besides are both found. The policy's own chain is not looked
into: it can drop and mark, and what its marks are worth stands in the other chains.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from moatvpn.lockdown.ruleset import POLICY_CHAIN, TABLE, chains, counters
from moatvpn.lockdown.zones import Box

_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "srcnat": 100}
_HEX = re.compile(r"\b0x[0-9a-f]+\b")
_SET = re.compile(r"\{ (.*?) \}")
# One address: nft writes it without a prefix length.
_HOST = re.compile(r"(?<![0-9a-f.:])(?:([0-9.]{7,15})/32|([0-9a-f:]*:[0-9a-f:.]*)/128)(?![0-9])")
_STATE = re.compile(r"(?<=ct state )[a-z,]+")
_OCTETS = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}
_BARE = ("iifname", "oifname")  # keys of meta that are written without it
# Rules that only say so: an accept or a drop, and what stands for itself.
_PLAIN = ("accept", "drop", "notrack")


def differences(box: Box, listing: Any) -> list[str]:
    """Return in what the kernel's table differs from the box's matrix, a sentence each.

    listing: what `nft -j list table inet moat` has said, as Python has it from JSON. No sentence
    at all means that the kernel has the matrix, the whole of it, and nothing else.
    """
    ours = _objects(listing)
    if not ours:
        return ["This is no listing of a table"]
    found, rules = _bases(ours), _rules(ours)
    said = []
    expected = {chain.name: chain for chain in chains(box)}
    for name in found:
        if name not in expected:
            said.append(f"The chain {name} is not ours")
    for name, chain in expected.items():
        if name not in found:
            said.append(f"The chain {name} is missing")
            continue
        base = _base(chain.hook)
        if found[name] != base:
            said.append(f"The chain {name} is {found[name] or 'no base'}, not {base or 'none'}")
        if name != POLICY_CHAIN:
            said += _compare(name, [canonical(each) for each in chain.rules], rules.get(name, []))
    named = {body["name"] for kind, body in ours if kind == "counter"}
    said += [f"The counter {each} is missing" for each in counters(box) if each not in named]
    tables = [body for kind, body in ours if kind == "table"]
    if [(each.get("family"), each.get("name")) for each in tables] != [("inet", TABLE)]:
        said.append(f"The listing is not of the one table inet {TABLE}")
    if any("flags" in each for each in tables):
        said.append("The table is dormant or owned by a program")
    return said


def chains_of(listing: Any) -> dict[str, list[str]]:
    """Return the kernel's chains by name: what makes each a base chain (or ""), and its rules."""
    ours = _objects(listing)
    rules = _rules(ours)
    return {name: [base, *rules.get(name, [])] for name, base in _bases(ours).items()}


def _objects(listing: Any) -> list[tuple[str, Any]]:
    """Return what a listing tells of, each with its kind; nothing where it is no listing."""
    objects = listing.get("nftables") if isinstance(listing, dict) else None
    return [
        (kind, body)
        for each in (objects if isinstance(objects, list) else [])
        if isinstance(each, dict)
        for kind, body in each.items()
        if kind != "metainfo"
    ]


def _rules(ours: list[tuple[str, Any]]) -> dict[str, list[str]]:
    """Return the rules of each chain that has any, in our words."""
    rules: dict[str, list[str]] = {}
    for kind, body in ours:
        if kind == "rule":
            rules.setdefault(body["chain"], []).append(spoken(body["expr"]))
    return rules


def _bases(ours: list[tuple[str, Any]]) -> dict[str, str]:
    """Return the chains, each with what makes it a base chain."""
    found = {}
    for kind, body in ours:
        if kind == "chain":
            words = (body.get(key, "") for key in ("type", "hook", "prio", "policy"))
            found[body["name"]] = " ".join(str(word) for word in words) if "hook" in body else ""
    return found


def _base(hook: str) -> str:
    """Return what makes ours a base chain in the words of _bases."""
    if not hook:
        return ""
    kind, _, name, _, priority = hook.split()
    return f"{kind} {name} {_PRIORITIES.get(priority, priority)} drop"


def _compare(name: str, expected: list[str], found: list[str]) -> list[str]:
    said = [f"In {name} is missing: {rule}" for rule in expected if rule not in found]
    said += [f"In {name} is besides: {rule}" for rule in found if rule not in expected]
    if not said and expected != found:
        said.append(f"In {name} the rules have another order")
    return said


def canonical(rule: str) -> str:
    """Return a rule's text in the one way to write it: no quotes, hex or order of a set's own."""
    text = _HEX.sub(lambda number: str(int(number[0], 16)), rule.replace('"', ""))
    text = _SET.sub(lambda found: _set(found[1].split(", ")), text)
    text = _HOST.sub(lambda found: found[1] or found[2], text)
    return _STATE.sub(lambda found: ",".join(sorted(found[0].split(","))), text)


def _set(elements: list[str]) -> str:
    """Return a set in the one way to write it, whatever the kernel has merged in it."""
    try:
        networks = [ipaddress.ip_network(each) for each in elements]
    except ValueError:
        networks = []
    if networks and len({each.version for each in networks}) == 1:
        merged = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]
        elements = [_HOST.sub(lambda found: found[1] or found[2], str(each)) for each in merged]
    elements = sorted(dict.fromkeys(elements))
    return elements[0] if len(elements) == 1 else f"{{ {', '.join(elements)} }}"


def spoken(expressions: Any) -> str:
    """Return a rule of nft's JSON as canonical() writes it.

    What is not known here is written out as it stands, so that it is like no rule of ours.
    """
    try:
        return " ".join(_statement(each) for each in expressions)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return f"{expressions!r}"


def _statement(statement: dict[str, Any]) -> str:
    ((kind, body),) = statement.items()
    if kind in _PLAIN and body is None:
        return kind
    match kind:
        case "match":
            return _match(body)
        case "counter" if isinstance(body, str):
            return f"counter name {body}"
        case "jump":
            return f"jump {body['target']}"
        case "vmap":
            entries = (f"{_value(key)} : {_statement(what)}" for key, what in body["data"]["set"])
            return f"{_value(body['key'])} vmap {_vmap(list(entries))}"
        case "masquerade" if body is None:
            return kind
        case "masquerade":
            first, last = body["port"]["range"]
            return f"masquerade to :{first}-{last}"
        case "mangle":
            return f"{_value(body['key'])} set {_value(body['value'])}"
        case "limit":
            return _limit(body)
        case "ct count":
            return f"ct count {'over ' if body.get('inv') else ''}{body['val']}"
    raise ValueError(kind)


def _limit(body: dict[str, Any]) -> str:
    """Return a bounded rate in octets, of which nft makes larger units where they come out even."""
    rate = body["rate"] * _OCTETS[body["rate_unit"]]
    burst = body["burst"] * _OCTETS[body["burst_unit"]]
    over = "over " if body.get("inv") else ""
    return f"limit rate {over}{rate} bytes/{body['per']} burst {burst} bytes"


def _vmap(entries: list[str]) -> str:
    return f"{{ {', '.join(sorted(entries))} }}" if len(entries) > 1 else f"{{ {entries[0]} }}"


def _match(body: dict[str, Any]) -> str:
    left, right = _value(body["left"]), body["right"]
    if right is True:
        return f"{left} exists"
    operator = "" if body["op"] in ("==", "in") else f"{body['op']} "
    if isinstance(right, list):
        return f"{left} {operator}{','.join(sorted(right))}"
    return f"{left} {operator}{_value(right)}"


def _value(value: Any) -> str:
    """Return a value, or what is looked at in a packet."""
    if isinstance(value, str | int):
        return str(value)
    ((kind, body),) = value.items()
    match kind:
        case "meta":
            key: str = body["key"]
            return key if key in _BARE else f"meta {key}"
        case "ct":
            return f"ct {body['key']}"
        case "payload":
            return f"{body['protocol']} {body['field']}"
        case "ip option" | "exthdr" | "tcp option":
            return " ".join((kind, body["name"], *([body["field"]] if "field" in body else [])))
        case "fib":
            return f"fib {' . '.join(body['flags'])} {body['result']}"
        case "&":
            return f"{_value(body[0])} & {_value(body[1])}"
        case "concat":
            return " . ".join(_value(each) for each in body)
        case "prefix":
            return f"{body['addr']}/{body['len']}"
        case "range":
            first, last = (ipaddress.ip_address(each) for each in body)
            networks = ipaddress.summarize_address_range(first, last)
            return ", ".join(str(each) for each in networks)
        case "set":
            return _set(", ".join(_value(each) for each in body).split(", "))
    raise ValueError(kind)
