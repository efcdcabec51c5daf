"""Makes network.py importable for the tests of this directory, and listens to what is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import Payloads
from moatvpn.wire.ike_header import PayloadType
from moatvpn.wire.ike_payloads import NotifyType, parse_notify

sys.path.insert(0, str(Path(__file__).parent))

# Who said it, "?" for a request and "!" for a response, and the names of the notifies in it.
Said = tuple[str, str, list[str]]


# What is asked of every portal, and has nothing to do with what these tests are about.
_TICKETS = (NotifyType.TICKET_REQUEST, NotifyType.TICKET_NACK)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Said]:
    """Return what has been said in protected messages, without its retransmissions."""
    log: list[Said] = []
    seal = IkeSa.datagrams

    def listen(
        sa: IkeSa, exchange: int, message_id: int, response: bool, body: Payloads
    ) -> tuple[bytes, ...]:
        names = [
            NotifyType(parse_notify(data).type).name
            for kind, data in body
            if kind == PayloadType.NOTIFY and parse_notify(data).type not in _TICKETS
        ]
        log.append((sa.context.identity.split(".")[0], "!" if response else "?", names))
        return seal(sa, exchange, message_id, response, body)

    monkeypatch.setattr(IkeSa, "datagrams", listen)
    return log
