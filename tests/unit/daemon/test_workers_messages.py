"""What moatd and its workers tell each other arrives as it was, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.daemon.workers_messages import (
    Activate,
    AskDrops,
    AskStatistics,
    Carried,
    Drops,
    IkeMessage,
    Install,
    Message,
    Moved,
    ProbeAnswered,
    ProbeAsked,
    Remove,
    RemoveConnection,
    SetLocal,
    SetMetric,
    SetPeer,
    Statistics,
    Stray,
    Worn,
    decode,
    encode,
)
from moatvpn.esp.child import ChildSa
from moatvpn.esp.loss import LossEstimate
from moatvpn.esp.statistics import EspStatistics
from moatvpn.esp.tfc import Tfc, TfcMode
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.selectors import TrafficSelector

PEER = Endpoint("192.0.2.10", 4500)
CHILD = ChildSa(
    "m1", 0x11, 0xFFFFFFFF, CipherSuite.CHACHA20_POLY1305, True, bytes(range(36)), b"K" * 36,
    (TrafficSelector.from_network("10.50.0.0/16"), TrafficSelector.from_network("fd00::/16")),
    (TrafficSelector.from_network("10.201.1.0/24"),),
    True, 3, True, True, True, Tfc(TfcMode.CONSTANT, 1400, 50), False,
)  # fmt: skip
STATISTICS = EspStatistics(
    1, 2, 3, 4, 5, 6, "aes-256-gcm", True, True, 7, 8, True, True, 1492, TfcMode.PAD, 1400,
    LossEstimate(1, 2, 3, 4, 5, 6, 7, 8),
)  # fmt: skip
MESSAGES: list[Message] = [
    Install(CHILD, PEER, activate_outbound=True),
    Install(CHILD.opening_half(), PEER, activate_outbound=False),
    Activate(1),
    Remove(2),
    RemoveConnection("m1"),
    SetPeer("m1", PEER, udp=False),
    SetLocal("m1", "192.0.2.1"),
    SetMetric("m1", 2),
    AskStatistics(3, "m1"),
    AskDrops(4),
    ProbeAsked(5, 6),
    ProbeAnswered(7, 1 << 31),
    Carried("m1", inbound=True),
    Moved("m1", PEER),
    Worn("m1"),
    IkeMessage(Datagram(bytes(range(256)), PEER, Endpoint("198.51.100.1", 500))),
    Stray(b"\1" * 90, 40, PEER, 2),
    Statistics(8, STATISTICS),
    Statistics(8, EspStatistics()),
    Drops(9, {DropReason.ESP_REPLAYED: 2, DropReason.OUT_NO_SA: 1}),
    Drops(9, {}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_arrives_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


def test_every_kind_is_among_them() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)


def test_every_setting_of_a_child_sa_travels() -> None:
    """A field that is added to a CHILD_SA, and forgotten here, would be its default at a worker."""
    _, (child, _, _) = json.loads(encode(MESSAGES[0]))
    assert len(child) == len(fields(ChildSa))
    _, (_, statistics) = json.loads(encode(Statistics(8, STATISTICS)))
    assert len(statistics) == len(fields(EspStatistics))


def test_a_half_has_one_key() -> None:
    sealing, opening = CHILD.sealing_half(), CHILD.opening_half()
    assert (sealing.key_in, sealing.key_out) == (b"", CHILD.key_out)
    assert (opening.key_in, opening.key_out) == (CHILD.key_in, b"")
    assert CHILD.key_out.hex().encode() not in encode(Install(opening, PEER, True))
    assert CHILD.key_in.hex().encode() not in encode(Install(sealing, PEER, True))


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"\xff", b"null", b"[]", b'["Activate"]', b'["Activate",[]]', b'["Activate",["1"]]',
        b'["Activate",[true]]', b'["Activate",[1,2]]', b'["Nothing",[1]]', b'[[],[1]]',
        b'["Worn",[1]]', b'["Moved",["m1",["192.0.2.1"]]]', b'["Drops",[1,[["no-reason",1]]]]',
        b'["Drops",[1,[5]]]', b'["IkeMessage",[["zz",["a",1],["b",1]]]]', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_none_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any)
        decode(octets)


@given(st.binary() | st.text().map(str.encode))
def test_hostile_octets_are_refused_and_no_more(octets: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any)
        decode(octets)
