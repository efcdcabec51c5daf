"""What a connection has carried, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

from moatvpn.esp.loss import LossEstimate, estimate
from moatvpn.esp.sad import Connection
from moatvpn.esp.sizes import outer_of
from moatvpn.esp.tfc import TfcMode


@dataclass(frozen=True, slots=True)
class EspStatistics:
    """What a connection's SAs have carried since it came up; octets are those of raw packets.

    child_sas counts those that packets leave on. The rest is of the first of them, None or 0 where
    there is none: its SPIs, the suite's name, whether sequence numbers are extended, whether it
    travels in UDP, the number of its last packet, whether it is AGGFRAG (RFC 9347), and whether
    super-packets go in it. path_mtu is how many octets of a whole outer packet the way to the peer
    is known to carry, None until it has answered a probe. tfc is what is hidden of the traffic that
    we send, and envelope_octets, then, how long each outer packet is. loss is of the envelopes that
    came in, None where nobody knows: a kernel that carries packets keeps its window to itself.
    """

    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    spi_in: int | None = None
    spi_out: int | None = None
    suite: str | None = None
    esn: bool = False
    udp: bool = False
    sequence: int = 0
    child_sas: int = 0
    aggfrag: bool = False
    super_packets: bool = False
    path_mtu: int | None = None
    tfc: TfcMode = TfcMode.OFF
    envelope_octets: int | None = None
    loss: LossEstimate | None = None


def statistics_of(connection: Connection) -> EspStatistics:
    """Return the statistics of connection."""
    pairs = connection.pairs.values()
    active = connection.leader()
    child = active.child if active is not None else None
    loss = connection.loss
    path = connection.path
    for pair in pairs:
        loss = loss.plus(estimate(pair.inbound.window))
    return EspStatistics(
        packets_in=connection.packets_in + sum(pair.inbound.packets for pair in pairs),
        packets_out=connection.packets_out + sum(pair.outbound.packets for pair in pairs),
        octets_in=connection.octets_in + sum(pair.inbound.octets for pair in pairs),
        octets_out=connection.octets_out + sum(pair.outbound.octets for pair in pairs),
        spi_in=child.spi_in if child is not None else None,
        spi_out=child.spi_out if child is not None else None,
        suite=child.suite.value if child is not None else None,
        esn=child.esn if child is not None else False,
        udp=connection.udp,
        sequence=active.outbound.sequence if active is not None else 0,
        child_sas=len(connection.ways),
        loss=loss,
        aggfrag=child is not None and child.aggfrag,
        super_packets=child is not None and child.private_blocks,
        path_mtu=path.size if path is not None and path.measured else None,
        tfc=child.tfc.mode if child is not None else TfcMode.OFF,
        envelope_octets=outer_of(active) if active is not None and active.hides else None,
    )
