"""The engine: IKE's events reach the data plane, and the data plane's news reach IKE."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.packets import PacketEngine
from moatvpn.drivers.memory import MemoryAddresses
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.child import ChildSa
from moatvpn.esp.inbound import Arrived
from moatvpn.esp.outbound import Raw
from moatvpn.esp.statistics import EspStatistics
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.events import (
    ChildActivate,
    ChildDown,
    ChildUp,
    Configured,
    IkeDown,
    IkeRekeyed,
    IkeUp,
    Notice,
    PeerMoved,
)
from moatvpn.ike.secrets import NO_SECRETS, ConnectionSecrets
from moatvpn.ike.status import ConnectionStatus
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_config import Assigned

Make = Callable[..., ConnectionConfig]
PEER = Endpoint("192.0.2.10", 500)
US = Endpoint("198.51.100.2", 500)


class FakeIke:
    """Notes what it is called with; its events and datagrams are put in by the test."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.events: deque[Any] = deque()
        self.datagrams: list[Datagram] = []
        self.timer: float | None = None
        self.refuses_rekey = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append((name, *arguments))

    def next_event(self) -> Any:
        return self.events.popleft() if self.events else None

    def datagrams_to_send(self) -> list[Datagram]:
        out, self.datagrams = self.datagrams, []
        return out

    def get_timer(self) -> float | None:
        return self.timer

    def rekey(self, name: str, sa: str, now: float) -> None:
        if self.refuses_rekey:
            raise OperatorError(name, "is not established", "Try again when it is")
        self.calls.append(("rekey", name, sa, now))

    def strangers(self) -> list[FailureRecord]:
        return []

    def status(self, name: str) -> ConnectionStatus:
        return ConnectionStatus(
            name,
            "established",
            "responder",
            PEER,
            False,
            b"\1" * 8,
            b"\2" * 8,
            90.0,
            200.0,
            None,
            up_since=30.0,
        )


