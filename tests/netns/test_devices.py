"""The real devices in a namespace of their own: TUN, raw socket, netlink."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest
from boxes import run, wait_for
from bursts import burst, each

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.addresses import InterfaceAddresses
from moatvpn.drivers.netlink import AddressMonitor
from moatvpn.drivers.raw import RawEspSocket
from moatvpn.drivers.tun import TunDevice
from moatvpn.errors import OperatorError
from moatvpn.wire.endpoint import Endpoint


@pytest.fixture
def counters() -> Counters:
    return Counters()


pytestmark = pytest.mark.usefixtures("namespace")


def test_tun_carries_whole_packets_in_batches(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters)) as tun:
        # Without an address of IPv6 the kernel sends nothing of its own.
        run("ip", "link", "set", "tun7", "addrgenmode", "none")
        run("ip", "link", "set", "tun7", "up", "mtu", "1500")
        run("ip", "address", "add", "10.7.0.1/24", "dev", "tun7")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.7.0.1", 7000))
            sock.settimeout(5)
            for size in (1, 1472, 100):
                sock.sendto(bytes(size), ("10.7.0.2", 9))
            assert [len(packet) for packet, _ in tun.read_batch(2)] == [29, 1500]
            ((last, offload),) = tun.read_batch()
            assert len(last) == 128
            assert tun.read_batch() == []
            # Turned round, it comes in again: addresses swapped keep the checksums right.
            back = bytearray(last)
            back[12:16], back[16:20] = last[16:20], last[12:16]
            back[20:22], back[22:24] = last[22:24], last[20:22]
            assert tun.write([back], offload)
            assert sock.recvfrom(2000) == (bytes(100), ("10.7.0.2", 9))


def test_tun_writes_that_fail_are_counted(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters)) as tun:
        assert not tun.write([b"\x45", bytes(19)])  # the device is down
        run("ip", "link", "set", "tun7", "up")
        assert not tun.write([b"\x05", bytes(19)])  # neither version 4 nor 6
    assert counters.value(DropReason.TUN_WRITE_FAILED) == 2


def test_a_persistent_tun_is_attached_to_as_it_is_left(counters: Counters) -> None:
    run("ip", "tuntap", "add", "moat0", "mode", "tun", "vnet_hdr")
    run("ip", "link", "set", "moat0", "up")
    run("ip", "address", "add", "10.7.0.1/24", "dev", "moat0")
    with closing(TunDevice("moat0", counters)) as tun:
        with pytest.raises(OperatorError, match=r"moat0: cannot be opened .*busy.* Stop the other"):
            TunDevice("moat0", counters)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

            def comes_through() -> bytes | None:
                # The device has a carrier only some time after somebody attached to it.
                sock.sendto(b"x", ("10.7.0.2", 9))
                packets = [bytes(packet) for packet, _ in tun.read_batch() if packet[-1:] == b"x"]
                return packets[0] if packets else None

            packet = wait_for(comes_through, "a packet", 5)
        # A header of the device's own would stand before the packet if vnet_hdr were still on.
        assert (packet[0], len(packet)) == (0x45, 29)
    assert "moat0" in run("ip", "link", "show", "moat0").stdout


def test_a_device_that_goes_away_is_an_error(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters)) as tun:
        run("ip", "link", "delete", "tun7")
        with pytest.raises(OperatorError, match="TUN device tun7: cannot be read"):
            tun.read_batch()


@pytest.mark.parametrize("tos", [0, 1, 0xB9])
def test_raw_socket_carries_protocol_50(counters: Counters, tos: int) -> None:
    with closing(RawEspSocket(counters)) as esp:
        assert esp.send_burst(burst(b"\1\2\3\4envelope", to=Endpoint("127.0.0.5", 500), tos=tos))
        arrivals = each(wait_for(esp.receive, "the packet", 5))
    assert arrivals == [(b"\1\2\3\4envelope", Endpoint("127.0.0.1", 0), tos)]


@pytest.mark.parametrize("tos", [0, 3])
def test_raw_packets_leave_from_the_address_that_is_named(counters: Counters, tos: int) -> None:
    with closing(RawEspSocket(counters)) as esp:
        assert esp.send_burst(
            burst(b"\1\2\3\4", to=Endpoint("127.0.0.5", 0), tos=tos, source="127.0.0.77")
        )
        arrivals = each(wait_for(esp.receive, "the packet", 5))
    assert arrivals == [(b"\1\2\3\4", Endpoint("127.0.0.77", 0), tos)]


def test_raw_packets_beyond_the_paths_mtu_are_fragmented_outside(counters: Counters) -> None:
    run("ip", "link", "set", "lo", "mtu", "1000")
    data = os.urandom(3000)
    with closing(RawEspSocket(counters)) as esp:
        assert esp.send_burst(burst(data, to=Endpoint("127.0.0.1", 500)))
        assert each(wait_for(esp.receive, "the packet", 5)) == [(data, Endpoint("127.0.0.1", 0), 0)]


def test_raw_sending_without_a_route_is_counted(counters: Counters) -> None:
    with closing(RawEspSocket(counters)) as esp:
        assert not esp.send_burst(burst(b"\1\2\3\4", to=Endpoint("192.0.2.1", 500), tos=0))
        assert not esp.send_burst(burst(b"\1\2\3\4", to=Endpoint("192.0.2.1", 500), tos=3))
    assert counters.value(DropReason.OUT_SEND_FAILED) == 2


def test_changes_of_addresses_links_and_routes_are_heard(counters: Counters) -> None:
    with closing(AddressMonitor()) as monitor:
        assert not monitor.changed()
        run("ip", "address", "add", "127.0.0.9/8", "dev", "lo")
        assert monitor.changed()
        assert not monitor.changed()
        run("ip", "neighbour", "replace", "127.0.0.8", "lladdr", "02:00:00:00:00:01", "dev", "lo")
        assert not monitor.changed()
        run("ip", "route", "add", "unreachable", "192.0.2.0/24")
        assert monitor.changed()
        assert not monitor.changed()
        run("ip", "link", "set", "lo", "down")
        assert monitor.changed()


def test_assigned_addresses_come_and_go_and_no_other_does(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters)):
        run("ip", "link", "set", "tun7", "addrgenmode", "none")
        run("ip", "link", "set", "tun7", "up")
        run("ip", "address", "add", "10.7.0.1/24", "dev", "tun7")

        def there() -> list[str]:
            shown = run("ip", "-o", "-4", "address", "show", "dev", "tun7").stdout
            return [line.split()[3] for line in shown.splitlines()]

        addresses = InterfaceAddresses("tun7")
        addresses.set("c1", ("10.201.9.1", "10.201.9.2"))
        addresses.set("c2", ("10.201.9.2",))
        assert sorted(there()) == ["10.201.9.1/32", "10.201.9.2/32", "10.7.0.1/24"]
        addresses.set("c1", ("10.201.9.3",))
        assert sorted(there()) == ["10.201.9.2/32", "10.201.9.3/32", "10.7.0.1/24"]
        addresses.set("c1", ())
        addresses.set("c2", ())
        assert there() == ["10.7.0.1/24"]
    with pytest.raises(OperatorError, match=r"address 10.201.9.1 of tun7: cannot be set"):
        addresses.set("c1", ("10.201.9.1",))


def test_routes_outlive_the_assigned_addresses(counters: Counters) -> None:
    with closing(TunDevice("tun7", counters)):
        run("ip", "link", "set", "tun7", "addrgenmode", "none")
        run("ip", "link", "set", "tun7", "up")
        run("ip", "route", "add", "10.50.0.0/16", "dev", "tun7")
        addresses = InterfaceAddresses("tun7")

        def there() -> list[str]:
            shown = run("ip", "-o", "-4", "address", "show", "dev", "tun7").stdout
            return [line.split()[3] for line in shown.splitlines()]

        for assigned in (("10.201.9.1",), (), ("10.201.9.2", "10.201.9.3"), (), ("10.201.9.4",)):
            addresses.set("c1", assigned)
            assert "10.50.0.0/16" in run("ip", "route", "show", "dev", "tun7").stdout
            assert len(there()) == max(1, len(assigned))
            assert {f"{address}/32" for address in assigned} <= set(there())
