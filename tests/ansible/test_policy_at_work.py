"""A policy in force on a moat, asked of the kernel packet by packet. Needs root."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from inside import within
from namespaces import Wires
from policies import CUSTOMER, compiled, new_seal, signed, source

from moatvpn.cli import policy_box
from moatvpn.cli.moat_policy import main
from moatvpn.errors import OperatorError
from moatvpn.lockdown.homes import moat_box
from moatvpn.lockdown.ruleset import POLICY_FILES, ruleset
from moatvpn.policy.evaluate import Packet, evaluate
from moatvpn.policy.rules import Protocol

SEAL = new_seal()
HOME, HOME6 = "10.201.1.10", "fd00:c:1::10"
MEETING, ELSEWHERE = "198.51.100.7", "203.0.113.7"
MEETING6 = "2001:db8:77::7"
WILD = "192.0.2.10"
EVERYWHERE = [MEETING, ELSEWHERE, "198.51.100.200"]
_PATIENCE = 10.0
_BLOCKED = ("dropped_policy", "dropped_wild_input")
# What home sends by UDP: the policy's services, their neighbours, what is blocked, both families.
ASKED = [
    (MEETING, 443), (MEETING, 442), (MEETING, 3478), (MEETING, 3481), (MEETING, 3482),
    ("198.51.100.200", 443), (ELSEWHERE, 443), (MEETING, 25), (ELSEWHERE, 25),
    (MEETING6, 443), (MEETING6, 25),
]  # fmt: skip
RULES = [rule | {"what": "udp/25"} if rule["name"] == "no-mail" else rule
         for rule in source()["rules"]]  # fmt: skip
EXAMPLES = {
    "must-pass": [{"who": "everybody", "to": MEETING, "what": "udp/443", "way": "direct"}],
    "must-block": [{"who": "everybody", "to": ELSEWHERE, "what": "udp/25"}],
}


class Moat:
    """A moat between a home, the wild side and a tunnel; what it is told, and what it does."""

    def __init__(self, wires: Wires, directory: Path) -> None:
        self.wires = wires
        self.directory = directory
        self.lockdown = directory / "lockdown.nft"

    def run(self, *words: str) -> int:
        """Run moat-policy on the box, as root would; return its exit status."""
        known = ["--settings", str(self.directory), "--state", str(self.directory / "state")]
        with within(self.wires.box):
            return main([*words, *known, "--json"])

    def install(self, data: bytes) -> int:
        path = self.directory / "new.policy"
        path.write_bytes(data)
        return self.run("install", str(path))

    def nft(self, words: str) -> str:
        command = ["ip", "netns", "exec", self.wires.box, "nft", *words.split()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def blocked(self) -> int:
        """Return how many packets the policy has dropped, or the wild side's door has.

        What a new interface says by itself, in IPv6, is counted elsewhere.
        """
        listed = json.loads(self.nft("-j list counters table inet moat"))
        counters = [each["counter"] for each in listed["nftables"] if "counter" in each]
        return sum(c["packets"] for c in counters if c["name"] in _BLOCKED)

    def goes(self, to: str, port: int) -> tuple[str, str]:
        """Return where a datagram from home comes out, and under whose address."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        wires, sides = self.wires, {}
        with ExitStack() as opened:
            for side, namespace in (("direct", wires.wild), ("tunnel", wires.tunnel)):
                with within(namespace):
                    made = socket.socket(family, socket.SOCK_DGRAM)
                opened.enter_context(closing(made)).bind(("", port))
                sides[made] = side
            with within(wires.home):
                sender = opened.enter_context(closing(socket.socket(family, socket.SOCK_DGRAM)))
            before = self.blocked()
            sender.sendto(b"a question", (to, port))
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end:
                ready, _, _ = select.select(list(sides), [], [], 0.05)
                for each in ready:
                    return sides[each], each.recvfrom(100)[1][0]
                if self.blocked() > before:
                    return "deny", ""
        raise AssertionError(f"{to} {port}: went nowhere, and nobody counted it")


@pytest.fixture
def moat(tmp_path: Path) -> Iterator[Moat]:
    wires = Wires(f"pol{os.getpid() % 10_000}")
    try:
        hosts = [f"{address}/32" for address in EVERYWHERE]
        wires.wild = wires.neighbour("wild0", [f"{WILD}/24"], ["192.0.2.1/24", *hosts])
        wires.home = wires.neighbour(
            "home0", ["10.201.1.1/24", "fd00:c:1::1/64"], [f"{HOME}/24", f"{HOME6}/64"]
        )
        wires.tunnel = wires.neighbour(
            "moat0",
            ["10.50.0.1/24", "fd00:50::1/64"],
            ["10.50.0.10/24", "fd00:50::10/64", *hosts, f"{MEETING6}/128"],
        )
        _routes(wires)
        moat = Moat(wires, tmp_path)
        settings = {
            "wild_interface": "wild0", "private_interface": "home0",
            "private_subnet": "10.201.1.0/24", "private_subnet6": "fd00:c:1::/64",
        }  # fmt: skip
        text = ruleset(moat_box(settings, "moat")).replace(
            POLICY_FILES, f"{tmp_path}/policy.d/*.nft"
        )
        moat.lockdown.write_text(text)
        (tmp_path / "policy.pub").write_text(SEAL.public_text)
        record = {"identity": CUSTOMER.identity, "private_key": "/etc/moatvpn/identity.key"}
        (tmp_path / "moatd.json").write_text(json.dumps(record))
        wires.load(moat.lockdown)
        yield moat
    finally:
        wires.close()


