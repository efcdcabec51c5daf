"""A portal's connections out of the database, as one document that the operator signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from moatvpn.crypto.seal import Seal, sha256_hex
from moatvpn.fleet.configurations import next_serial
from moatvpn.fleet.find import get_portal
from moatvpn.fleet.inventory import Inventory
from moatvpn.peers import make_peers, seal_peers


@dataclass(frozen=True, slots=True)
class SignedPeers:
    """The file of one portal's peer set, its serial, and how many connections are in it."""

    content: bytes
    serial: int
    connections: int


def sign_peers(
    session: Session,
    inventory: Inventory,
    portal_identity: str,
    seal: Seal,
    now: datetime,
    settings: Mapping[str, Any] | None = None,
) -> SignedPeers:
    """Return what one portal is to have, signed.

    settings are those that every connection has. The serial grows where something has changed.
    Raises OperatorError for no portal, ConfigError for what cannot be signed.
    """
    portal = get_portal(session, portal_identity).identity
    records = inventory.hosts[portal]["moatvpn_connections"]
    peers = make_peers(portal, records, settings or {})
    serial = next_serial(session, f"peers of {portal}", sha256_hex(peers.content), now)
    content = seal_peers(replace(peers, serial=serial), seal)
    return SignedPeers(content, serial, len(records))
