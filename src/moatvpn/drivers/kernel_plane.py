"""The kernel as the data plane: CHILD_SAs as its SAs, selectors as its policies.

Everything that it does stands in esp.processor first. What differs: it is the kernel that tells
of traffic, once a second for each SA in use; and a policy names the SPI that it sends on, so that
sending goes over from one CHILD_SA to the next when we say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

from moatvpn.drivers.kernel_sad import KernelConnection, KernelPair
from moatvpn.drivers.xfrm_messages import (
    FORWARD,
    IN,
    OUT,
    KernelSa,
    SaEvent,
    SaState,
    Selector,
    Template,
    skipped,
)
from moatvpn.drivers.xfrm_selectors import kernel_selectors
from moatvpn.errors import MoatError
from moatvpn.esp.child import ChildSa
from moatvpn.esp.statistics import EspStatistics
from moatvpn.wire.endpoint import Endpoint

# Above the number that we read of an SA, its successor leaves out so many, which the SA may have
# used until it was gone: at a million packets a second, what goes in 65 ms.
_LEFT_OUT = 1 << 16
_PRIORITY = 256  # less the prefix length: the longest is taken first


class Xfrm(Protocol):
    """What we ask of the kernel. Methods raise OSError where it refuses (see xfrm_socket)."""

    if_id: int

    def add(self, sa: KernelSa) -> None: ...  # noqa: D102
    def read(self, sa: KernelSa) -> SaState | None: ...  # noqa: D102
    def delete(self, sa: KernelSa) -> None: ...  # noqa: D102
    def set_policy(  # noqa: D102
        self, direction: int, selector: Selector, template: Template, priority: int
    ) -> None: ...
    def delete_policy(self, direction: int, selector: Selector) -> None: ...  # noqa: D102
    def events(self) -> list[SaEvent]: ...  # noqa: D102


class News(NamedTuple):
    """Traffic of a connection: into us, or out. moved: the peer's envelopes come from there."""

    connection: str
    inbound: bool
    moved: Endpoint | None = None


