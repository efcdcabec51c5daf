"""What nft lists is known again where it is the policy, and for nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import compiled

from moatvpn.policy.readback import is_loaded

DIGEST = "ab" * 32


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


IPV4, IPV6 = ({"meta": {"key": "nfproto"}}, "ipv4"), ({"meta": {"key": "nfproto"}}, "ipv6")
DENY = [{"counter": "dropped_policy"}, {"drop": None}]
MARK = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 0x4D}}
DIRECT = [{"counter": "policy_direct"}, MARK, {"return": None}]
MEETINGS = {"prefix": {"addr": "198.51.100.0", "len": 25}}
AS_BEGUN = [
    match({"ct": {"key": "status"}}, "confirmed", "in"),
    {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"ct": {"key": "mark"}}}},
    {"return": None},
]
TCP = [
    match(payload("ip", "daddr"), MEETINGS),
    match(payload("tcp", "dport"), {"set": [80, 443]}),
]
UDP = [
    match(payload("ip", "daddr"), {"range": ["198.51.100.0", "198.51.100.127"]}),
    match(payload("udp", "dport"), {"set": [443, {"range": [3478, 3481]}]}),
]
# As nft 1.0.6 lists the policy of tests/support/policies.py.
LISTED = [
    {
        "comment": f"moat-policy 7 {DIGEST}",
        "expr": [
            match(
                {"fib": {"result": "type", "flags": ["daddr"]}},
                {"set": ["local", "broadcast", "anycast", "multicast"]},
            ),
            {"return": None},
        ],
    },
    {
        "expr": [
            match(payload("ip", "saddr"), {"prefix": {"addr": "10.201.1.0", "len": 24}}, "!="),
            {"return": None},
        ]
    },
    {
        "expr": [
            match(payload("ip6", "saddr"), {"prefix": {"addr": "fd00:c:1::", "len": 64}}, "!="),
            {"return": None},
        ]
    },
    {"expr": [match(*IPV4), match(payload("tcp", "dport"), 25), *DENY]},
    {"expr": [match(*IPV6), match(payload("tcp", "dport"), 25), *DENY]},
    {"expr": [*TCP, *AS_BEGUN]},
    {"expr": [*TCP, *DIRECT]},
    {"expr": [*UDP, *AS_BEGUN]},
    {"expr": [*UDP, *DIRECT]},
]


def test_the_policy_is_known_again():
    assert is_loaded(LISTED, compiled(), DIGEST)
    assert not is_loaded(LISTED, compiled(), "cd" * 32)
    assert not is_loaded(LISTED, compiled(version=8), DIGEST)
    assert not is_loaded([], compiled(), DIGEST)


@pytest.mark.parametrize("gone", range(len(LISTED)))
def test_a_rule_less_or_more_is_a_difference(gone):
    assert not is_loaded(LISTED[:gone] + LISTED[gone + 1 :], compiled(), DIGEST)
    assert not is_loaded(
        LISTED[:gone] + LISTED[gone : gone + 1] + LISTED[gone:], compiled(), DIGEST
    )


def places(value):
    """Yield each place within value that holds a single thing, as who holds it and where."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(pairs):
        if isinstance(each, dict | list):
            yield from places(each)
        else:
            yield value, key


@given(st.data())
def test_anything_changed_anywhere_is_a_difference(data):
    listed = json.loads(json.dumps(LISTED))  # a copy that shares no part with itself
    holder, key = data.draw(st.sampled_from(list(places(listed))))
    before = holder[key]
    holder[key] = data.draw(
        st.none() | st.integers(-1, 70000)
        | st.text(max_size=8).filter(lambda text: not text.isdigit())
        | st.sampled_from(["ip", "tcp", "udp", "10.0.0.0", "ipv6", "!=", "saddr", "dport"])
    )  # fmt: skip
    assert is_loaded(listed, compiled(), DIGEST) == (holder[key] == before)
