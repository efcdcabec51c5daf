"""What becomes nftables: one line a rule, and no text of anybody's choosing in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import CUSTOMER, compiled

from moatvpn.errors import ConfigError
from moatvpn.policy.render import render, rule_lines
from moatvpn.policy.rules import compiled_from_bytes, compiled_to_bytes
from moatvpn.policy.signed import digest_of

DIGEST = "ab" * 32
# All that a rule of a fragment may look like.
_SET = r"\{ [0-9a-f.:/]+(, [0-9a-f.:/]+)* \}"
_PORTS = r"\{ [0-9]+(-[0-9]+)?(, [0-9]+(-[0-9]+)?)* \}"
_RULE = re.compile(
    rf"((ip|ip6) daddr {_SET}|meta nfproto ipv[46])"
    rf"( meta l4proto (tcp|udp|icmp|icmpv6)| (tcp|udp) dport {_PORTS})?"
    r" (ct status confirmed meta mark set ct mark return"
    r"|counter name policy_direct meta mark set 0x4d return|return"
    r"|counter name dropped_policy drop)"
)
_HEAD = (
    re.compile(
        r"fib daddr type \{ local, broadcast, multicast, anycast \} return"
        r' comment "moat-policy [0-9]+ [0-9a-f]{64}"'
    ),
    re.compile(rf"ip saddr != {_SET} return|meta nfproto ipv4 return"),
    re.compile(rf"ip6 saddr != {_SET} return|meta nfproto ipv6 return"),
)


def test_the_fragment_of_a_policy():
    assert render(compiled(), DIGEST).splitlines()[1:] == [
        "table inet moat {",
        "    counter policy_direct {}",
        "    counter dropped_policy {}",
        "    chain policy_mark {",
        "        fib daddr type { local, broadcast, multicast, anycast } return"
        f' comment "moat-policy 7 {DIGEST}"',
        "        ip saddr != { 10.201.1.0/24 } return",
        "        ip6 saddr != { fd00:c:1::/64 } return",
        "        meta nfproto ipv4 tcp dport { 25 } counter name dropped_policy drop",
        "        meta nfproto ipv6 tcp dport { 25 } counter name dropped_policy drop",
        "        ip daddr { 198.51.100.0/25 } tcp dport { 80, 443 }"
        " ct status confirmed meta mark set ct mark return",
        "        ip daddr { 198.51.100.0/25 } tcp dport { 80, 443 }"
        " counter name policy_direct meta mark set 0x4d return",
        "        ip daddr { 198.51.100.0/25 } udp dport { 443, 3478-3481 }"
        " ct status confirmed meta mark set ct mark return",
        "        ip daddr { 198.51.100.0/25 } udp dport { 443, 3478-3481 }"
        " counter name policy_direct meta mark set 0x4d return",
        "    }",
        "}",
    ]


def test_a_family_without_private_subnets_is_left_alone():
    only4 = replace(CUSTOMER, subnets=CUSTOMER.subnets[:1])
    assert "meta nfproto ipv6 return" in rule_lines(compiled(only4), DIGEST)


def test_what_is_written_is_read_back():
    assert compiled_from_bytes(compiled_to_bytes(compiled()), "here") == compiled()


def test_the_hash_is_that_of_everything():
    one = compiled()
    others = [
        replace(one, version=8),
        replace(one, identity="moat2.example.net"),
        replace(one, sources=one.sources[:1]),
        replace(one, rules=one.rules[::-1]),
    ]
    assert len({digest_of(each) for each in [one, *others]}) == 5


def record():
    return json.loads(compiled_to_bytes(compiled()))


def refused(value):
    with pytest.raises(ConfigError) as caught:
        compiled_from_bytes(json.dumps(value, indent=1).encode() + b"\n", "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("name", 'x" ; flush ruleset', "name"),
        ("networks", ["198.51.100.0/25 } accept #"], "is not ADDRESS/PREFIX-LENGTH"),
        ("networks", ["198.51.100.0/25", "198.51.100.0/26"], "overlap"),
        ("networks", ["198.51.100.0/25", "2001:db8::/32"], "two families"),
        ("networks", [], "networks"),
        ("networks", ["10.0.0.0/8"], "nothing goes to directly"),
        ("networks", ["2001:db8::/32"], "nothing goes to directly"),
        ("protocol", "gre", "protocol"),
        ("protocol", "any", "stand where there are none"),
        ("ports", [[443, 80]], "ports"),
        ("ports", [[80, 90], [85, 99]], "overlap"),
        ("ports", [["80", 80]], "ports"),
        ("ports", [[True, 80]], "ports"),
        ("ports", [[80, 70000]], "ports"),
        ("verdict", "accept", "verdict"),
        ("more", 1, "is not a setting"),
    ],
)
def test_a_rule_that_is_none_of_ours_is_refused_though_it_be_signed(key, value, why):
    wrong = record()
    wrong["rules"][2][key] = value  # a direct one of IPv4, for TCP
    assert why in refused(wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sources", ["0.0.0.0/0"]),
        ("sources", ["10.201.1.1/24"]),
        ("sources", []),
        ("version", 0),
        ("version", True),
        ("version", 2**31),
        ("identity", "moat1"),
        ("customer", "x\n"),
        ("rules", {}),
        ("rules", [1]),
    ],
)
def test_a_policy_that_is_none_of_ours_is_refused(key, value):
    refused(record() | {key: value})


def test_there_is_one_way_to_write_a_policy():
    with pytest.raises(ConfigError, match="in the form"):
        compiled_from_bytes(json.dumps(record()).encode(), "here")


_leaves = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    | st.sampled_from(['"', "; flush ruleset", "} accept", "\n", "0.0.0.0/0", "1.2.3.0/24,5.6.7.8"])
)  # fmt: skip
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.data())
def test_whatever_is_in_a_policy_each_line_is_a_rule_of_ours(data):
    value = record()
    where = data.draw(st.sampled_from([value, *value["rules"]]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(_values)
    try:
        made = compiled_from_bytes(json.dumps(value, indent=1).encode() + b"\n", "here")
    except ConfigError:
        return
    lines = render(made, DIGEST).splitlines()
    rules = [line.removeprefix("        ") for line in lines[5:-2]]
    direct = sum(rule.verdict == "direct" for rule in made.rules)
    assert len(rules) == len(_HEAD) + len(made.rules) + direct
    assert all(shape.fullmatch(line) for shape, line in zip(_HEAD, rules[:3], strict=True))
    assert all(_RULE.fullmatch(line) for line in rules[3:])
