"""Garbage, replayed and altered ESP and IKE are refused, and counted, and the tunnel goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import forge
import lab
import pcap
import pytest
from testinfra.host import Host

COPIES = 20
SK = 46  # first payload of a protected message that is no fragment
RESPONSE_FLAG = 0x20  # of an IKE header (RFC 7296, 3.1)


@dataclass(frozen=True)
class Target:
    """A box, where it is on the wild side, and whom it takes for its peer."""

    host: Host
    address: str
    peer: str

    def spi(self) -> bytes:
        """The SPI of the inbound SA, as it stands in an envelope."""
        value = lab.connection(self.host)["spi_in"]
        return int(str(value), 0).to_bytes(4, "big")


@pytest.fixture(params=lab.BOXES)
def target(request: pytest.FixtureRequest) -> Target:
    moat = lab.wild_address(lab.host("moat"))
    ends = {"moat": (moat, lab.PORTAL_WILD), "portal": (lab.PORTAL_WILD, moat)}
    return Target(lab.host(request.param), *ends[request.param])


@contextmanager
def undisturbed(pc: Host) -> Iterator[None]:
    """The same SAs carry a ping all through the block, without a loss."""
    before = {name: lab.connection(lab.host(name))["spi_in"] for name in lab.BOXES}
    pc.run_expect([0], "rm -f /tmp/ping-log")
    # Line by line: what has been answered by now stands in the log.
    command = f"exec stdbuf -oL ping -n -i 0.05 {lab.CORP} > /tmp/ping-log"

    def answered() -> set[int]:
        log = pc.check_output("cat /tmp/ping-log")
        return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", log)}

    with lab.service(pc, "pings", "sh", "-c", command):
        yield
        last = max(answered(), default=0) + 1
        # Sent after the block: when it has been answered, so have all before it, or are lost.
        lab.wait_for(lambda: max(answered(), default=0) > last + 20, "pings after the block", 10)
        assert set(range(1, last + 1)) <= answered()
    assert {name: lab.connection(lab.host(name))["spi_in"] for name in lab.BOXES} == before


def counted(target: Target, reason: str, packets: list[bytes]) -> None:
    """Send packets; each of them is dropped for the reason (the start of one is enough)."""

    def count() -> int:
        drops = lab.drops(target.host)
        return sum(number for name, number in drops.items() if name.startswith(reason))

    before = count()
    forge.send(packets)
    lab.wait_for(lambda: count() - before >= len(packets), f"{len(packets)} of {reason}", 5)


def test_garbage_envelopes_are_counted(pc: Host, target: Target) -> None:
    unknown = [forge.esp(target.peer, target.address, os.urandom(200)) for _ in range(COPIES)]
    short = [forge.esp(target.peer, target.address, os.urandom(n % 8)) for n in range(COPIES)]
    spi = target.spi()
    forged = [
        forge.esp(target.peer, target.address, spi + bytes(3) + bytes([n + 1]) + os.urandom(n * 4))
        for n in range(10, 10 + COPIES)
    ]
    with undisturbed(pc):
        counted(target, "esp-unknown-spi", unknown)
        counted(target, "esp-too-short", short)
        # The number in a forged envelope may be a replayed one, too: either way it is refused.
        counted(target, "esp-", forged)


def test_replayed_and_altered_envelopes_are_counted(pc: Host, target: Target) -> None:
    with lab.capture("router", "access0") as seen:
        pc.run_expect([0], "ping -n -c 30 -i 0.02 %s", lab.CORP)
    packets = [
        frame.packet[: int.from_bytes(frame.packet[2:4], "big")]
        for frame in seen.frames
        if pcap.describe(frame) == "ESP" and frame.packet[16:20] == _packed(target.address)
    ]
    assert len(packets) >= 30
    with undisturbed(pc):
        counted(target, "esp-replayed", packets)
        # The sequence number (the second word of ESP) far ahead, the rest as it was.
        ahead = [p[:24] + b"\x00\x0f\xff" + bytes([n]) + p[28:] for n, p in enumerate(packets)]
        counted(target, "esp-not-authentic", ahead)
        cut = [packet[:-5] for packet in ahead]
        counted(target, "esp-", [p[:2] + len(p).to_bytes(2, "big") + p[4:] for p in cut])


def _packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


def ike(target: Target, port: int, message: bytes) -> bytes:
    """Return an IKE message in an IPv4 packet, as from the target's peer."""
    marker = b"" if port == 500 else bytes(4)  # no ESP (RFC 3948, 2.2)
    return forge.udp(target.peer, target.address, (port, port), marker + message)


@pytest.mark.parametrize("port", [500, 4500])
def test_garbage_messages_are_counted(pc: Host, target: Target, port: int) -> None:
    garbage = [ike(target, port, os.urandom(n * 9)) for n in range(COPIES)]
    # A header of an IKE_SA that nobody has, with its own length (RFC 7296, 3.1).
    header = os.urandom(16) + b"\x2e\x20\x25\x08" + bytes(4)
    unknown = [
        ike(target, port, header + (28 + n).to_bytes(4, "big") + os.urandom(n))
        for n in range(COPIES)
    ]
    with undisturbed(pc):
        counted(target, "ike-", garbage)
        counted(target, "ike-unknown-spi", unknown)


def rekey(boxes: tuple[Host, Host]) -> None:
    """Rekey the CHILD_SA from either box in turn; with its delete, each is two exchanges."""
    for box in boxes:
        before = lab.connection(box)
        lab.moatctl(box, "rekey", before["name"], "child")

        def rekeyed(before: dict[str, object] = before) -> bool:
            one, other = map(lab.connection, boxes)
            new = before["spi_in"] not in (one["spi_in"], other["spi_in"])
            return new and (one["spi_in"], one["spi_out"]) == (other["spi_out"], other["spi_in"])

        lab.wait_for(rekeyed, "both on a new CHILD_SA", 5)


def test_replayed_and_altered_messages_are_counted(pc: Host, target: Target) -> None:
    boxes = (lab.host("moat"), lab.host("portal"))
    with lab.capture("router", "access0") as seen:
        rekey(boxes)
    # The newest request may well come again, where its answer was lost: it is answered as before,
    # and is no fault. One more rekey from each side, and none of these messages is the newest.
    rekey(boxes)
    messages = [
        message
        for packet in seen.packets()
        if packet.protocol == pcap.UDP and packet.destination == target.address
        if (message := ike_message(packet.payload)) is not None
    ]
    assert {message[19] & RESPONSE_FLAG for message in messages} == {0, RESPONSE_FLAG}
    # Fragments, which rekeys with ML-KEM-768 go in, are told by their number before all else.
    whole = [message for message in messages if message[16] == SK]
    assert 0 < len(whole) < len(messages)

    def again(messages: list[bytes]) -> list[bytes]:
        return [ike(target, 4500, message) for message in messages]

    with undisturbed(pc):
        counted(target, "ike-unexpected-message-id", again(messages))
        altered = [m[:-1] + bytes([m[-1] ^ 1]) for m in whole]
        counted(target, "ike-not-authentic", again(altered))
        counted(target, "ike-malformed", again([m[:-1] for m in messages]))


def ike_message(datagram: bytes) -> bytes | None:
    """Return the IKE message in a UDP datagram of port 4500 (RFC 3948, 2.2), None in others."""
    port, payload = int.from_bytes(datagram[2:4], "big"), datagram[8:]
    return payload[4:] if port == 4500 and payload.startswith(bytes(4)) else None