def _routes(wires: Wires) -> None:
    """Route as the role has networkd do: home into the tunnel, what is marked by the main table."""
    for words in (
        "route add default via 192.0.2.1 dev wild0",
        "rule add fwmark 0x4d lookup main priority 3900",
        "rule add to 10.201.1.0/24 lookup main priority 4000",
        "rule add iif home0 lookup 4500 priority 4500",
        "route add default dev moat0 table 4500",
        "-6 rule add iif home0 lookup 4500 priority 4500",
        "-6 route add default dev moat0 table 4500",
    ):
        wires.run(wires.box, "ip", *words.split())


def policy(**changes: object) -> bytes:
    return signed(SEAL, **({"rules": RULES, "examples": EXAMPLES} | changes))


def test_the_kernel_does_what_the_compiled_rules_say(moat):
    assert {moat.goes(to, port)[0] for to, port in ASKED} == {"tunnel"}
    assert moat.install(policy()) == 0
    rules = compiled(rules=RULES, examples=EXAMPLES)
    seen = set()
    for to, port in ASKED:
        here = HOME6 if ":" in to else HOME
        packet = Packet(*map(ipaddress.ip_address, (here, to)), Protocol.UDP, port)
        where, whose = moat.goes(to, port)
        assert where == evaluate(rules, packet).verdict, (to, port)
        # In clear it is the box that speaks; in the tunnel, home itself.
        assert whose == {"direct": WILD, "tunnel": here, "deny": ""}[where]
        seen.add(where)
    assert seen == {"direct", "tunnel", "deny"}


def test_taking_a_policy_away_closes_the_direct_way_at_once(moat):
    assert moat.install(policy()) == 0
    with ExitStack() as opened:
        with within(moat.wires.wild):
            server = opened.enter_context(closing(socket.socket()))
        with within(moat.wires.home):
            client = opened.enter_context(closing(socket.socket()))
        server.bind((MEETING, 443))
        server.listen()
        client.settimeout(_PATIENCE)
        client.connect((MEETING, 443))
        accepted, (whose, _) = server.accept()
        opened.enter_context(closing(accepted)).settimeout(_PATIENCE)
        assert whose == WILD
        accepted.sendall(b"an answer")
        assert client.recv(100) == b"an answer"
        assert moat.run("remove") == 0
        before = moat.blocked()
        accepted.sendall(b"too late")
        end = time.monotonic() + _PATIENCE
        while moat.blocked() == before:
            assert time.monotonic() < end
            time.sleep(0.02)
        client.settimeout(0)
        with pytest.raises(BlockingIOError):
            client.recv(100)
    assert moat.goes(MEETING, 443) == ("tunnel", HOME)
    assert moat.run("remove") == 0  # again, which changes nothing


@contextmanager
def conversation(moat: Moat, *, answered: bool) -> Iterator[Callable[[], tuple[str, str]]]:
    """Give what sends the next datagram, and returns where it comes out and whose it is there."""
    sides = {}
    with ExitStack() as opened:
        for side, namespace in (("direct", moat.wires.wild), ("tunnel", moat.wires.tunnel)):
            with within(namespace):
                made = opened.enter_context(closing(socket.socket(type=socket.SOCK_DGRAM)))
            made.bind((MEETING, 443))
            sides[made] = side
        with within(moat.wires.home):
            sender = opened.enter_context(closing(socket.socket(type=socket.SOCK_DGRAM)))
        sender.settimeout(_PATIENCE)

        def ask() -> tuple[str, str]:
            sender.sendto(b"a word", (MEETING, 443))
            for each in select.select(list(sides), [], [], _PATIENCE)[0]:
                whose = each.recvfrom(100)[1]
                if answered:
                    each.sendto(b"an answer", whose)
                    assert sender.recv(100) == b"an answer"
                return sides[each], whose[0]
            return "nowhere", ""

        yield ask


@pytest.mark.parametrize("answered", [True, False])
def test_a_conversation_that_a_policy_sends_another_way_goes_on_there(moat, answered):
    with conversation(moat, answered=answered) as ask:
        assert ask() == ("tunnel", HOME)
        assert moat.install(policy()) == 0
        assert ask() == ("direct", WILD)
        assert moat.run("remove") == 0
        assert ask() == ("tunnel", HOME)


@pytest.mark.parametrize("answered", [True, False])
def test_nothing_leaves_under_homes_own_address(moat, monkeypatch, answered):
    # In the moment before the kernel has forgotten: a connection that is known has no translation.
    monkeypatch.setattr(policy_box, "forget", lambda networks: 0)
    with conversation(moat, answered=answered) as ask:
        assert ask() == ("tunnel", HOME)
        assert moat.install(policy()) == 0
        assert ask() == ("tunnel", HOME)


