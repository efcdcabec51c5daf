"""What the IKE core tells the daemon."""

from __future__ import annotations

from dataclasses import dataclass

from moatvpn.esp.child import ChildSa
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_config import Assigned


@dataclass(frozen=True, slots=True)
class IkeUp:
    """An IKE SA is established and both sides are authenticated."""

    connection: str
    peer: Endpoint
    initiator: bool


@dataclass(frozen=True, slots=True)
class IkeDown:
    """The connection has no IKE SA any more."""

    connection: str
    reason: str


@dataclass(frozen=True, slots=True)
class IkeRekeyed:
    """The IKE SA has been replaced by a new one; its CHILD_SAs live on."""

    connection: str


@dataclass(frozen=True, slots=True)
class ChildUp:
    """A CHILD_SA to install. replaces is the inbound SPI of the one it is the rekey of."""

    child: ChildSa
    peer: Endpoint
    replaces: int | None
    activate_outbound: bool


@dataclass(frozen=True, slots=True)
class ChildActivate:
    """Send on this CHILD_SA from now on: the peer has shown that it has it (RFC 7296, 2.8)."""

    connection: str
    spi_in: int


@dataclass(frozen=True, slots=True)
class ChildDown:
    """A CHILD_SA to remove from the data plane."""

    connection: str
    spi_in: int


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """The peer is at a new address, or envelopes are to travel otherwise: in UDP or without."""

    connection: str
    peer: Endpoint
    udp: bool


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """The address of ours that the connection's peer sends to, and that we send from.

    It comes before the first ChildUp of an IKE SA, and whenever it is another one.
    """

    connection: str
    host: str


@dataclass(frozen=True, slots=True)
class Configured:
    """The peer has assigned addresses and the like, in place of what it assigned before."""

    connection: str
    assigned: Assigned


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the log. level is one of config.LOG_LEVELS."""

    connection: str | None
    level: str
    text: str


IkeEvent = (
    IkeUp
    | IkeDown
    | IkeRekeyed
    | ChildUp
    | ChildActivate
    | ChildDown
    | PeerMoved
    | LocalAddress
    | Configured
    | Notice
)