class FakeEsp:
    """Notes what it is called with; carries packets for the connection named in them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.worn: list[str] = []
        self.names: list[str] = []
        self.moved = False
        self.timer: float | None = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **more: self.calls.append((name, *arguments, *more.values()))

    def encapsulate(self, packets: Sequence[Raw], now: float) -> Iterator[Burst]:
        for packet, _ in packets:
            yield Burst(packet, len(packet), PEER, False, 0, "", False)
            self.names.append(bytes(packet).decode())

    def told(self) -> list[str]:
        names, self.names = self.names, []
        return names

    def decapsulate(self, arrivals: Sequence[Arrival], now: float) -> Iterator[Arrived]:
        for data, _, source, _ in arrivals:
            packet = bytes(data)
            yield Arrived(
                packet.decode(), [([packet], b"")], 7, source, self.moved, told=self.moved
            )

    def get_timer(self) -> float | None:
        return self.timer

    def rekeys_wanted(self) -> list[str]:
        worn, self.worn = self.worn, []
        return worn

    def statistics(self, name: str) -> EspStatistics:
        return EspStatistics(packets_in=3, spi_in=0x11, spi_out=0x22, suite="aes-256-gcm")


class Fixture:
    def __init__(self, log: Any) -> None:
        self.ike, self.esp, self.counters, self.log = FakeIke(), FakeEsp(), Counters(), log
        self.noted: list[tuple[str, Endpoint | None]] = []
        memory = SimpleNamespace(note=lambda *what: self.noted.append(what))
        self.addresses = MemoryAddresses()
        self.engine = PacketEngine(
            self.ike,  # type: ignore[arg-type]
            self.esp,  # type: ignore[arg-type]
            self.counters,
            log,
            memory=memory,  # type: ignore[typeddict-item]
            addresses=self.addresses,
        )


@pytest.fixture
def made(log: Any) -> Fixture:
    return Fixture(log)


def child(spi_in: int = 0x11) -> ChildSa:
    suite = CipherSuite.AES_256_GCM
    return ChildSa("c1", spi_in, 0x22, suite, True, b"k" * 36, b"K" * 36, (), (), False)


@pytest.mark.parametrize(
    ("event", "call"),
    [
        (ChildUp(child(), PEER, None, True), ("install", child(), PEER, True)),
        (ChildUp(child(), PEER, 0x10, False), ("install", child(), PEER, False)),
        (ChildActivate("c1", 0x11), ("activate", 0x11)),
        (ChildDown("c1", 0x11), ("remove", 0x11)),
        (PeerMoved("c1", PEER, True), ("set_peer", "c1", PEER, True)),
        (IkeUp("c1", PEER, True), None),
        (IkeDown("c1", "the peer deleted it"), None),
        (IkeRekeyed("c1"), None),
        (Notice("c1", "info", "text"), None),
    ],
)
def test_each_event_reaches_the_data_plane(
    made: Fixture, event: Any, call: tuple[Any, ...] | None
) -> None:
    made.ike.events.append(event)
    made.engine.handle_timer(100.0)
    assert made.esp.calls == ([] if call is None else [call])


def test_the_log_names_the_connection_and_holds_no_key(made: Fixture) -> None:
    made.ike.events += [
        ChildUp(child(), PEER, 0x10, True),
        IkeUp("c1", PEER, False),
        IkeDown("c1", "no answer"),
        PeerMoved("c1", PEER, False),
        Notice(None, "warning", "text"),
    ]
    made.engine.handle_timer(100.0)
    assert [line[2] for line in made.log.lines] == ["c1", "c1", "c1", "c1", None]
    assert made.log.lines[2][:2] == ("warning", "IKE SA down: no answer")
    text = str(made.log.lines)
    assert "kkkk" not in text
    assert b"k".hex() * 8 not in text


def test_what_a_peer_assigns_is_on_the_interface_until_its_connection_goes(
    made: Fixture, make_connection: Make
) -> None:
    made.engine.add(make_connection(name="c1"), 1.0)
    first = Assigned(("10.201.9.1",), ("10.50.0.53",))
    for assigned in (first, first, Assigned(("10.201.9.2",))):
        made.ike.events.append(Configured("c1", assigned))
        made.engine.handle_timer(100.0)
        assert made.addresses.of == {"c1": assigned.addresses}
        assert made.engine.show("c1", 100.0)["assigned"]["addresses"] == list(assigned.addresses)
    assert sum("assigned" in line[1] for line in made.log.lines) == 2
    made.ike.events.append(IkeDown("c1", "no answer"))
    made.engine.handle_timer(101.0)
    assert made.addresses.of == {"c1": ("10.201.9.2",)}
    made.engine.delete("c1", 102.0)
    assert made.addresses.of == {}


def test_events_are_applied_before_the_messages_go_out(made: Fixture) -> None:
    datagram = Datagram(b"answer", US, PEER)
    made.ike.datagrams, made.ike.events = [datagram], deque([ChildUp(child(), PEER, None, True)])
    made.engine.from_ike(Datagram(b"request", US, PEER), 100.0)
    assert made.ike.calls == [("receive_datagram", Datagram(b"request", US, PEER), 100.0)]
    assert made.esp.calls[0][0] == "install"
    assert made.engine.datagrams_to_send() == [datagram]
    assert made.engine.datagrams_to_send() == []


def test_ike_is_told_of_the_traffic_that_the_data_plane_tells_of(made: Fixture) -> None:
    packets = [(memoryview(b"c1"), b""), (memoryview(b"c2"), b"")]
    bursts = list(made.engine.from_tun(packets, 100.0))
    assert [bytes(burst.data) for burst in bursts] == [b"c1", b"c2"]
    assert made.ike.calls == [("note_outbound", "c1", 100.0), ("note_outbound", "c2", 100.0)]


def test_ike_decides_about_a_move_that_esp_saw(made: Fixture) -> None:
    elsewhere = Endpoint("203.0.113.9", 0)
    arrival = (memoryview(b"c1"), 2, elsewhere, 0)
    assert list(made.engine.from_esp([arrival], 99.0)) == [[([b"c1"], b"")]]
    assert made.ike.calls == []
    made.esp.moved = True
    list(made.engine.from_esp([arrival], 100.0))
    assert made.ike.calls == [
        ("peer_moved", "c1", elsewhere, 100.0), ("note_inbound", "c1", 100.0),
    ]  # fmt: skip
    assert made.esp.calls == []


@pytest.mark.parametrize(
    ("ike", "esp", "first"), [(None, None, None), (5.0, None, 5.0), (None, 6.0, 6.0), (7, 6, 6)]
)
def test_the_timer_is_the_earlier_of_both(
    made: Fixture, ike: float | None, esp: float | None, first: float | None
) -> None:
    made.ike.timer, made.esp.timer = ike, esp
    assert made.engine.get_timer() == first


def test_worn_sas_are_rekeyed_and_a_refusal_is_logged(made: Fixture) -> None:
    made.esp.worn = ["c1"]
    list(made.engine.from_tun([(memoryview(b"c1"), b"")], 100.0))
    assert ("rekey", "c1", "child", 100.0) in made.ike.calls
    made.esp.worn, made.ike.refuses_rekey = ["c1"], True
    list(made.engine.from_tun([(memoryview(b"c1"), b"")], 101.0))
    assert made.log.lines[-1][0] == "warning"
    assert made.log.lines[-1][2] == "c1"


def test_add_replace_delete(made: Fixture, make_connection: Make) -> None:
    engine, first = made.engine, make_connection(1)
    engine.add(first, 100.0)
    with pytest.raises(ConfigError, match="connection c1: is there already"):
        engine.add(first, 100.0)
    assert made.ike.calls == [("add_connection", first, 100.0, NO_SECRETS)]
    assert engine.replace(first, 101.0) is False
    changed = make_connection(1, dpd_interval=7)
    assert engine.replace(changed, 102.0) is True
    assert engine.replace(make_connection(2), 103.0) is True
    assert engine.delete("c1", 104.0) is True
    assert engine.delete("c1", 105.0) is False
    assert made.ike.calls[1:] == [
        ("remove_connection", "c1", 102.0),
        ("add_connection", changed, 102.0, NO_SECRETS),
        ("add_connection", make_connection(2), 103.0, NO_SECRETS),
        ("remove_connection", "c1", 104.0),
    ]
    assert made.esp.calls == [("remove_connection", "c1")] * 2


def test_another_metric_alone_is_taken_in_place(made: Fixture, make_connection: Make) -> None:
    made.engine.add(make_connection(1), 100.0)
    made.engine.add(make_connection(2, metric=1), 100.0)
    assert made.esp.calls == [("set_metric", "c2", 1)]
    made.ike.calls.clear()
    assert made.engine.replace(make_connection(1, metric=2), 101.0) is True
    assert made.engine.replace(make_connection(1, metric=2), 101.0) is False
    assert made.esp.calls[1:] == [("set_metric", "c1", 2)]
    assert made.ike.calls == []
    assert made.engine.show("c1", 102.0)["config"]["metric"] == 2
    # With anything else it is another connection, and has its metric after the old one is gone.
    assert made.engine.replace(make_connection(1, metric=3, dpd_interval=7), 103.0) is True
    assert made.esp.calls[2:] == [("remove_connection", "c1"), ("set_metric", "c1", 3)]


@pytest.mark.parametrize("ppk", [False, True])
def test_public_keys_alone_are_taken_in_place(
    made: Fixture, make_connection: Make, ppk: bool
) -> None:
    """Those of gateways too, and beside a PPK, for as long as its file holds the same one."""
    words = {"value": b"p" * 32}
    made.engine._read_secrets = lambda _: ConnectionSecrets(ppk=words["value"] if ppk else None)
    made.ike.change_keys = lambda config, now: bool(made.ike.calls.append(("keys", config)) or True)
    place = {"address": "198.51.100.9", "identity": "portal2.example.net"}
    more = {"ppk_id": "c1", "ppk_file": "/ppk"} if ppk else {}

    def connection(number: int, **changes: Any) -> ConnectionConfig:
        keys = list(make_connection(number).remote_public_keys)
        gateways = [{**place, "public_keys": keys, **changes}]
        return make_connection(1, remote_public_keys=keys, redirect_gateways=gateways, **more)

    made.engine.add(connection(1), 100.0)
    assert made.engine.replace(connection(2), 101.0) is True
    assert made.engine.replace(connection(2), 102.0) is False
    assert made.ike.calls[1:] == [("keys", connection(2))]
    elsewhere = connection(2, address="198.51.100.10")
    assert made.engine.replace(elsewhere, 103.0) is True
    assert made.ike.calls[2] == ("remove_connection", "c1", 103.0)
    if ppk:
        words["value"] = b"q" * 32
        assert made.engine.replace(connection(3, address="198.51.100.10"), 104.0) is True
        assert made.ike.calls[4] == ("remove_connection", "c1", 104.0)


def test_a_refused_replacement_changes_nothing(made: Fixture, make_connection: Make) -> None:
    for number in (1, 2):
        made.engine.add(make_connection(number), 100.0)
    made.ike.calls.clear()
    thief = make_connection(2, remote_selectors=["10.201.1.0/24"])
    with pytest.raises(ConfigError, match="belongs to connection c1"):
        made.engine.replace(thief, 101.0)
    assert made.ike.calls == made.esp.calls == []
    assert made.engine.replace(make_connection(2), 102.0) is False


def test_what_is_not_known_cannot_be_asked_about(made: Fixture) -> None:
    with pytest.raises(OperatorError, match="connection c9: is not known"):
        made.engine.show("c9", 100.0)
    with pytest.raises(OperatorError, match="connection c9: is not known"):
        made.engine.rekey("c9", "child", 100.0)
    assert made.ike.calls == []


def test_status_and_show(made: Fixture, make_connection: Make) -> None:
    made.engine.add(make_connection(1), 95.0)
    made.counters.drop(DropReason.OUT_NO_SA)
    status = made.engine.status(100.0)
    assert status["drops"] == {"out-no-sa": 1}
    (row,) = status["connections"]
    assert row["name"] == "c1"
    assert row["peer"] == "192.0.2.10:500"
    assert (row["established_for"], row["up_for"]) == (10.0, 70.0)
    assert row["ike_rekey_in"] == 100.0
    assert row["child_rekey_in"] is None
    assert (row["spi_in"], row["spi_out"]) == ("0x00000011", "0x00000022")
    assert row["ike_spi_i"] == "0x" + "01" * 8
    assert row["encapsulation"] == "esp"
    shown = made.engine.show("c1", 100.0)
    assert shown["config"]["remote_identity"] == "m1.moats.example.net"


def test_shutdown_tells_peers_and_stops_carrying(made: Fixture, make_connection: Make) -> None:
    made.engine.add(make_connection(1), 95.0)
    made.ike.datagrams = [Datagram(b"delete", US, PEER)]
    made.engine.shutdown(100.0)
    assert made.ike.calls[-1] == ("shutdown", 100.0)
    assert made.esp.calls == [("remove_connection", "c1")]
    assert [d.data for d in made.engine.datagrams_to_send()] == [b"delete"]


def test_where_the_peers_of_waiting_connections_are_is_remembered(
    made: Fixture, make_connection: Make
) -> None:
    made.engine.add(make_connection(1), 95.0)
    made.engine.add(make_connection(2, initiate=True, remote_address="198.51.100.2"), 95.0)
    moved = Endpoint("192.0.2.77", 500)
    for name in ("c1", "c2"):
        made.ike.events += [
            IkeUp(name, PEER, False),
            PeerMoved(name, moved, True),
            IkeDown(name, "gone"),
        ]
    made.engine.handle_timer(100.0)
    assert made.noted == [("c1", PEER), ("c1", moved)]
    made.engine.shutdown(101.0)
    assert made.noted[2:] == []
    made.engine.delete("c1", 102.0)
    assert made.noted[2:] == [("c1", None)]


def test_a_changed_address_is_told(made: Fixture) -> None:
    made.engine.local_address_changed(100.0)
    assert made.ike.calls == [("local_address_changed", 100.0)]
    made.ike.timer = 123.0
    assert made.engine.get_timer() == 123.0
