"""Which connections a changed ruleset is news for."""

from __future__ import annotations

from typing import Any

import pytest

from moatvpn.lockdown.reload import affected

HOME, HOME6, CHILD = "10.201.1.0/24", "fd00:201:1::/64", "192.168.77.0/24"


def meta(key: str, value: str) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}}


def source(family: str, right: Any) -> list[dict[str, Any]]:
    left = {"payload": {"protocol": family, "field": "saddr"}}
    return [{"match": {"op": "==", "left": left, "right": right}}, {"accept": None}]


def prefix(text: str) -> dict[str, Any]:
    address, _, length = text.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


CHAINS: dict[str, list[Any]] = {
    "prerouting": [[meta("iifname", "lo"), {"accept": None}]],
    "from_wild": [[{"accept": None}]],
    "from_private": [
        source("ip", prefix(HOME)),
        source("ip6", {"set": [prefix(HOME6), prefix("fe80::/10")]}),
    ],
    "from_kid": [source("ip", prefix(CHILD))],
    "policy_mark": [],
    "kid_to_wild": [[{"accept": None}]],
    "private_to_kid": [[{"drop": None}]],
    "wild_to_local": [[{"drop": None}]],
}


def listing(**changes: list[Any]) -> dict[str, Any]:
    chains = CHAINS | changes
    objects: list[dict[str, Any]] = [{"table": {"family": "inet", "name": "moat"}}]
    objects += [{"chain": {"name": name}} for name in chains]
    objects += [
        {"rule": {"chain": name, "expr": rule}} for name, rules in chains.items() for rule in rules
    ]
    return {"nftables": objects}


OTHER = [[{"drop": None}], [{"accept": None}]]


@pytest.mark.parametrize(
    ("changes", "networks"),
    [
        ({}, []),
        ({"kid_to_wild": OTHER}, [CHILD]),
        ({"private_to_kid": OTHER}, [HOME, CHILD, HOME6]),
        ({"policy_mark": OTHER}, [HOME, HOME6]),
        ({"from_kid": [source("ip", "192.168.77.9")]}, [CHILD, "192.168.77.9/32"]),
        ({"private_to_wild": OTHER}, [HOME, HOME6]),
        # Known by no addresses, or not one pair's.
        ({"wild_to_local": OTHER}, None),
        ({"wild_to_local": OTHER, "kid_to_wild": OTHER}, None),
        ({"prerouting": OTHER}, None),
        ({"from_wild": OTHER}, None),
        ({"something": OTHER}, None),
    ],
)
def test_what_has_changed_is_forgotten(
    changes: dict[str, list[Any]], networks: list[str] | None
) -> None:
    for before, after in ((listing(), listing(**changes)), (listing(**changes), listing())):
        found = affected(before, after)
        if networks is None:
            assert found is None
        else:
            assert found is not None
            assert sorted(str(each) for each in found) == sorted(networks)


def test_a_first_ruleset_is_news_for_all() -> None:
    assert affected(None, listing()) is None
