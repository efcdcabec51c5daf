"""How connections are doing, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moatvpn.ike.authentication.raw_key import RawKeyAuthentication
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.state import State
from moatvpn.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """How a connection is doing. Times are those of the daemon's clock, in seconds.

    state is "established", "connecting" (we initiate) or "waiting" (for the peer to call).
    up_since is when the tunnel came up, which rekeys and IKE SAs set up beside it do not end.
    key_exchange names those of the IKE SA, such as "x25519+mlkem768"; ppk is the name of the PPK
    that is in its keys.
    local_key and remote_key are the public keys that we and the peer proved ourselves by, None
    where it was otherwise; key_refused: the peer does not accept the first of our own.
    resumed says whether the IKE SA began by a ticket (RFC 5723), resumptions how many have so far,
    ticket whether there is one to resume this one with.
    """

    name: str
    state: str
    role: str
    peer: Endpoint | None
    nat: bool
    spi_i: bytes
    spi_r: bytes
    established_at: float | None
    ike_rekey_at: float | None
    child_rekey_at: float | None
    key_exchange: str | None = None
    ppk: str | None = None
    failure: FailureRecord | None = None
    local_key: bytes | None = None
    remote_key: bytes | None = None
    key_refused: bool = False
    resumed: bool = False
    resumptions: int = 0
    ticket: bool = False
    up_since: float | None = None


def first_refused(connection: Connection) -> bool:
    """Return whether the peer does not accept the key that we would rather prove."""
    method = connection.authentication
    if connection.sa is not None:
        method = connection.method(connection.sa)
    return isinstance(method, RawKeyAuthentication) and method.first_refused


def status_of(connection: Connection) -> ConnectionStatus:
    """Return how a connection is doing."""
    sa = connection.sa
    idle = "connecting" if connection.config.initiate else "waiting"
    return ConnectionStatus(
        name=connection.config.name,
        state=State.ESTABLISHED.value if sa else idle,
        role="initiator" if connection.config.initiate else "responder",
        peer=connection.addresses.peer if sa else None,
        nat=sa.nat if sa else False,
        spi_i=sa.spi_i if sa else b"",
        spi_r=sa.spi_r if sa else b"",
        key_exchange=sa.choice.key_exchange if sa and sa.choice else None,
        ppk=connection.ppk.identity if connection.ppk is not None and sa and sa.ppk else None,
        established_at=sa.established_at if sa else None,
        ike_rekey_at=sa.rekey_at.when if sa and sa.rekey_at else None,
        child_rekey_at=connection.children.next_rekey(),
        failure=connection.failure,
        local_key=sa.local_key if sa else None,
        remote_key=sa.remote_key if sa else None,
        key_refused=first_refused(connection),
        resumed=bool(sa) and connection.tickets.resumed,
        resumptions=connection.tickets.count,
        ticket=connection.tickets.good,
        up_since=connection.up_since if sa else None,
    )
