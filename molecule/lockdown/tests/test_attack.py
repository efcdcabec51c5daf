"""What an attacker on the wild side sends is dropped, each kind counted under its reason."""

from __future__ import annotations

import re
from collections.abc import Callable

import forge
import lab
import pcap
import pytest
import watching
from testinfra.host import Host
from watching import watch

COPIES = 20
MARKER = b"forged-marker-77"
GATEWAY = "192.0.2.1"
# Many of them, each from somebody else: more would only take longer.
FLOOD = 4000
_IPV6_IN_IPV4 = 41  # a protocol
SPI = 1000  # of nobody's SA, but no reserved one


def counted(moat: Host, reason: str, number: int, do: Callable[[], object]) -> None:
    """Hold that doing something makes the moat's ruleset drop so many packets for the reason."""
    before = lab.dropped(moat)[reason]
    do()
    lab.wait_for(lambda: lab.dropped(moat)[reason] - before >= number, f"{number} of {reason}", 10)


def frames_to_moat(packets: list[bytes], ethertype: int = pcap.ETHERTYPE_IPV4) -> list[bytes]:
    """Return the frames that bring packets to the moat, whatever routes there are."""
    return [forge.ethernet(watching.ATTACKER, watching.MOAT, ethertype, p) for p in packets]


def refused(moat: Host, reason: str, packets: list[bytes], ethertype: int = 0x0800) -> None:
    """Send packets to the moat; each is dropped for the reason, and nothing comes of any."""
    frames = frames_to_moat(packets, ethertype)
    with lab.capture("pc", "home0") as inside, watch():
        counted(moat, reason, len(frames), lambda: forge.send_frames(frames))
    assert MARKER not in inside.raw


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("scan", "nothing"), [("-sS", "filtered"), ("-sU", "open|filtered")])
def test_no_port_of_the_moat_answers(attacker: Host, moat: Host, scan: str, nothing: str) -> None:
    command = "nmap -n -Pn %s -p- --max-retries 1 --min-rate 10000 -oG - %s"
    before = lab.dropped(moat)["dropped_wild_input"]
    output = attacker.check_output(command, scan, lab.wild_address(moat))
    assert f"Ignored State: {nothing} (65535)" in output, output
    # All but those of IKE and DHCP, each of which moatd or networkd looks at.
    assert lab.dropped(moat)["dropped_wild_input"] - before >= 65535 - 3


def test_the_moat_answers_no_ping(attacker: Host, moat: Host) -> None:
    address = lab.wild_address(moat)
    counted(moat, "dropped_wild_input", 1, lambda: attacker.run("ping -c 1 -W 1 %s", address))
    assert not lab.reaches(attacker, address)


