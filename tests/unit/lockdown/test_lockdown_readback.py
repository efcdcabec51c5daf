"""Reading a ruleset back: the kernel's JSON in our words, and what is said of a foreign one."""

from __future__ import annotations

from typing import Any

import pytest
from lockdown_boxes import moat

from moatvpn.lockdown.readback import canonical, differences, spoken

DROP: list[dict[str, Any]] = [{"counter": "dropped_x"}, {"drop": None}]


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


META = {"meta": {"key": "iifname"}}
RULES: list[tuple[str, list[dict[str, Any]]]] = [
    ('iifname "lo" accept', [match(META, "lo"), {"accept": None}]),
    (
        "ip option lsrr exists counter name dropped_x drop",
        [match({"ip option": {"name": "lsrr"}}, True), *DROP],
    ),
    (
        "ip frag-off & 0x2000 != 0 ip length < 256 counter name dropped_x drop",
        [
            match({"&": [payload("ip", "frag-off"), 8192]}, 0, "!="),
            match(payload("ip", "length"), 256, "<"),
            *DROP,
        ],
    ),
    (
        "ip saddr { 10.2.0.0/16, 10.3.0.0/16 } accept",  # which the kernel may merge
        [
            match(payload("ip", "saddr"), {"set": [{"prefix": {"addr": "10.2.0.0", "len": 15}}]}),
            {"accept": None},
        ],
    ),
    (
        "ip saddr { 224.0.0.0/4, 240.0.0.0/4 } accept",
        [
            match(payload("ip", "saddr"), {"set": [{"range": ["224.0.0.0", "255.255.255.255"]}]}),
            {"accept": None},
        ],
    ),
    ("ip saddr 10.8.1.1/32 accept", [match(payload("ip", "saddr"), "10.8.1.1"), {"accept": None}]),
    (
        "ct state established,related accept",
        [match({"ct": {"key": "state"}}, ["related", "established"], "in"), {"accept": None}],
    ),
    (
        'iifname . oifname vmap { "b" . "a" : jump b_to_a, "a" . "b" : drop }',
        [
            {
                "vmap": {
                    "key": {"concat": [META, {"meta": {"key": "oifname"}}]},
                    "data": {
                        "set": [
                            [{"concat": ["a", "b"]}, {"drop": None}],
                            [{"concat": ["b", "a"]}, {"jump": {"target": "b_to_a"}}],
                        ]
                    },
                }
            }
        ],
    ),
    (
        "limit rate over 1024000 bytes/second burst 2097152 bytes counter name dropped_x drop",
        [
            {
                "limit": {
                    "rate": 1000,
                    "burst": 2,
                    "per": "second",
                    "inv": True,
                    "rate_unit": "kbytes",
                    "burst_unit": "mbytes",
                }
            },
            *DROP,
        ],
    ),
    (
        "ct state new ct count over 8192 meta mark set 0x4d masquerade to :10000-65535",
        [
            match({"ct": {"key": "state"}}, "new", "in"),
            {"ct count": {"val": 8192, "inv": True}},
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 77}},
            {"masquerade": {"port": {"range": [10000, 65535]}}},
        ],
    ),
]


@pytest.mark.parametrize(("rule", "expressions"), RULES)
def test_the_kernels_words_are_ours(rule: str, expressions: list[dict[str, Any]]) -> None:
    assert spoken(expressions) == canonical(rule)


@pytest.mark.parametrize(
    "expressions",
    [
        [{"queue": {"num": 1}}],
        [{"accept": 1}],
        [{"match": {}}],
        [{}],
        ["accept"],
        None,
        7,
        [match(payload("ip", "saddr"), {"set": []}), {"accept": None}],
    ],
)
def test_what_is_not_known_is_like_no_rule_of_ours(expressions: Any) -> None:
    ours = {canonical(rule) for rule, _ in RULES}
    assert spoken(expressions) not in ours | {"accept", "drop"}


@pytest.mark.parametrize("listing", [None, [], {}, {"nftables": None}, {"nftables": []}])
def test_no_listing_is_no_ruleset(listing: Any) -> None:
    assert differences(moat(), listing) != []
