"""From a policy to the rules for one box. Nothing is left of who: only what concerns this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moatvpn.policy.evaluate import Packet, evaluate
from moatvpn.policy.language import Example, Policy, SourceRule, Traffic, Who
from moatvpn.policy.rules import (
    MOST_NETWORKS,
    MOST_RULES,
    Compiled,
    Customer,
    Protocol,
    Rule,
    merged_networks,
    merged_ports,
)


def concerns(who: Who, customer: Customer) -> bool:
    """Return whether customer is one of who."""
    return who.everybody or customer.id in who.customers or customer.profile in who.profiles


def compile_policy(policy: Policy, customer: Customer) -> Compiled:
    """Return the rules for customer's moat, in the order of the source.

    Every example that concerns customer has been run against them. Raises ConfigError where one
    fails, naming it, and where there are more rules than a moat takes.
    """
    rules = tuple(
        compiled
        for rule in policy.rules
        if concerns(rule.who, customer)
        for compiled in _compile_rule(rule)
    )
    if len(rules) > MOST_RULES or sum(len(rule.networks) for rule in rules) > MOST_NETWORKS:
        why = f"makes more than {MOST_RULES} rules or {MOST_NETWORKS} networks for {customer.id}"
        raise policy.place.error(why, "Name fewer, or larger, networks")
    compiled = Compiled(
        name=policy.name,
        version=policy.version,
        customer=customer.id,
        identity=customer.identity,
        sources=(*merged_networks(customer.subnets, 4), *merged_networks(customer.subnets, 6)),
        rules=rules,
    )
    for example in examples_for(policy, customer):
        _run(example, compiled)
    return compiled


def compile_for_all(
    policy: Policy, customers: Iterable[Customer]
) -> tuple[tuple[Compiled, int], ...]:
    """Return the rules for each customer's moat, and how many examples they have been held to.

    Raises ConfigError as compile_policy does, and for an example that concerns nobody: it would
    hold whatever the rules say.
    """
    made = []
    idle = set(policy.examples)
    for customer in customers:
        examples = examples_for(policy, customer)
        idle.difference_update(examples)
        made.append((compile_policy(policy, customer), len(examples)))
    for example in policy.examples:
        if example in idle:
            raise example.place.error("concerns no customer", "Name whom it is about, or remove it")
    return tuple(made)


def examples_for(policy: Policy, customer: Customer) -> tuple[Example, ...]:
    """Return the examples that concern customer."""
    return tuple(example for example in policy.examples if concerns(example.who, customer))


def _run(example: Example, compiled: Compiled) -> None:
    """Hold an example against compiled rules; raise ConfigError where it fails."""
    source = next((n for n in compiled.sources if n.version == example.to.version), None)
    if source is None:
        why = f"is IPv{example.to.version}, which {compiled.customer} has no private subnet of"
        raise example.place.error(why, "Give an address of the other family")
    port = None if example.what.ports is None else example.what.ports[0]
    packet = Packet(source.network_address + 1, example.to, example.what.protocol, port)
    seen = evaluate(compiled, packet)
    if seen.verdict is not example.verdict:
        by = "no rule matches" if seen.rule is None else f"rule {seen.rule} decides"
        why = (
            f"expects {example.verdict} for {compiled.customer}, and the compiled rules say "
            f"{seen.verdict} ({by})"
        )
        raise example.place.error(why, "Mend the rules or the example; nothing was compiled")


def _compile_rule(rule: SourceRule) -> Iterator[Rule]:
    for version in (4, 6):
        networks = merged_networks(rule.where, version)
        if networks:
            for protocol, ports in _merged(rule.what):
                yield Rule(rule.name, rule.verdict, networks, protocol, ports)


def _merged(what: tuple[Traffic, ...]) -> Iterator[tuple[Protocol, tuple[tuple[int, int], ...]]]:
    """Yield each protocol once, with all its ports; any protocol makes the others superfluous."""
    protocols = {traffic.protocol for traffic in what}
    if Protocol.ANY in protocols:
        yield Protocol.ANY, ()
        return
    for protocol in Protocol:
        if protocol in protocols:
            ranges = [traffic.ports for traffic in what if traffic.protocol is protocol]
            given = [each for each in ranges if each is not None]
            # One that names no port is about all of them.
            yield protocol, merged_ports(given) if len(given) == len(ranges) else ()
