"""The hand-over from IKE to ESP: everything the data plane must know of one CHILD_SA."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from moatvpn.esp.tfc import NO_TFC, Tfc
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.selectors import TrafficSelector


class Abilities(NamedTuple):
    """What a data plane can do, and IKE must know before it negotiates.

    aggfrag: it speaks AGGFRAG (RFC 9347) and our private blocks in it. tfc: it can hide traffic as
    Tfc asks for.
    """

    aggfrag: bool = False
    tfc: bool = False


NO_ABILITIES = Abilities()


@dataclass(frozen=True, slots=True)
class ChildSa:
    """One negotiated pair of ESP SAs, as IKE hands it to the data plane.

    connection is the connection's name; spi_in is ours, which the peer sends to; spi_out is the
    peer's. key_in and key_out are keying material of suite.material_length octets, and never leave
    memory (they are kept out of repr). local_ts and remote_ts are the negotiated selectors. udp
    says that envelopes travel in UDP port 4500. line is its place among the CHILD_SAs that the
    connection has side by side: the one installed later replaces the earlier of the same line.

    aggfrag: raw packets go into envelopes as AGGFRAG (RFC 9347), both ways. With it only, unsplit:
    the peer takes no raw packet that spans envelopes; private_blocks: it takes our private blocks.
    tfc is what is to be hidden of the traffic that we send; tfc_padding: the peer takes padding
    behind raw packets for it (RFC 4303, 2.7).

    Where one process seals and another one opens, each has a half, in which the other's key is
    empty. So no two processes can ever spend the same nonce.
    """

    connection: str
    spi_in: int
    spi_out: int
    suite: CipherSuite
    esn: bool
    key_in: bytes = field(repr=False)
    key_out: bytes = field(repr=False)
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    udp: bool
    line: int = 0
    aggfrag: bool = False
    unsplit: bool = False
    private_blocks: bool = False
    tfc: Tfc = NO_TFC
    tfc_padding: bool = True

    def sealing_half(self) -> ChildSa:
        """Return what whoever sends on this CHILD_SA, and opens nothing, is to know of it."""
        return replace(self, key_in=b"")

    def opening_half(self) -> ChildSa:
        """Return what whoever receives on this CHILD_SA, and sends nothing, is to know of it."""
        return replace(self, key_out=b"", tfc=NO_TFC)
