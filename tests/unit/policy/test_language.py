"""What a policy may say, and how it is told what is wrong with it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import CUSTOMER, read, source

from moatvpn.errors import ConfigError
from moatvpn.policy.compile import compile_policy
from moatvpn.policy.language import read_policy
from moatvpn.policy.rules import NEVER_DIRECT, Protocol, Verdict
from moatvpn.subnets import overlaps

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "policy.md"


def test_the_documented_policy_is_one():
    text = re.search(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)[1]
    policy = read_policy(text, "docs/policy.md")
    made = compile_policy(policy, CUSTOMER)
    assert {rule.name for rule in made.rules} == {"no-mail", "meetings"}


def rule(**changes):
    return {
        "name": "one",
        "who": "everybody",
        "where": "198.51.100.0/24",
        "what": "tcp/443",
        "action": "allow",
        "way": "tunnel",
    } | changes


def refused(text):
    with pytest.raises(ConfigError) as caught:
        read_policy(text, "policy.yml")
    return caught.value


def refused_rule(**changes):
    content = source(rules=[rule(**changes)], examples={})
    with pytest.raises(ConfigError) as caught:
        read(content | {"examples": source()["examples"]})
    return str(caught.value)


def test_names_are_resolved():
    deny, meetings = read(source()).rules
    assert deny.verdict is Verdict.DENY
    assert deny.who.everybody
    assert [str(network) for network in deny.where] == ["0.0.0.0/0", "::/0"]
    assert meetings.verdict is Verdict.DIRECT
    assert meetings.who.customers == {"c0001", "c0002"}
    assert [(t.protocol, t.ports) for t in meetings.what] == [
        (Protocol.TCP, (80, 80)),
        (Protocol.TCP, (443, 443)),
        (Protocol.UDP, (443, 443)),
        (Protocol.UDP, (3478, 3481)),
    ]


def test_a_direct_rule_leaves_ipv6_to_the_rules_behind_it():
    assert [str(network) for network in read(source()).rules[1].where] == ["198.51.100.0/25"]


def test_the_internet_is_all_that_may_be_reached_in_clear():
    content = source(rules=[rule(where="internet", way="direct")])
    networks = read(content | {"examples": source()["examples"]}).rules[0].where
    assert not any(overlaps(network, never) for network in networks for never in NEVER_DIRECT)
    addresses = sum(network.num_addresses for network in networks)
    assert addresses + sum(never.num_addresses for never in NEVER_DIRECT) == 2**32


def test_an_error_names_the_line_and_the_field():
    text = "name: one\nversion: 1\nrules:\n- name: x\n  who: everybody\n  where: 10.0.0.1/8\n"
    text += "  what: any\n  action: deny\n"
    error = refused(text)
    assert error.what == "policy.yml:6: rules.where"
    assert "host bits" in error.why
    assert error.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("- 1", "is no mapping"),
        ("name: [", "is not YAML"),
        ("name: a\nname: b", "has 'name' twice"),
        ("name: &x a\nrules: *x", "anchors and aliases"),
        ("name: !!python/name:os.system x", "tags are not taken"),
        ("? [a]\n: b", "has a key that is no word"),
        ("[" * 3000, "is not YAML"),
        ("name: a\ncolour: red", "has 'colour', which is no setting"),
        ("name: a\nversion: 1", "has no rules"),
        ("name: a\nversion: 1\nrules: []", "is no list with something in it"),
    ],
)
def test_what_is_no_policy_is_refused(text, why):
    assert why in refused(text).why


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "one", "2147483648", "01"])
def test_a_version_is_a_whole_number(version):
    with pytest.raises(ConfigError, match="version"):
        read(source(version=version))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"where": "www.example.com"}, "is a domain, and rules are about addresses"),
        ({"where": "*.example.com"}, "is a domain, and rules are about addresses"),
        ({"where": "elsewhere"}, "is none of destinations"),
        ({"where": "198.51.100.7"}, "not ADDRESS/PREFIX-LENGTH"),
        ({"where": "anywhere", "way": "direct"}, "nothing goes there in clear"),
        ({"where": "10.0.0.0/8", "way": "direct"}, "nothing goes there in clear"),
        ({"where": "100.64.0.0/24", "way": "direct"}, "nothing goes there in clear"),
        ({"where": "2001:db8::/32", "way": "direct"}, "the wild side is IPv4"),
        ({"what": "tcp/0-65536"}, "no range of ports"),
        ({"what": "tcp/9-8"}, "no range of ports"),
        ({"what": "icmp/8"}, "is no traffic"),
        ({"what": "http"}, "is no traffic"),
        ({"who": {}}, "is nobody"),
        ({"who": "c0001"}, "is no mapping"),
        ({"who": {"groups": "sales"}}, "is none of groups"),
        ({"who": {"domains": "x"}}, "is no setting"),
        ({"name": 'a" drop'}, "is no name"),
        ({"action": "accept"}, "is 'accept'"),
        ({"action": "deny"}, "stands beside action: deny"),
        ({"way": "wild"}, "is 'wild'"),
        ({"comment": "x"}, "is no setting"),
    ],
)
def test_a_wrong_rule_is_refused(changes, why):
    assert why in refused_rule(**changes)


def test_no_two_rules_have_one_name():
    with pytest.raises(ConfigError, match="stands twice"):
        read(source(rules=[rule(), rule()]))


@pytest.mark.parametrize("name", ["anywhere", "internet", "a.b", "A", 'x" ; drop'])
def test_a_name_that_means_something_else_is_refused(name):
    with pytest.raises(ConfigError, match="no name for one"):
        read(source(destinations={name: ["198.51.100.0/24"]}))


@pytest.mark.parametrize("left", ["must-pass", "must-block"])
def test_what_is_opened_or_closed_is_shown_by_an_example(left):
    examples = {key: value for key, value in source()["examples"].items() if key != left}
    with pytest.raises(ConfigError, match="no example shows one at work"):
        read(source(examples=examples))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"to": "198.51.100.0/24"}, "does not appear to be"),
        ({"what": "tcp"}, "is no single port"),
        ({"what": "tcp/1-2"}, "is no single port"),
        ({"what": "any"}, "is no single port"),
        ({"way": "direct"}, "is no setting"),
    ],
)
def test_a_wrong_example_is_refused(changes, why):
    example = {"who": "everybody", "to": "198.51.100.7", "what": "tcp/25"} | changes
    with pytest.raises(ConfigError, match=why):
        read(source(examples=source()["examples"] | {"must-block": [example]}))


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_refused(text):
    with pytest.raises(ConfigError):
        read_policy(text, "policy.yml")


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "who", "where", "what", "action", "way", "to"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(source())), _junk)
def test_any_value_in_any_place_is_taken_or_refused(key, value):
    with contextlib.suppress(ConfigError):
        read(source(**{key: value}))
