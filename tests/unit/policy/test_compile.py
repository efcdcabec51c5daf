"""Compiled rules say the same as the source, for everybody, of every packet."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import CUSTOMER, compiled, read, source

from moatvpn.errors import ConfigError
from moatvpn.policy.compile import compile_policy, examples_for
from moatvpn.policy.evaluate import Decision, Packet, evaluate
from moatvpn.policy.rules import NEVER_DIRECT, Customer, Protocol, Verdict

OTHER = replace(CUSTOMER, id="c0009", identity="moat9.example.net")


def packet(to, protocol=Protocol.TCP, port=None, **changes):
    address = ipaddress.ip_address(to)
    source = next(n for n in CUSTOMER.subnets if n.version == address.version)[9]
    return Packet(source, address, protocol, port, **changes)


def test_rules_are_merged_and_stay_in_order():
    rules = compiled().rules
    assert [(r.name, r.family, r.protocol, r.ports) for r in rules] == [
        ("no-mail", 4, "tcp", ((25, 25),)),
        ("no-mail", 6, "tcp", ((25, 25),)),
        ("meetings", 4, "tcp", ((80, 80), (443, 443))),
        ("meetings", 4, "udp", ((443, 443), (3478, 3481))),
    ]


def test_a_rule_for_others_is_left_out():
    examples = {"must-block": source()["examples"]["must-block"]} | {
        "must-pass": source()["examples"]["must-pass"]
    }
    rules = compiled(OTHER, examples=examples).rules
    assert {rule.name for rule in rules} == {"no-mail"}


@pytest.mark.parametrize(
    ("of", "decision"),
    [
        (packet("198.51.100.7", port=443), Decision(Verdict.DIRECT, "meetings")),
        (packet("198.51.100.7", port=25), Decision(Verdict.DENY, "no-mail")),
        (packet("2001:db8:77::7", port=25), Decision(Verdict.DENY, "no-mail")),
        (packet("2001:db8:77::7", port=443), Decision(Verdict.TUNNEL)),
        (packet("198.51.100.200", port=443), Decision(Verdict.TUNNEL)),
        (packet("198.51.100.7", Protocol.UDP, 3480), Decision(Verdict.DIRECT, "meetings")),
        (packet("198.51.100.7", Protocol.ICMP), Decision(Verdict.TUNNEL)),
        (packet("198.51.100.7", port=443, from_private=False), Decision(Verdict.TUNNEL)),
        (packet("198.51.100.7", port=443, to_box=True), Decision(Verdict.TUNNEL)),
        (
            replace(packet("198.51.100.7", port=443), source=ipaddress.ip_address("10.201.2.9")),
            Decision(Verdict.TUNNEL),
        ),
    ],
)
def test_the_first_rule_that_matches_decides(of, decision):
    assert evaluate(compiled(), of) == decision


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("must-block", {"to": "198.51.100.7", "what": "tcp/443"}),
        ("must-pass", {"to": "198.51.100.7", "what": "tcp/443", "way": "tunnel"}),
        ("must-pass", {"to": "203.0.113.1", "what": "icmp", "way": "direct"}),
        ("must-pass", {"to": "203.0.113.1", "what": "tcp/25", "way": "tunnel"}),
    ],
)
def test_nothing_is_compiled_where_an_example_fails(where, wrong):
    examples = source()["examples"]
    examples[where].append({"who": {"customers": "c0001"}} | wrong)
    policy = read(source(examples=examples))
    with pytest.raises(ConfigError, match="nothing was compiled") as caught:
        compile_policy(policy, CUSTOMER)
    assert caught.value.what.startswith("policy.yml:")
    compile_policy(policy, OTHER)  # whom that example is not about


def test_an_example_is_for_whom_it_names():
    policy = read(source())
    assert len(examples_for(policy, CUSTOMER)) == 3
    assert len(examples_for(policy, OTHER)) == 2


def test_an_example_in_a_family_that_the_home_has_not_is_refused():
    examples = source()["examples"]
    examples["must-block"].append({"who": "everybody", "to": "2001:db8::1", "what": "tcp/25"})
    only4 = replace(CUSTOMER, subnets=CUSTOMER.subnets[:1])
    with pytest.raises(ConfigError, match="no private subnet"):
        compiled(only4, examples=examples)


# Few values, so that rules and packets meet often.
_people = st.sampled_from(["c0001", "c0002", "c0003"])
_profiles = st.sampled_from(["default", "strict"])
_who = st.just("everybody") | st.fixed_dictionaries(
    {}, optional={
        "customers": st.lists(_people, min_size=1, max_size=2),
        "groups": st.lists(st.sampled_from(["engineers", "sales"]), min_size=1, max_size=2),
        "profiles": st.lists(_profiles, min_size=1, max_size=2),
    },
).filter(bool)  # fmt: skip
_networks = st.sampled_from(
    ["198.51.100.0/25", "198.51.100.64/26", "198.51.0.0/16", "203.0.113.0/24", "2001:db8:77::/48"]
)
_where = st.lists(_networks | st.sampled_from(["meetings", "anywhere", "internet"]), min_size=1,
                  max_size=3)  # fmt: skip
_what = st.lists(
    st.sampled_from(
        ["tcp/80", "tcp/80-443", "tcp/443", "tcp", "udp/80-90", "udp", "icmp", "any", "web"]
    ),
    min_size=1,
    max_size=3,
)
_then = st.sampled_from([("deny", None), ("allow", "direct"), ("allow", "tunnel")])
_packets = st.builds(
    packet,
    st.sampled_from(["198.51.100.7", "198.51.100.70", "198.51.7.7", "203.0.113.1", "10.9.9.9",
                     "2001:db8:77::7", "2001:db8:78::7"]),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
    st.sampled_from([79, 80, 81, 443, 444]),
) | st.builds(
    packet,
    st.sampled_from(["198.51.100.7", "203.0.113.1", "2001:db8:77::7"]),
    st.sampled_from([Protocol.ICMP, Protocol.ANY]),
)  # fmt: skip
_customers = st.builds(lambda i, p: replace(CUSTOMER, id=i, profile=p), _people, _profiles)
GROUPS = {"engineers": ["c0001"], "sales": ["c0002", "c0003"]}
DESTINATIONS = {"meetings": ["198.51.100.0/25", "2001:db8:77::/48"]}
SERVICES = {"web": ["tcp/80", "udp/443"]}


@st.composite
def rules(draw):
    made = []
    for number in range(draw(st.integers(1, 5))):
        action, way = draw(_then)
        rule = {"name": f"r{number}", "who": draw(_who), "where": draw(_where)}
        rule |= {"what": draw(_what), "action": action}
        if way == "direct":
            rule["where"] = [w for w in rule["where"] if w != "anywhere" and ":" not in w]
            rule["where"] = rule["where"] or ["internet"]
        made.append(rule | ({"way": way} if way else {}))
    return made


def reference(rules, customer: Customer, packet: Packet) -> str:
    """Read the source as a person would, rule by rule and word by word."""
    for rule in rules:
        direct = rule.get("way") == "direct"
        if (
            meant(rule["who"], customer)
            and not (direct and packet.destination.version == 6)
            and any(goes(word, packet.destination) for word in rule["where"])
            and any(carries(word, packet) for word in rule["what"])
        ):
            return rule.get("way", "deny")
    return "tunnel"


def meant(who, customer):
    if who == "everybody":
        return True
    people = set(who.get("customers", ()))
    for group in who.get("groups", ()):
        people.update(GROUPS[group])
    return customer.id in people or customer.profile in who.get("profiles", ())


def goes(word, address):
    if word == "anywhere":
        return True
    if word == "internet":
        if address.version == 6:
            return address in ipaddress.ip_network("2000::/3")
        return not any(address in never for never in NEVER_DIRECT)
    return any(address in ipaddress.ip_network(text) for text in DESTINATIONS.get(word, [word]))


def carries(word, packet):
    if word in SERVICES:
        return any(carries(each, packet) for each in SERVICES[word])
    protocol, _, ports = word.partition("/")
    if protocol == "any":
        return True
    if protocol != packet.protocol:
        return False
    first, _, last = ports.partition("-")
    return not ports or int(first) <= packet.port <= int(last or first)


def compile_for(rules, customer):
    content = source(
        rules=[dict(rule) for rule in rules],
        groups=GROUPS,
        destinations=DESTINATIONS,
        services=SERVICES,
    )
    # Examples that show each verdict, and concern nobody here.
    nobody = {"who": {"customers": "nobody"}, "to": "198.51.100.7", "what": "tcp/25"}
    content["examples"] = {"must-pass": [nobody | {"way": "direct"}], "must-block": [nobody]}
    return compile_policy(read(content), customer)


@given(rules(), _customers, st.lists(_packets, min_size=1, max_size=8))
def test_compiled_rules_say_what_the_source_says(rules, customer, packets):
    made = compile_for(rules, customer)
    for each in packets:
        assert evaluate(made, each).verdict == reference(rules, customer, each)


@given(rules(), _customers, _packets)
def test_no_rule_matches_what_is_not_from_the_boxs_own_private_side(rules, customer, of):
    made = compile_for(rules, customer)
    foreign = "10.201.2.9" if of.source.version == 4 else "fd00:c:2::9"
    for other in (
        replace(of, from_private=False),
        replace(of, to_box=True),
        replace(of, source=ipaddress.ip_address(foreign)),
    ):
        assert evaluate(made, other) == Decision(Verdict.TUNNEL)


@given(rules(), _customers, st.ip_addresses())
def test_nothing_goes_in_clear_to_where_no_stranger_lives(rules, customer, to):
    made = compile_for(rules, customer)
    for port in (80, 443):
        if evaluate(made, packet(str(to).partition("%")[0], port=port)).verdict == "direct":
            assert to.version == 4
            assert not any(to in never for never in NEVER_DIRECT)