@pytest.mark.parametrize(
    ("reason", "sources"),
    [
        ("dropped_wild_to_private", [lab.ATTACKER, lab.CORP, lab.WEB, lab.PORTAL_WILD]),
        ("dropped_spoofed", [lab.PC, lab.MOAT, "192.0.2.10"]),
        ("dropped_bogon", ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255"]),
    ],
)
def test_packets_to_the_pc_from_a_forged_source(
    moat: Host, reason: str, sources: list[str]
) -> None:
    packets = [
        packet
        for source in sources
        for packet in (
            forge.udp(source, lab.PC, (53, 7004), MARKER),
            forge.icmp(source, lab.PC, 8, 0, bytes(4) + MARKER),
            forge.tcp_syn(source, lab.PC, (53, 7004), MARKER),
        )
    ]
    refused(moat, reason, packets * 5)


def test_the_moats_inside_address_cannot_be_reached_from_the_wild_side(moat: Host) -> None:
    packets = [forge.udp(lab.ATTACKER, lab.MOAT, (53, port), MARKER) for port in (22, 53, 67, 123)]
    refused(moat, "dropped_foreign_address", packets * 5)


def test_ipv6_from_the_wild_side(moat: Host) -> None:
    packet = forge.ipv6(pcap.UDP, "2001:db8::66", lab.PC6, forge.udp_datagram((53, 53), MARKER))
    refused(moat, "dropped_wild_ipv6", [packet] * COPIES, pcap.ETHERTYPE_IPV6)


def test_source_routes(moat: Host) -> None:
    """Packets for the moat that ask to be sent on to the pc (RFC 791, 3.1: loose and strict)."""
    address = lab.wild_address(moat)
    via = bytes(int(part) for part in lab.PC.split("."))
    packets = [
        forge.ipv4(
            pcap.UDP,
            lab.ATTACKER,
            address,
            forge.udp_datagram((500, 500), MARKER),
            options=bytes((option, 7, 4)) + via + b"\x01",
        )
        for option in (131, 137)
    ]
    refused(moat, "dropped_source_route", packets * COPIES)


def test_redirects(moat: Host) -> None:
    """The gateway, as it seems, tells of a better way to the portal: by way of the attacker."""
    address = lab.wild_address(moat)
    original = forge.esp(address, lab.PORTAL_WILD, SPI.to_bytes(4, "big") + bytes(4))
    better = bytes(int(part) for part in lab.ATTACKER.split("."))
    packet = forge.icmp(GATEWAY, address, 5, 1, better + original)
    way = f"ip route get {lab.PORTAL_WILD}"
    before = re.findall(r"via \S+", moat.check_output(way))
    refused(moat, "dropped_redirect", [packet] * COPIES)
    assert re.findall(r"via \S+", moat.check_output(way)) == before == [f"via {GATEWAY}"]


def test_fragments_that_hide_what_they_carry(moat: Host) -> None:
    """Pieces of what the wild side may not send at all, and pieces too small to be honest."""
    address = lab.wild_address(moat)
    strange = [
        forge.ipv4(
            _IPV6_IN_IPV4, lab.ATTACKER, address, bytes(512), part=(n + 1, place, place == 0)
        )
        for n in range(COPIES)
        for place in (0, 512)
    ]
    tiny = [
        forge.ipv4(pcap.UDP, lab.ATTACKER, address, MARKER, part=(n + 100, 0, True))
        for n in range(COPIES)
    ]
    refused(moat, "dropped_fragment", strange + tiny)


def test_fragments_that_overlap(moat: Host) -> None:
    """The kernel throws the whole packet away, and counts it."""
    address = lab.wild_address(moat)
    message = forge.udp_datagram((500, 500), bytes(1016))

    def overlapping(number: int) -> list[bytes]:
        pieces = ((0, 512, True), (256, 1024, False))
        return [
            forge.ipv4(
                pcap.UDP, lab.ATTACKER, address, message[start:end], part=(number, start, more)
            )
            for start, end, more in pieces
        ]

    packets = [packet for number in range(1, 1 + COPIES) for packet in overlapping(number)]

    def overlaps() -> int:
        return int(
            moat.check_output("nstat --noupdate --zeros --reset IpReasmFails | tail -1").split()[1]
        )

    before = overlaps()
    with watch():
        forge.send_frames(frames_to_moat(packets))
        lab.wait_for(lambda: overlaps() - before >= COPIES, "packets with overlaps", 10)


def test_a_flood_from_everywhere_fills_no_table(pc: Host, moat: Host) -> None:
    """Envelopes and IKE from thousands of sources leave no trace in the connection table."""
    address = lab.wild_address(moat)
    spi = SPI.to_bytes(4, "big")
    sources = [f"203.{n >> 8}.{n & 255}.66" for n in range(FLOOD)]
    envelopes = [forge.esp(source, address, spi + bytes(60)) for source in sources]
    messages = [forge.udp(source, address, (500, 500), bytes(60)) for source in sources]

    def entries() -> int:
        return int(moat.check_output("cat /proc/sys/net/netfilter/nf_conntrack_count"))

    def refused_envelopes() -> int:
        return lab.drops(moat).get("esp-unknown-spi", 0)  # absent until the first

    pc.run_expect([0], "systemctl stop lab-chatter")  # which has many connections of its own
    try:
        before, known = entries(), refused_envelopes()
        forge.send_frames(frames_to_moat(envelopes + messages), pause=0.0005)
        lab.wait_for(lambda: refused_envelopes() - known >= FLOOD * 0.9, "the envelopes", 20)
        assert entries() - before < FLOOD // 20
        lab.wait_for_tunnel(5)
    finally:
        pc.run_expect([0], "systemctl start lab-chatter")
