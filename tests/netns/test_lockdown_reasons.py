"""What is dropped is counted under the name of what it was, and what belongs to us still passes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from boxes import wait_for
from lockdown_boxes import KID, further, moat
from offload_packets import words_sum
from zone_packets import MARKER, Probe, header, packet, reply, whole
from zone_star import Star

from moatvpn.lockdown.readback import differences
from moatvpn.lockdown.ruleset import MOST_KID_CONNECTIONS
from moatvpn.lockdown.zones import LOCAL, Zone

BOX = moat(vpns=[further(1)], **KID)
ZONES = {zone.name: zone for zone in BOX.everywhere}
WILD, PRIVATE, TUNNEL, KIDS = (ZONES[name] for name in ("wild", "private", "tunnel", "kid"))
OURS, THEIRS = "192.0.2.10", "198.51.100.10"  # on the wild side
HOME, HOME6 = "10.201.1.10", "fd00:201:1::10"
CHILD = "192.168.77.10"
UDP, UDP6, TCP, PING = (
    Probe(4, "udp", 7001),
    Probe(6, "udp", 7001),
    Probe(4, "tcp", 443),
    Probe(4, "icmp"),
)
IKE = Probe(4, "udp", 500)
COPIES = 3


@pytest.fixture(scope="module")
def cables() -> Iterator[Star]:
    made = Star(BOX, f"r{os.getpid() % 100_000}")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def star(cables: Star) -> Star:
    cables.load(BOX)
    cables.arrived(0.05)
    return cables


def icmp(source: str, destination: str, kind: int, code: int, rest: bytes, about: bytes) -> bytes:
    """Return an ICMP message about a packet."""
    body = bytes((kind, code, 0, 0)) + rest + about
    body = body[:2] + struct.pack("!H", 0xFFFF - words_sum(body)) + body[4:]
    return whole(source, destination, 1, body)


def icmp6(source: str, destination: str, kind: int) -> bytes:
    body = bytes((kind, 0, 0, 0)) + bytes(20) + MARKER + bytes(4)
    addresses = ip_address(source).packed + ip_address(destination).packed
    total = words_sum(addresses + struct.pack("!II", len(body), 58) + body)
    return whole(source, destination, 58, body[:2] + struct.pack("!H", 0xFFFF - total) + body[4:])


def routed(number: int) -> bytes:
    """A packet that names its own way (RFC 791, 3.1): option 131 is loose, 137 strict."""
    options = bytes((number, 7, 4)) + ip_address(HOME).packed + b"\x00"
    body = packet(UDP, THEIRS, OURS, 1)[20:]
    return whole(THEIRS, OURS, 17, body, options=options)


def routed6() -> bytes:
    addresses = ip_address(HOME6).packed + ip_address("fd00:50::10").packed
    way = bytes((17, 2, 0, 1)) + bytes(4) + ip_address("fd00:50::11").packed
    return (
        header(6, 43, addresses, len(way) + 19) + way + packet(UDP6, HOME6, "fd00:50::10", 1)[40:]
    )


BODY = bytes(24) + MARKER + bytes(4)
MORE = 0x2000  # fragments
# Whose neighbour sends what, and the counter that names it.
REFUSED: dict[str, tuple[Zone, bytes, str]] = {
    "a source of the private side, from outside": (
        WILD,
        packet(IKE, HOME, OURS, 1),
        "dropped_spoofed",
    ),
    "our own address, from outside": (WILD, packet(IKE, OURS, OURS, 1), "dropped_spoofed"),
    "a source of the kid-net, from outside": (WILD, packet(IKE, CHILD, OURS, 1), "dropped_spoofed"),
    "a source of the private side, from a tunnel": (
        TUNNEL,
        packet(UDP, HOME, HOME, 1),
        "dropped_spoofed",
    ),
    "a source of the private side, from the kid-net": (
        KIDS,
        packet(UDP, HOME, THEIRS, 1),
        "dropped_spoofed",
    ),
    "a source from outside, from the private side": (
        PRIVATE,
        packet(UDP, THEIRS, "10.50.0.10", 1),
        "dropped_spoofed",
    ),
    "a source of another VPN": (
        PRIVATE,
        packet(UDP, "10.211.1.10", "10.50.0.10", 1),
        "dropped_spoofed",
    ),
    "a source from outside, by IPv6": (
        PRIVATE,
        packet(UDP6, "fd00:f::10", "fd00:50::10", 1),
        "dropped_spoofed",
    ),
    "loopback from outside": (WILD, packet(IKE, "127.0.0.1", OURS, 1), "dropped_bogon"),
    "this network, from outside": (WILD, packet(IKE, "0.1.2.3", OURS, 1), "dropped_bogon"),
    "multicast as a source": (WILD, packet(IKE, "224.0.0.1", OURS, 1), "dropped_bogon"),
    "a reserved source": (WILD, packet(IKE, "250.1.1.1", OURS, 1), "dropped_bogon"),
    "a loose source route": (WILD, routed(131), "dropped_source_route"),
    "a strict source route": (WILD, routed(137), "dropped_source_route"),
    "a routing header": (PRIVATE, routed6(), "dropped_source_route"),
    "a redirect from outside": (WILD, icmp(THEIRS, OURS, 5, 1, bytes(4), BODY), "dropped_redirect"),
    "a redirect from the private side": (
        PRIVATE,
        icmp(HOME, "10.201.1.1", 5, 1, bytes(4), BODY),
        "dropped_redirect",
    ),
    "a redirect by IPv6": (PRIVATE, icmp6("fe80::9", "fd00:201:1::1", 137), "dropped_redirect"),
    "a router advertisement from outside": (
        WILD,
        icmp6("fe80::9", "ff02::1", 134),
        "dropped_router_advert",
    ),
    "a router advertisement from the private side": (
        PRIVATE,
        icmp6("fe80::9", "ff02::1", 134),
        "dropped_router_advert",
    ),
    "a piece of nothing that is spoken": (
        WILD,
        whole(THEIRS, OURS, 47, BODY, fragment=MORE),
        "dropped_fragment",
    ),
    "a tiny piece": (
        WILD,
        whole(THEIRS, OURS, 17, bytes(8) + MARKER, fragment=MORE),
        "dropped_fragment",
    ),
    "IPv6 from outside": (WILD, packet(UDP6, "fd00:f::10", "fd00:f::1", 1), "dropped_wild_ipv6"),
    "IPv6 from the kid-net": (
        KIDS,
        packet(UDP6, "fd00:77::10", "fd00:f::10", 1),
        "dropped_kid_ipv6",
    ),
    "a port that nobody offers outside": (WILD, packet(TCP, THEIRS, OURS, 1), "dropped_wild_input"),
    "a ping from outside": (WILD, packet(PING, THEIRS, OURS, 1), "dropped_wild_input"),
    "an error about nothing of ours": (
        WILD,
        icmp(THEIRS, OURS, 3, 4, bytes(4), packet(UDP, OURS, THEIRS, 1)),
        "dropped_wild_input",
    ),
    "a claim on the private side": (WILD, packet(UDP, THEIRS, HOME, 1), "dropped_wild_to_private"),
    "a claim on the kid-net": (WILD, packet(TCP, THEIRS, CHILD, 1), "dropped_wild_to_kid"),
    "a child's way to the private side": (
        KIDS,
        packet(TCP, CHILD, HOME, 1),
        "dropped_kid_to_private",
    ),
    "a child's way into the tunnel": (
        KIDS,
        packet(UDP, CHILD, "10.50.0.10", 1),
        "dropped_kid_to_tunnel",
    ),
    "a child's ssh": (
        KIDS,
        packet(Probe(4, "tcp", 22), CHILD, "192.168.77.1", 1),
        "dropped_kid_input",
    ),
    "a child at the address of the private side": (
        KIDS,
        packet(PING, CHILD, "10.201.1.1", 1),
        "dropped_foreign_address",
    ),
    "a child at the address of the wild side": (
        KIDS,
        packet(PING, CHILD, OURS, 1),
        "dropped_foreign_address",
    ),
    "the private side of one VPN to another's": (
        PRIVATE,
        packet(UDP, HOME, "10.211.1.10", 1),
        "dropped_private_to_private",
    ),
    "a tunnel at another's private side": (
        TUNNEL,
        packet(UDP, "10.50.0.10", "10.211.1.10", 1),
        "dropped_tunnel_to_private",
    ),
    "the private side to the wild one": (
        PRIVATE,
        packet(UDP, HOME, THEIRS, 1),
        "dropped_private_to_wild",
    ),
    "the box itself to anywhere outside": (
        LOCAL,
        packet(TCP, OURS, THEIRS, 1),
        "dropped_wild_output",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_dropped_and_counted_under_its_name(star: Star, what: str) -> None:
    zone, refused, reason = REFUSED[what]
    for _ in range(COPIES):
        star.send(zone, refused)
    wait_for(lambda: star.dropped().get(reason, 0) >= COPIES, f"{what} in {reason}", 2)
    # The box's own kernel says a word now and then, of which neighbours it has.
    counts = star.dropped().items()
    others = {n: count for n, count in counts if n != reason and not n.endswith("_output")}
    assert max(others.values(), default=0) < COPIES, others
    assert star.arrived(0.05) == {}


DISCOVER = packet(Probe(4, "udp", 67), "0.0.0.0", "255.255.255.255", 1, sport=68)
NEEDED: dict[str, tuple[Zone, bytes]] = {
    "who has no address asks for one": (PRIVATE, DISCOVER),
    "a child without an address asks for one": (KIDS, DISCOVER),
    "a child asks for a name": (KIDS, packet(Probe(4, "udp", 53), CHILD, "192.168.77.1", 1)),
    "a neighbour asks who has our address": (PRIVATE, icmp6(HOME6, "ff02::1:ff00:1", 135)),
    "a neighbour asks by its link-local address": (
        PRIVATE,
        icmp6("fe80::9", "ff02::1:ff00:1", 135),
    ),
    "a neighbour asks whether its own is taken": (PRIVATE, icmp6("::", "ff02::1:ff00:1", 135)),
    "a neighbour answers": (PRIVATE, icmp6(HOME6, "fd00:201:1::1", 136)),
    "a neighbour asks for routers": (PRIVATE, icmp6("fe80::9", "ff02::2", 133)),
}


@pytest.mark.parametrize("what", NEEDED)
def test_what_a_home_needs_comes_in(star: Star, what: str) -> None:
    zone, needed = NEEDED[what]
    assert star.through(zone, needed, LOCAL)


def test_a_child_is_answered_and_nobody_else_gets_in(star: Star) -> None:
    out = star.through(KIDS, packet(UDP, CHILD, THEIRS, 1), WILD)
    assert str(ip_address(out[12:16])) == OURS  # under the box's address, above its own ports
    assert int.from_bytes(out[20:22], "big") >= 10_000
    back = star.through(WILD, reply(out), KIDS)
    assert str(ip_address(back[16:20])) == CHILD
    other = reply(out)[:12] + ip_address("198.51.100.11").packed + reply(out)[16:]
    assert star.stopped(WILD, other)


@pytest.mark.parametrize(("kind", "code"), [(3, 4), (11, 0)])
def test_errors_about_a_childs_packet_reach_it(star: Star, kind: int, code: int) -> None:
    out = star.through(KIDS, packet(UDP, CHILD, THEIRS, 1), WILD)
    rest = struct.pack("!HH", 0, 1280) if kind == 3 else bytes(4)
    back = star.through(WILD, icmp("198.51.100.11", OURS, kind, code, rest, out), KIDS)
    assert str(ip_address(back[16:20])) == CHILD


def test_a_policy_lets_out_what_it_marks_and_nothing_else(star: Star) -> None:
    star.nft("add rule inet moat policy_mark udp dport 7001 meta mark set 0x4d")
    assert differences(BOX, star.listing()) == []  # a policy's rules are its own
    out = star.through(PRIVATE, packet(UDP, HOME, THEIRS, 1), WILD)
    assert str(ip_address(out[12:16])) == OURS
    back = star.through(WILD, reply(out), PRIVATE)
    assert str(ip_address(back[16:20])) == HOME
    assert star.stopped(PRIVATE, packet(TCP, HOME, THEIRS, 2))
    star.nft("flush chain inet moat policy_mark")
    assert star.stopped(PRIVATE, packet(UDP, HOME, THEIRS, 1))


def test_pieces_of_ike_are_put_together(star: Star) -> None:
    message = packet(IKE, THEIRS, OURS, 1)[20:26] + bytes(2) + bytes(600) + MARKER + bytes(4)
    message = message[:4] + struct.pack("!H", len(message)) + message[6:]
    star.send(WILD, whole(THEIRS, OURS, 17, message[:400], fragment=MORE))
    star.send(WILD, whole(THEIRS, OURS, 17, message[400:], fragment=400 // 8))
    seen: list[bytes] = []

    def came() -> bool:
        seen.extend(data[20:] for data in star.arrived(0.05).get("lo", []))
        return bool(seen)

    wait_for(came, "the pieces", 2)
    assert seen == [message]


def test_envelopes_and_ike_fill_no_table_of_connections(star: Star) -> None:
    for n in range(200):
        source = f"198.51.100.{20 + n}"
        star.send(WILD, packet(IKE, source, OURS, n))
        star.send(WILD, packet(Probe(4, "esp"), source, OURS, n))
    seen: list[bytes] = []

    def came() -> bool:
        seen.extend(star.arrived(0.05).get("lo", []))
        return len(seen) == 400

    wait_for(came, "envelopes and IKE", 3)
    assert star.connections() < 50


def test_a_child_cannot_fill_the_table_of_connections(star: Star) -> None:
    star.load(moat(kid={"interface": "kid0", "subnet": "192.168.77.0/24"}))
    beyond = 200
    for n in range(MOST_KID_CONNECTIONS + beyond):
        star.send(KIDS, packet(Probe(4, "udp", 1024 + n), CHILD, THEIRS, n))
    wait_for(lambda: star.dropped().get("dropped_kid_connections", 0) >= beyond - 50, "drops", 5)
    assert star.connections() <= MOST_KID_CONNECTIONS + 50
    star.arrived(0.05)
    # Nobody else is concerned.
    assert star.through(PRIVATE, packet(UDP, HOME, "10.50.0.10", 1), TUNNEL)
    star.forget()


def test_a_child_has_its_share_and_no_more(star: Star) -> None:
    share = 64  # kbit/s, which a slow machine reaches as well
    star.load(moat(kid={"interface": "kid0", "subnet": "192.168.77.0/24", "rate": share}))
    datagram = struct.pack("!HHHH", 5000, 7001, 1008, 0) + bytes(1000)
    for _ in range(100):
        star.send(KIDS, whole(CHILD, THEIRS, 17, datagram))
    wait_for(lambda: star.dropped().get("dropped_kid_share", 0) >= 30, "drops", 2)
    # Nobody else is concerned.
    assert star.through(PRIVATE, packet(UDP, HOME, "10.50.0.10", 1), TUNNEL)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("add rule inet moat private_to_local tcp dport 80 accept", "private_to_local is besides"),
        ("insert rule inet moat kid_to_private accept", "kid_to_private is besides"),
        ("flush chain inet moat private_to_tunnel", "private_to_tunnel is missing"),
        ("flush chain inet moat from_wild", "from_wild is missing"),
        (
            "add chain inet moat forward { policy accept; }",
            "The chain forward is filter forward 0 accept",
        ),
        (
            "add chain inet moat extra { type filter hook input priority -10; }",
            "The chain extra is not ours",
        ),
        ("delete table inet moat; add table inet moat", "The chain input is missing"),
    ],
)
def test_a_changed_ruleset_is_found_by_reading_it_back(star: Star, change: str, found: str) -> None:
    star.nft(change)
    assert [each for each in differences(BOX, star.listing()) if found in each] != []


def test_every_single_rule_is_missed_when_it_is_gone(star: Star) -> None:
    rules = [each["rule"] for each in star.listing()["nftables"] if "rule" in each]
    listing = star.listing()
    for rule in rules:
        without = [each for each in listing["nftables"] if each.get("rule") != rule]
        assert differences(BOX, {"nftables": without}) != [], rule