def in_force(moat, capsys):
    capsys.readouterr()
    assert moat.run("show") == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_refused_leaves_the_old_policy_in_force(moat, capsys):
    def said() -> str:
        return capsys.readouterr().err

    new = policy()
    assert moat.install(new) == 0
    assert moat.install(new) == 0
    state = in_force(moat, capsys)
    assert (state["version"], state["faults"]) == (7, [])
    other = replace(CUSTOMER, identity="moat2.example.net")
    another = [RULES[0], RULES[1] | {"what": "udp/443"}]
    for data, why in (
        (new.replace(b"A", b"B", 1), "not signed by"),
        (signed(new_seal()), "not signed by"),
        (signed(SEAL, other), "is for moat2.example.net"),
        (policy(version=6), "has had version 7"),
        (policy(rules=another), "another one"),
    ):
        assert moat.install(data) == 1
        assert why in said()
        assert in_force(moat, capsys) == state
        assert moat.goes(MEETING, 443)[0] == "direct"
    # Nor does what is older come back after a policy has been taken away.
    assert moat.run("remove") == 0
    assert moat.install(policy(version=6)) == 1
    assert moat.install(policy(version=8)) == 0
    assert in_force(moat, capsys)["version"] == 8


def _refuse_to_load(monkeypatch):
    """Have nft take the rules when it is asked, and refuse them when it comes to it."""
    real = policy_box._nft

    def nft(box, *words, given=""):
        if words[0] == "-f":
            raise OperatorError("policy", "was refused", "Test on")
        real(box, *words, given=given)

    monkeypatch.setattr(policy_box, "_nft", nft)


def test_what_nft_refuses_leaves_the_old_policy_in_force(moat, capsys, monkeypatch):
    assert moat.install(policy()) == 0
    state = in_force(moat, capsys)
    sound = moat.lockdown.read_text()
    for broken in (sound.replace("chain policy_mark", "chain elsewhere"), "", "nonsense\n" + sound):
        moat.lockdown.write_text(broken)
        assert moat.install(policy(version=9)) == 1
    moat.lockdown.write_text(sound)
    assert in_force(moat, capsys) == state
    _refuse_to_load(monkeypatch)
    assert moat.install(policy(version=9)) == 1
    monkeypatch.undo()
    assert in_force(moat, capsys) == state
    assert moat.goes(MEETING, 443)[0] == "direct"


def test_drift_is_seen_and_mended(moat, capsys):
    data = policy()
    assert moat.install(data) == 0
    fragment = moat.directory / "policy.d" / "50-policy.nft"
    before = fragment.read_bytes()
    fragment.write_bytes(before.replace(b"443", b"444"))
    moat.nft("flush chain inet moat policy_mark")
    faults = in_force(moat, capsys)["faults"]
    assert len(faults) == 2
    assert moat.install(data) == 0
    assert in_force(moat, capsys)["faults"] == []
    assert fragment.read_bytes() == before
    for line in (
        "insert rule inet moat policy_mark meta mark set 0x4d return",
        "add rule inet moat policy_mark meta mark set 0x4d return",
        "replace rule inet moat policy_mark handle {} udp dport 25 return",
    ):
        listed = json.loads(moat.nft("-j list chain inet moat policy_mark"))["nftables"]
        last = [each["rule"]["handle"] for each in listed if "rule" in each][-1]
        moat.nft(line.format(last))
        assert len(in_force(moat, capsys)["faults"]) == 1
        assert moat.install(data) == 0
        assert in_force(moat, capsys)["faults"] == []


def test_what_nft_lists_is_what_was_compiled(moat, capsys):
    rules = [
        {"where": ["internet"], "what": "any", "action": "allow", "way": "direct"},
        {"where": ["10.0.0.0/9", "10.128.0.0/9", "203.0.113.7/32"], "action": "allow",
         "what": ["icmp", "tcp", "udp/5-9", "udp/10", "udp/0"], "way": "tunnel"},
        {"where": "2001:db8::1/128", "what": ["tcp/1", "icmp"], "action": "deny"},
        {"where": "anywhere", "what": ["icmp", "tcp/5-9", "udp/1", "udp/7"], "action": "deny"},
        {"where": "anywhere", "what": "udp", "action": "deny"},
        {"where": "anywhere", "what": "any", "action": "deny"},
    ]  # fmt: skip
    named = [rule | {"name": f"r{n}", "who": "everybody"} for n, rule in enumerate(rules)]
    examples = {
        "must-pass": [{"who": "everybody", "to": ELSEWHERE, "what": "icmp", "way": "direct"}],
        "must-block": [{"who": "everybody", "to": "2001:db8::1", "what": "icmp"}],
    }
    assert moat.install(policy(rules=named, examples=examples)) == 0
    assert in_force(moat, capsys)["faults"] == []
    only4 = replace(CUSTOMER, subnets=CUSTOMER.subnets[:1])
    assert moat.install(signed(SEAL, only4, version=9, rules=RULES, examples=EXAMPLES)) == 0
    assert in_force(moat, capsys)["faults"] == []