class KernelPlane:
    """All SAs of a box, in its kernel: an esp.dataplane.DataPlane.

    What the kernel refuses is said to log(level, text, connection): the packets that it
    would have been for are then dropped, as the interface drops all that has no policy and no SA.
    """

    def __init__(
        self,
        xfrm: Xfrm,
        log: Callable[[str, str, str | None], None],
    ) -> None:
        self._xfrm = xfrm
        self._log = log
        self._inbound: dict[int, KernelPair] = {}
        self._connections: dict[str, KernelConnection] = {}
        self._locals: dict[str, str] = {}  # our address, by connection
        # By target and SPI, as the kernel names an SA in its news.
        self._sas: dict[tuple[str, int], KernelPair] = {}
        self._worn: list[KernelPair] = []
        self._installed = 0
        self._last_reqid = 0

    # SAs

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound.

        Raises MoatError where the inbound SPI is in use, and where set_local was not called before.
        """
        if child.spi_in in self._inbound:
            raise MoatError(f"inbound SPI {child.spi_in:#010x} is installed already")
        name = child.connection
        connection = self._connections.get(name)
        if connection is None:
            local = self._locals.get(name)
            if local is None:
                raise MoatError(f"no address of ours is known for {name}")
            self._last_reqid += 1
            connection = KernelConnection(name, peer, child.udp, local, self._last_reqid)
            self._connections[name] = connection
        else:
            self.set_peer(name, peer, udp=child.udp)
        self._installed += 1
        pair = KernelPair(child, connection, self._installed, self._xfrm.if_id)
        self._inbound[child.spi_in] = connection.pairs[child.spi_in] = pair
        for sa in pair.sas():
            self._add(pair, sa)
        self._admit(connection)
        if activate_outbound:
            self._activate(pair)

    def activate(self, spi_in: int) -> None:
        """Send on this CHILD_SA from now on, if it waits and none of its line came after it."""
        pair = self._inbound.get(spi_in)
        if pair is not None and pair.waiting:
            self._activate(pair)

    def _activate(self, pair: KernelPair) -> None:
        if pair.connection.go_over_to(pair):
            self._route(pair.connection)

    def remove(self, spi_in: int) -> None:
        """Forget a CHILD_SA, if there is one; packets for it alone are dropped from now on."""
        pair = self._inbound.pop(spi_in, None)
        if pair is not None:
            for sa in pair.sas():
                self._take(pair, sa)
            pair.connection.forget(pair)
            self._admit(pair.connection)

    def remove_connection(self, connection: str) -> None:
        """Forget a connection, if there is one: SAs, policies and statistics."""
        self._locals.pop(connection, None)
        known = self._connections.get(connection)
        if known is None:
            return
        for spi in list(known.pairs):
            self.remove(spi)
        del self._connections[connection]
        for direction, selector in list(known.policies):
            self._drop_policy(known, direction, selector)

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        return spi in self._inbound

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose outbound SA nears its end, each once for each SA."""
        worn, self._worn = self._worn, []
        return [pair.connection.name for pair in worn if pair.connection.uses(pair)]

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried, all zero where there is none of that name."""
        known = self._connections.get(connection)
        if known is None:
            return EspStatistics()
        for pair in known.pairs.values():
            for sa in pair.sas():
                self._read(pair, sa)
        return known.statistics()

    def _add(self, pair: KernelPair, sa: KernelSa) -> None:
        """Give the kernel an SA; it is the pair's own only where the kernel has taken it.

        Another peer at the same address may have chosen the same SPI: that one keeps its SA.
        """
        try:
            self._xfrm.add(sa)
        except OSError as error:
            self._refused(pair.connection, "takes no SA", error)
        else:
            self._sas[sa.target, sa.spi] = pair

    def _read(self, pair: KernelPair, sa: KernelSa) -> bytes | None:
        """Note what an SA has carried; return its SaState.replay, None where it is gone."""
        if self._sas.get((sa.target, sa.spi)) is not pair:
            return None
        state: SaState | None = None
        try:
            state = self._xfrm.read(sa)
        except OSError as error:
            self._refused(pair.connection, "tells nothing of an SA", error)
        if state is None:
            return None
        pair.note(sa, state)
        return state.replay

    def _take(self, pair: KernelPair, sa: KernelSa) -> bytes | None:
        """Remove an SA from the kernel; return its SaState.replay, None where it was gone."""
        replay = self._read(pair, sa)
        if self._sas.get((sa.target, sa.spi)) is pair:
            del self._sas[sa.target, sa.spi]
            self._do(pair.connection, "keeps an SA", lambda: self._xfrm.delete(sa))
        return replay

    # Addresses

    def set_metric(self, connection: str, metric: int) -> None:
        """Do nothing: of the kernel's policies, each is one connection's alone."""

    def set_peer(self, connection: str, peer: Endpoint, *, udp: bool) -> None:
        """Send the connection's envelopes to peer from now on, in UDP or as IP protocol 50."""
        known = self._connections.get(connection)
        if known is not None and (peer, udp) != (known.peer, known.udp):
            known.peer, known.udp = peer, udp
            self._move(known)

    def set_local(self, connection: str, host: str) -> None:
        """Send the connection's envelopes from host from now on, and receive them there."""
        self._locals[connection] = host
        known = self._connections.get(connection)
        if known is not None and host != known.local:
            known.local = host
            self._move(known)

    def _move(self, connection: KernelConnection) -> None:
        """Put the connection's SAs between the addresses that are ours and the peer's now.

        The kernel knows an SA by its addresses, so that each has to go and to come back, with its
        numbers and its window: no number is used twice, and no replay let in. Its IVs depend on a
        random number of the SA's own besides, as XFRM_MSG_MIGRATE has it, too.
        """
        for pair in connection.pairs.values():
            for sa in pair.sas():
                moved = pair.between(sa)
                if moved == sa:
                    continue
                replay = self._take(pair, sa)
                if replay is None:
                    continue  # with its numbers gone it must not come back
                if not sa.inbound:
                    replay = skipped(replay, _LEFT_OUT, sa.esn)
                pair.put(moved)
                self._add(pair, replace(moved, replay=replay))
        if connection.ways:
            self._route(connection)

    # Policies

    def _admit(self, connection: KernelConnection) -> None:
        """Let in what the selectors of the connection's pairs allow, whichever of them carries it.

        Whichever address it comes from: the SA has shown who sent it.
        """
        wanted = {
            selector
            for pair in connection.pairs.values()
            for selector in kernel_selectors(pair.child.remote_ts, pair.child.local_ts)
        }
        template = Template(connection.reqid)
        for direction in (IN, FORWARD):
            for key in [k for k in connection.policies if k[0] == direction]:
                if key[1] not in wanted:
                    self._drop_policy(connection, *key)
            for selector in wanted:
                self._set_policy(connection, direction, selector, template)

    def _route(self, connection: KernelConnection) -> None:
        """Send what the selectors of the pairs in use say on them.

        What the connection had before stays its own until then, so that packets without an SA are
        dropped.
        """
        wanted: dict[Selector, Template] = {}
        for way in reversed(connection.ways):  # the one installed last has the last word
            ends = (connection.local, connection.peer.host, way.child.spi_out)
            template = Template(connection.reqid, *ends)
            for selector in kernel_selectors(way.child.local_ts, way.child.remote_ts):
                wanted[selector] = template
        for selector, template in wanted.items():
            self._set_policy(connection, OUT, selector, template)
        for key in [k for k in connection.policies if k[0] == OUT and k[1] not in wanted]:
            self._drop_policy(connection, *key)

    def _set_policy(
        self, connection: KernelConnection, direction: int, selector: Selector, template: Template
    ) -> None:
        key = (direction, selector)
        if connection.policies.get(key) == template:
            return
        connection.policies[key] = template
        far = selector.target_length if direction == OUT else selector.source_length
        self._do(
            connection,
            "takes no policy",
            lambda: self._xfrm.set_policy(direction, selector, template, _PRIORITY - far),
        )

    def _drop_policy(
        self, connection: KernelConnection, direction: int, selector: Selector
    ) -> None:
        del connection.policies[direction, selector]
        self._do(
            connection, "keeps a policy", lambda: self._xfrm.delete_policy(direction, selector)
        )

    # What the kernel tells

    def news(self) -> list[News]:
        """Return what the kernel's news say of connections. Worn SAs are rekeys_wanted's."""
        found = []
        for event in self._xfrm.events():
            pair = self._sas.get((event.target, event.spi))
            if pair is None:
                continue
            connection = pair.connection
            if event.worn:
                if not pair.reported:
                    pair.reported = True
                    self._worn.append(pair)
            elif event.moved is not None:
                # Only the pair in use tells: a late packet on another one may come from anywhere.
                if pair is connection.leader() and event.moved != connection.peer:
                    found.append(News(connection.name, True, event.moved))
            else:
                inbound = (event.target, event.spi) == (pair.inbound.target, pair.inbound.spi)
                if inbound and pair.waiting:
                    # The peer sends on the new SAs, so it has them: so may we (RFC 7296, 2.8).
                    self._activate(pair)
                found.append(News(connection.name, inbound))
        return found

    def _do(self, connection: KernelConnection, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._refused(connection, what, error)

    def _refused(self, connection: KernelConnection, what: str, error: OSError) -> None:
        self._log("error", f"the kernel {what}: {error.strerror or error}", connection.name)
