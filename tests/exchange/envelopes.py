"""A moat and its portal that agree on how raw packets go into envelopes, or don't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    moat_config,
    portal_config,
)

from moatvpn.esp.child import Abilities
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import Payloads
from moatvpn.ike.tickets import TicketKeys
from moatvpn.wire.ike_header import PayloadType
from moatvpn.wire.ike_payloads import Notify, NotifyType, parse_notify

ABLE = Abilities(aggfrag=True, tfc=True)
USE, USE_OURS = NotifyType.USE_AGGFRAG, NotifyType.MOAT_FEATURES
NO_PADDING = NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED
_ABOUT = (USE, USE_OURS, NO_PADDING)
Change = Callable[[list[Notify]], list[Notify]]


def met(
    network: Network,
    abilities: tuple[Abilities, Abilities] = (ABLE, ABLE),
    at_moat: dict[str, Any] | None = None,
    at_portal: dict[str, Any] | None = None,
    tickets: TicketKeys | None = None,
) -> tuple[Peer, Peer]:
    """Return a moat and its portal that have spoken to each other; abilities are theirs in turn."""
    moat = Peer(MOAT, MOAT_HOST, 11, abilities=abilities[0])
    portal = Peer(PORTAL, PORTAL_HOST, 22, abilities=abilities[1], tickets=tickets)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, **(at_portal or {})), network.now)
    moat.ike.add_connection(moat_config(portal, **(at_moat or {})), network.now)
    network.run(network.now + 1.0)
    return moat, portal


def joined(network: Network, *words: Any, **settings: Any) -> tuple[Peer, Peer]:
    """Return a moat and its portal with a tunnel between them; all is as for met."""
    moat, portal = met(network, *words, **settings)
    assert connected(moat, portal)
    return moat, portal


def says(monkeypatch: pytest.MonkeyPatch, who: str, change: Change) -> None:
    """Have who say something else about envelopes than it would, wherever a CHILD_SA is made."""
    seal = IkeSa.datagrams

    def datagrams(
        sa: IkeSa, exchange: int, message_id: int, response: bool, body: Payloads
    ) -> tuple[bytes, ...]:
        kinds = [kind for kind, _ in body]
        if sa.context.identity == who and PayloadType.TS_I in kinds:
            notifies = [parse_notify(data) for kind, data in body if kind == PayloadType.NOTIFY]
            about = [notify for notify in notifies if notify.type in _ABOUT]
            before, after = (
                [(PayloadType.NOTIFY, notify.encode()) for notify in some]
                for some in (about, change(about))
            )
            body = [*(payload for payload in body if payload not in before), *after]
        return seal(sa, exchange, message_id, response, body)

    monkeypatch.setattr(IkeSa, "datagrams", datagrams)
