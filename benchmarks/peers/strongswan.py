"""strongSwan's charon with its ESP in user space, kernel-libipsec, on both sides."""

from __future__ import annotations

from typing import Any

from boxes import MOAT, PORTAL, Side
from charon import NAME, Charon

from .street import MOAT_WILD, Street


def start(street: Street) -> None:
    """Start both charons, and let the moat's call."""
    moat, portal = street.ends
    if not isinstance(moat, Charon) or not isinstance(portal, Charon):
        raise TypeError("charon runs in a Charon")
    moat.write_public_key("peer", portal.public_key)
    portal.write_public_key("peer", moat.public_key)
    for charon in (portal, moat):
        charon.start()
    moat.load(_connection(MOAT, MOAT_WILD, PORTAL, PORTAL.wild), {})
    portal.load(_connection(PORTAL, PORTAL.wild, MOAT, MOAT_WILD), {})
    moat.initiate()


def _connection(own: Side, own_address: str, peer: Side, peer_address: str) -> dict[str, Any]:
    return {
        "version": "2",
        "local_addrs": own_address,
        "remote_addrs": peer_address,
        "proposals": "aes256gcm16-prfsha256-x25519",
        "encap": "yes",  # its ESP in user space knows UDP only
        "local": {"auth": "pubkey", "id": own.identity, "pubkeys": "own.pem"},
        "remote": {"auth": "pubkey", "id": peer.identity, "pubkeys": "peer.pem"},
        "children": {
            NAME: {
                "local_ts": own.networks[0],
                "remote_ts": peer.networks[0],
                "esp_proposals": "aes256gcm16-x25519-noesn",
            }
        },
    }
