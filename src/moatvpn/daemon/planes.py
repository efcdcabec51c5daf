"""Which data plane a daemon has, and its devices."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import Unpack

from moatvpn.config import DaemonConfig
from moatvpn.counters import Counters
from moatvpn.daemon.engine import Beside, Engine
from moatvpn.daemon.forwarder import Forwarder, NewsForwarder, PacketForwarder
from moatvpn.daemon.kernel import KernelEngine
from moatvpn.daemon.log import LogCall
from moatvpn.daemon.packets import PacketEngine
from moatvpn.daemon.workers import Devices, Worker, start, workers_are_chosen
from moatvpn.daemon.workers_plane import WorkersEngine, WorkersPlane
from moatvpn.drivers.addresses import InterfaceAddresses
from moatvpn.drivers.interfaces import Clock
from moatvpn.drivers.kernel_plane import KernelPlane
from moatvpn.drivers.loop import Loop
from moatvpn.drivers.raw import NoRawSocket, RawEspSocket
from moatvpn.drivers.tun import TunDevice
from moatvpn.drivers.udp import UdpPort
from moatvpn.drivers.xfrm_drops import KernelDrops
from moatvpn.drivers.xfrm_interface import KIND, kind_of, open_interface
from moatvpn.drivers.xfrm_probe import probe
from moatvpn.drivers.xfrm_socket import XfrmSocket
from moatvpn.errors import OperatorError
from moatvpn.esp.child import NO_ABILITIES, Abilities
from moatvpn.esp.processor import EspProcessor
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.wire.endpoint import IKE_PORT, NAT_PORT

# What IKE may agree on where each of them carries the packets.
_PYTHON_ABILITIES = Abilities(aggfrag=True, tfc=True)
_KERNEL_ABILITIES = NO_ABILITIES


def kernel_is_chosen(config: DaemonConfig, log: LogCall) -> bool:
    """Return whether the kernel is to be the data plane.

    Raises OperatorError where it must be, and cannot. With "auto" it is where it does ESP and the
    tunnel's interface is its own, or still to be made.
    """
    if config.data_plane == "python":
        return False
    if config.data_plane == "kernel":
        probe()
        return True
    try:
        found = kind_of(config.tunnel_interface)
        if found is not None and found[0] != KIND:
            log("info", f"data plane: python, for {config.tunnel_interface} is no IPsec interface")
            return False
        probe()
    except OperatorError as error:
        log("info", f"data plane: python, for {error}")
        return False
    log("info", "data plane: kernel")
    return True


class Planes:
    """Opens one daemon's data plane, and has the loop watch it. What it opens goes on stack.

    First open_devices, which starts the workers, too, if there are to be any; then open.
    """

    def __init__(
        self,
        config: DaemonConfig,
        log: LogCall,
        counters: Counters,
        clock: Clock,
        loop: Loop,
        stack: ExitStack,
    ) -> None:
        self._config = config
        self._log = log
        self._counters = counters
        self._clock = clock
        self._loop = loop
        self._stack = stack
        self._kernel = kernel_is_chosen(config, log)
        self._ports: dict[int, UdpPort] = {}
        self._devices: Devices | None = None
        self._workers: tuple[Worker, Worker] | None = None

    @property
    def abilities(self) -> Abilities:
        """Return what the data plane can do."""
        return _KERNEL_ABILITIES if self._kernel else _PYTHON_ABILITIES

    def open_devices(self) -> None:
        """Open the ports and, where packets are carried here, the devices, and start the workers.

        Call it before anything secret is read. Raises OperatorError.
        """
        own = dict(zip((IKE_PORT, NAT_PORT), self._config.ports, strict=True))
        self._ports = {number: self._port(number, own[number]) for number in own}
        if self._kernel:
            return
        tun = TunDevice(self._config.tunnel_interface, self._counters)
        self._stack.enter_context(closing(tun))
        self._devices = devices = Devices(tun, self._raw(), self._ports)
        if workers_are_chosen(self._config):
            self._log("info", "packets: a process for each way")
            self._workers = start(
                devices, self._counters, self._log, self._loop, self._stack,
                several_addresses=self._several_addresses,
            )  # fmt: skip

    @property
    def _several_addresses(self) -> bool:
        return len(self._config.wild_addresses) > 1

    def open(self, ike: IkeEndpoint, **beside: Unpack[Beside]) -> tuple[Engine, Forwarder]:
        """Return the engine and the forwarder, with everything open; or raise OperatorError."""
        beside["addresses"] = InterfaceAddresses(self._config.tunnel_interface)
        if self._devices is None:
            engine, forwarder = self._open_kernel(ike, beside)
        elif self._workers is not None:
            engine, forwarder = self._open_workers(ike, self._workers, beside)
        else:
            engine, forwarder = self._open_packets(ike, self._devices, beside)
        for number, port in self._ports.items():
            if self._workers is None:
                self._loop.watch(port.envelopes, partial(forwarder.from_udp, number))
            self._loop.watch(port.established, partial(forwarder.from_established, number))
            self._loop.watch(port.strangers, partial(forwarder.from_strangers, number))
        return engine, forwarder

    def _port(self, number: int, own: int) -> UdpPort:
        """Open the port own, which everybody in here knows as number: 500 or 4500.

        The peer hashes the port that it sees, IKE the one that it knows: where they differ, NAT
        detection finds a NAT in front of us (RFC 7296, 2.23), and all goes in UDP.
        """
        framed = number == NAT_PORT
        kernel_esp = framed and self._kernel
        port = UdpPort(own, self._counters, framed=framed, kernel_esp=kernel_esp, known_as=number)
        return self._stack.enter_context(closing(port))

    def _open_packets(
        self, ike: IkeEndpoint, devices: Devices, beside: Beside
    ) -> tuple[Engine, Forwarder]:
        tun, raw, ports = devices
        esp = EspProcessor(self._counters, several_addresses=self._several_addresses)
        engine = PacketEngine(ike, esp, self._counters, self._log, **beside)
        forwarder = PacketForwarder(engine, tun, raw, ports, self._clock, self._loop.soon)
        self._loop.watch(tun, forwarder.from_tun)
        if isinstance(raw, RawEspSocket):
            self._loop.watch(raw, forwarder.from_raw)
        return engine, forwarder

    def _raw(self) -> RawEspSocket | NoRawSocket:
        """Return what carries protocol 50, which one daemon of a box can have: it has no ports."""
        if self._config.ports != (IKE_PORT, NAT_PORT):
            return NoRawSocket(self._counters)
        return self._stack.enter_context(closing(RawEspSocket(self._counters)))

    def _open_workers(
        self, ike: IkeEndpoint, workers: tuple[Worker, Worker], beside: Beside
    ) -> tuple[Engine, Forwarder]:
        sealing, opening = (worker.link for worker in workers)
        plane = WorkersPlane(sealing, opening, self._counters, self._clock, self._loop.soon)
        engine = WorkersEngine(ike, plane, self._counters, self._log, **beside)
        forwarder = NewsForwarder(engine, self._ports, self._clock)
        plane.call_later = forwarder.from_carrier
        for link in (sealing, opening):
            self._loop.watch(link, forwarder.from_carrier)
        return engine, forwarder

    def _open_kernel(self, ike: IkeEndpoint, beside: Beside) -> tuple[Engine, Forwarder]:
        interface = self._config.tunnel_interface
        xfrm = XfrmSocket(open_interface(interface))
        self._stack.enter_context(closing(xfrm))
        # Of a daemon before us: its keys are known to nobody any more.
        xfrm.clear()
        plane = KernelPlane(xfrm, self._log)
        drops = KernelDrops(interface)
        engine = KernelEngine(ike, plane, drops, self._counters, self._log, **beside)
        forwarder = NewsForwarder(engine, self._ports, self._clock)
        self._loop.watch(xfrm, forwarder.from_carrier)
        return engine, forwarder
