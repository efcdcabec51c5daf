"""TCP through TUN devices with and without offloads, glued together by the test."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from boxes import Namespace, run, wait_for

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers import tun as module
from moatvpn.drivers.tun import TunDevice
from moatvpn.errors import OperatorError
from moatvpn.wire.offload import HEADER_LENGTH, NEEDS_CSUM

MTU = 1500
SENT = 4 << 20
# Says which octets came in over TCP, and sends back what came over UDP.
SERVER = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family) as tcp:
    udp.bind((sys.argv[1], 7))
    tcp.bind((sys.argv[1], 7))
    tcp.listen()
    print("ready", flush=True)
    data, source = udp.recvfrom(2000)
    udp.sendto(data[::-1], source)
    with tcp.accept()[0] as peer:
        digest = hashlib.sha256()
        while part := peer.recv(1 << 16):
            digest.update(part)
            peer.sendall(part[:64])
        print(digest.hexdigest(), flush=True)
"""
CLIENT = """
import hashlib, os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as udp:
    udp.settimeout(10)
    udp.sendto(b"!olleh", (sys.argv[1], 7))
    assert udp.recv(2000) == b"hello!"
data = os.urandom(int(sys.argv[2]))
with socket.create_connection((sys.argv[1], 7), timeout=20) as tcp:
    tcp.sendall(data)
    tcp.shutdown(socket.SHUT_WR)
    while tcp.recv(1 << 16):
        pass
print(hashlib.sha256(data).hexdigest(), flush=True)
"""

pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Namespace, Namespace]]:
    """Two machines, each of which gets a TUN device of the test's."""
    name = f"moat-test-{os.getpid()}-tun"
    with (
        closing(Namespace(f"{name}1", tmp_path / "1", "one")) as one,
        closing(Namespace(f"{name}2", tmp_path / "2", "two")) as two,
    ):
        yield one, two


class Glue:
    """Carries what comes out of one device into the other; seen holds each one's own packets.

    A packet is seen as its size and its offload.
    """

    def __init__(self, *devices: TunDevice) -> None:
        self._devices = devices
        self.seen: dict[TunDevice, list[tuple[int, bytes]]] = {each: [] for each in devices}

    def carry(self, until: Callable[[], bool]) -> None:
        end = monotonic() + 60
        while not until():
            assert monotonic() < end, "nothing more within a minute"
            for fd in select.select([each.fileno() for each in self._devices], [], [], 0.05)[0]:
                here, there = self._devices
                if fd == there.fileno():
                    here, there = there, here
                for packet, offload in here.read_batch():
                    self.seen[here].append((len(packet), offload))
                    middle = len(packet) // 3
                    pieces = (packet[:middle], bytes(packet[middle:]))
                    assert there.write(pieces, offload)


@pytest.mark.parametrize("addresses", [("10.7.0.1", "10.7.0.2"), ("fd00:7::1", "fd00:7::2")])
@pytest.mark.parametrize("offloads", [(True, True), (True, False), (False, True), (False, False)])
def test_tcp_arrives_as_it_was_sent(
    counters: Counters,
    hosts: tuple[Namespace, Namespace],
    addresses: tuple[str, str],
    offloads: tuple[bool, bool],
) -> None:
    with (
        closing(TunDevice("tun1", counters, offloads=offloads[0])) as one,
        closing(TunDevice("tun2", counters, offloads=offloads[1])) as two,
    ):
        for device, host, address in zip((one, two), hosts, addresses, strict=True):
            run("ip", "link", "set", device.name, "netns", host.namespace)
            host.ip("link", "set", device.name, "up", "mtu", str(MTU), "addrgenmode", "none")
            length = ("/64", "nodad") if ":" in address else ("/24",)
            host.ip("address", "add", address + length[0], "dev", device.name, *length[1:])
        glue, pipe = Glue(one, two), subprocess.PIPE
        with (
            hosts[1].popen(sys.executable, "-c", SERVER, addresses[1], stdout=pipe) as server,
            hosts[0].popen(
                "sh", "-c", 'read go; exec "$0" "$@"', sys.executable, "-c", CLIENT, addresses[1],
                str(SENT), stdin=pipe, stdout=pipe,
            ) as client,
        ):  # fmt: skip
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                assert client.stdin is not None
                client.stdin.write(b"\n")
                client.stdin.flush()
                glue.carry(lambda: client.poll() is not None)
                digests = [each.communicate(timeout=10)[0] for each in (server, client)]
            finally:
                server.kill()
                client.kill()
    assert len(digests[0]) == 2 * hashlib.sha256().digest_size + 1
    assert digests[0] == digests[1]
    for host in hosts:
        lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        assert dict(zip(names, values, strict=True))["InCsumErrors"] == "0"
    sent, answered = glue.seen[one], glue.seen[two]
    # The one sends much at a time; the other's short answers may wait for each other, too.
    assert max(sent)[0] > 10 * MTU if offloads[0] else max(sent)[0] == MTU
    assert offloads[1] or max(answered)[0] <= MTU
    if any(offloads):
        assert any(offload and not offload[1] for _, offload in sent + answered)  # checksum alone
    assert {len(offload) for size, offload in sent + answered if size > MTU} <= {HEADER_LENGTH}
    assert counters.snapshot() == {}


