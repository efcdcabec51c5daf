"""Super-packets and the real kernel: what it cuts, and what we cut and join in its place.

    super-packet --> tun7 (takes virtio headers) --> the kernel forwards, and cuts --> tun8

tun8 takes no offloads, so the kernel has to make whole packets of whatever leaves there.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxes import run, wait_for
from offload_packets import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    SOURCE,
    SOURCE6,
    TIMESTAMPS,
    UDP,
    Shape,
    header_length,
    partial,
    stream,
    virtio,
)

from moatvpn.esp.coalesce import coalesce
from moatvpn.wire.offload import for_kernel, segments

pytestmark = pytest.mark.usefixtures("namespace")

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x20, 0x40
TCP4, TCP6, ECN = 1, 4, 0x80
WHOLE = bytes(10)
Devices = tuple[int, int]


def opened(name: str, flags: int, networks: tuple[str, ...]) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    run("ip", "link", "set", name, "addrgenmode", "none")
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("0")
    run("ip", "link", "set", name, "up", "mtu", "1500")
    for network in networks:
        run("ip", "-6" if ":" in network else "-4", "route", "add", network, "dev", name)
    return device


@pytest.fixture
def devices(namespace: None) -> Iterator[Devices]:
    for forwarding in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", forwarding).write_text("1")
    tun = IFF_TUN | IFF_NO_PI
    enter = opened("tun7", tun | IFF_VNET_HDR, ("10.201.1.0/24", "fd00:201:1::/64"))
    leave = opened("tun8", tun, ("10.50.0.0/16", "fd00:50::/64"))
    yield enter, leave
    os.close(enter)
    os.close(leave)


def crossed(devices: Devices, number: int) -> list[bytes]:
    """Return so many packets that leave, and hold that there are no more."""
    packets: list[bytes] = []

    def there() -> bool:
        try:
            while True:
                packet = os.read(devices[1], 65535)
                if packet.startswith((SOURCE, SOURCE6), 12 if packet[0] >> 4 == 4 else 8):
                    packets.append(packet)  # and not multicast of the kernel's own
        except BlockingIOError:
            return len(packets) >= number

    wait_for(there, f"{number} packets", 5)
    return packets


@pytest.mark.parametrize(
    "shape",
    [
        Shape(flags=ACK | PSH | FIN),
        Shape(flags=ACK | PSH | CWR | ECE, tcp_options=TIMESTAMPS, tos=2, identification=0xFFFF),
        Shape(version=6, flags=ACK | PSH, sequence=0xFFFFFFF0),
        Shape(version=6, flags=ACK | FIN | CWR, tcp_options=TIMESTAMPS, tos=2),
    ],
)
@pytest.mark.parametrize(("length", "size"), [(60_000, 1400), (1403, 1401), (100, 9)])
def test_the_kernel_cuts_as_we_do(devices, shape, length, size):
    payload = os.urandom(length)
    packet = partial(shape, payload)
    kind = (TCP4 if shape.version == 4 else TCP6) | (ECN if shape.flags & CWR else 0)
    offload = virtio(1, kind, 0, size, header_length(packet))
    os.writev(devices[0], [for_kernel(offload, packet), packet])
    expected = segments(offload, partial(shape._replace(ttl=shape.ttl - 1), payload))
    assert crossed(devices, len(expected)) == expected


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("protocol", "at"), [(6, 16), (17, 6)])
def test_the_kernel_fills_in_checksums_as_we_do(devices, version, protocol, at):
    shape = Shape(version=version, protocol=protocol)
    packet = partial(shape, b"abc")
    offload = virtio(start=header_length(packet), at=at)
    os.writev(devices[0], [for_kernel(offload, packet), packet])
    assert crossed(devices, 1) == segments(offload, partial(shape._replace(ttl=63), b"abc"))


def takes_udp(device: int) -> bool:
    """Return whether the kernel knows super-packets of UDP: since Linux 6.2."""
    try:
        fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "shape",
    [
        Shape(tcp_options=TIMESTAMPS, identification=0xFFF0, sequence=0xFFFFFF00),
        Shape(version=6),
        Shape(protocol=UDP, fragment=0),
        Shape(version=6, protocol=UDP, tos=0xB9),
    ],
)
@pytest.mark.parametrize(
    "sizes", [(1400,) * 40, (1399, 1399, 1398), (36,) * 64, (1, 1), (1000, 1000, 3)]
)
def test_what_we_join_leaves_the_kernel_as_it_came(devices, shape, sizes):
    udp = takes_udp(devices[0])
    writings = coalesce(stream(shape, *sizes), udp=udp, fewest=2)
    assert len(writings) == (1 if udp or shape.protocol != UDP else len(sizes))
    for pieces, offload in writings:
        os.writev(devices[0], [offload or WHOLE, *pieces])
    assert crossed(devices, len(sizes)) == stream(shape._replace(ttl=63), *sizes)


@pytest.mark.parametrize("change", [lambda packet: packet[:-1] + b"\0", lambda packet: packet])
def test_a_corrupted_packet_stays_corrupted(devices, change: Callable[[bytes], bytes]):
    one, two = stream(Shape(), 1000, 1000)
    expected_one, expected_two = stream(Shape(ttl=63), 1000, 1000)
    for pieces, offload in coalesce([one, change(two)], udp=False, fewest=2):
        os.writev(devices[0], [offload or WHOLE, *pieces])
    assert crossed(devices, 2) == [expected_one, change(expected_two)]