def ping_from_tun(tun: TunDevice) -> tuple[bytes, bytes]:
    """Return a packet that the kernel sends into the device, and its offload."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def comes_through() -> tuple[bytes, bytes] | None:
            # A persistent device has a carrier only some time after somebody attached to it.
            sock.sendto(b"x", ("10.7.0.2", 9))
            found = [(bytes(packet), offload) for packet, offload in tun.read_batch()]
            return found[0] if found else None

        return wait_for(comes_through, "a packet", 5)


@pytest.mark.parametrize("made", [(), ("vnet_hdr",)])
def test_a_persistent_device_takes_each_program_as_it_is(
    counters: Counters, made: tuple[str, ...]
) -> None:
    # systemd-networkd makes it, with VNetHeader= or without.
    run("ip", "tuntap", "add", "moat0", "mode", "tun", *made)
    run("ip", "link", "set", "moat0", "up")
    run("ip", "address", "add", "10.7.0.1/24", "dev", "moat0")
    for offloads in (True, False, True):
        with closing(TunDevice("moat0", counters, offloads=offloads)) as tun:
            packet, offload = ping_from_tun(tun)
            assert (packet[0], len(packet)) == (0x45, 29)
            if offloads:
                # Flags, no segmentation, and as little endian: where UDP begins, its checksum.
                flags, kind, _, size, start, at = struct.unpack("<BBHHHH", offload)
                assert (flags, kind, size, start, at) == (NEEDS_CSUM, 0, 0, 20, 6)
            else:
                assert offload == b""


@pytest.mark.parametrize(
    ("refused", "headed", "granted"),
    [
        ((), True, 0x0F),
        (((module._TUNSETOFFLOAD, 0x0F),), True, 0x07),
        (((module._TUNSETOFFLOAD, 0x0F), (module._TUNSETOFFLOAD, 0x07)), True, 0x01),
        (tuple((module._TUNSETOFFLOAD, n) for n in (0x0F, 0x07, 0x01)), True, 0),
        (((module._TUNSETOFFLOAD, 0x61),), True, 0x0F),
        (((module._TUNSETVNETLE, None),), False, 0),
        (((module._TUNSETVNETHDRSZ, None),), False, 0),
    ],
)
def test_what_the_kernel_does_not_know_is_done_without(
    counters: Counters,
    monkeypatch: pytest.MonkeyPatch,
    refused: tuple[tuple[int, int | None], ...],
    headed: bool,
    granted: int,
) -> None:
    real, last = fcntl.ioctl, []

    def ioctl(fd: int, request: int, argument: Any) -> Any:
        for number, value in refused:
            if request == number and value in (None, argument):
                raise OSError(22, "Invalid argument")
        if request == module._TUNSETOFFLOAD:
            last[:] = [argument]
        return real(fd, request, argument)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with closing(TunDevice("tun7", counters, offloads=True)) as tun:
        run("ip", "link", "set", "tun7", "up")
        run("ip", "address", "add", "10.7.0.1/24", "dev", "tun7")
        packet, offload = ping_from_tun(tun)
        assert (packet[0], len(packet)) == (0x45, 29)
        assert (offload != b"") is (granted & 1 == 1)
        assert last == [granted]
        assert tun.write((packet,), offload)
        assert tun.takes_super_packets is headed
        if (module._TUNSETOFFLOAD, 0x61) in refused:
            assert not tun.takes_udp


@pytest.mark.parametrize("offloads", [True, False])
def test_what_the_kernel_refuses_of_pieces_is_counted(counters: Counters, offloads: bool) -> None:
    with closing(TunDevice("tun7", counters, offloads=offloads)) as tun:
        assert not tun.write((b"\x45", bytes(19)))  # the device is down
        run("ip", "link", "set", "tun7", "up")
        assert not tun.write((b"\x05", bytes(19)))  # neither version 4 nor 6
        assert not tun.write((b"\x45", bytes(19)), bytes((1, 1)) + bytes(8))  # nonsense
        run("ip", "link", "delete", "tun7")
        with pytest.raises(OperatorError, match="TUN device tun7: cannot be read"):
            tun.read_batch()
    assert counters.snapshot() == {DropReason.TUN_WRITE_FAILED.value: 3}


@pytest.mark.parametrize("offloads", [True, False])
def test_a_packet_may_have_any_number_of_pieces(counters: Counters, offloads: bool) -> None:
    with closing(TunDevice("tun7", counters, offloads=offloads)) as tun:
        run("ip", "link", "set", "tun7", "up", "mtu", "3000")
        run("ip", "address", "add", "10.7.0.1/24", "dev", "tun7")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.7.0.1", 7000))
            sock.settimeout(5)
            payload = os.urandom(2000)
            # No checksum of UDP's: none is asked for in IPv4.
            udp = struct.pack("!HHHH", 9, 7000, 8 + len(payload), 0) + payload
            head = bytearray(struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0))
            head += bytes((10, 7, 0, 2, 10, 7, 0, 1))
            words = sum(struct.unpack("!10H", head))
            head[10:12] = (-words % 0xFFFF).to_bytes(2, "big")
            packet = bytes(head) + udp
            for number in (1, 3, len(packet)):
                apart = -(-len(packet) // number)
                pieces = [packet[at : at + apart] for at in range(0, len(packet), apart)]
                assert tun.write(pieces)
                assert sock.recvfrom(3000) == (payload, ("10.7.0.2", 9))


def test_one_burst_is_bounded_in_packets_and_octets(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters, offloads=True)) as tun:
        run("ip", "link", "set", "tun7", "up", "mtu", "65535")
        run("ip", "address", "add", "10.7.0.1/24", "dev", "tun7")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 21)  # SO_SNDBUFFORCE
            for number in range(12):
                sock.sendto(bytes((number,)) * 60_000, ("10.7.0.2", 9))
            bursts = []
            for limit in (2, 64, 64, 64):
                burst = tun.read_batch(limit)
                assert all(len(packet) == 60_028 for packet, _ in burst)
                bursts.append([packet[-1] for packet, _ in burst])
    assert bursts == [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9, 10, 11], []]
