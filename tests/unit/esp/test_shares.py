"""What waits in whose share, and what is dropped before anybody works on it."""

from __future__ import annotations

from esp_peers import ALL, CORP, CORP6, MOAT, PC, PC6, PORTAL, TCP, Ends, ipv4, ipv6
from single import SingleProcessor

from moatvpn.counters import Counters
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.child import ChildSa
from moatvpn.esp.outbound import Raw
from moatvpn.esp.processor import EspProcessor
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

ELSEWHERE = Endpoint("203.0.113.66", 4500)
ENOUGH = 1 << 30


class Portal:
    """A portal with some moats, each with a network 10.201.N.0/24 and an address of its own."""

    def __init__(self, moats: int) -> None:
        self.counters = Counters()
        self.esp = EspProcessor(self.counters)
        self.shares = self.esp.shares
        self.moats = {}
        for number in range(1, moats + 1):
            home = tuple(
                TrafficSelector.from_network(network)
                for network in (f"10.201.{number}.0/24", f"fd00:201:{number}::/64")
            )
            ends = Ends(number, home=home, corporate=ALL)
            child = ends.portal
            object.__setattr__(child, "connection", f"c{number}")
            self.esp.install(child, self.host(number), activate_outbound=True)
            moat = SingleProcessor(Counters())
            moat.install(ends.moat, PORTAL, activate_outbound=True)
            self.moats[number] = moat

    @staticmethod
    def host(number: int) -> Endpoint:
        return Endpoint(f"192.0.2.{number}", 4500)

    def envelope(self, number: int, payload: bytes = b"hello") -> Arrival:
        packet = ipv4(payload, f"10.201.{number}.10")
        data = self.moats[number].envelope(packet)
        assert data is not None
        return memoryview(data.data), len(data.data), self.host(number), 0

    def delivered(self) -> list[bytes]:
        arrivals = self.shares.arrivals(ENOUGH)
        return [
            b"".join(pieces)
            for arrived in self.esp.decapsulate(arrivals, 0.0)
            for pieces, _ in arrived.packets
        ]


def raw(packet: bytes) -> Raw:
    return memoryview(packet), b""


def test_what_waits_outlives_what_the_device_has_lent() -> None:
    portal = Portal(1)
    data, size, source, tos = portal.envelope(1)
    lent = bytearray(data)
    portal.shares.arrive([(memoryview(lent), size, source, tos)])
    packet = bytearray(ipv4(source=CORP, target=PC))
    portal.shares.leave([raw(packet)])  # type: ignore[arg-type]
    kept = bytes(packet)
    lent[:], packet[:] = bytes(len(lent)), bytes(len(packet))
    assert portal.delivered() == [ipv4(b"hello", "10.201.1.10")]
    assert [bytes(each) for each, _ in portal.shares.packets(ENOUGH)] == [kept]


def test_a_flood_of_one_sa_is_dropped_by_name_and_another_gets_through() -> None:
    portal = Portal(2)
    flood = portal.envelope(1)
    modest = [portal.envelope(2, bytes([number])) for number in range(50)]
    for each in modest:
        portal.shares.arrive([flood] * 400 + [each])
    assert portal.counters.snapshot().keys() == {"esp-over-share"}
    came = portal.delivered()
    assert sum(packet[12:16] == bytes((10, 201, 2, 10)) for packet in came) == 50
    # The flood repeats one envelope: of what was let wait, one is new.
    drops = portal.counters.snapshot()
    assert drops["esp-over-share"] + drops["esp-replayed"] + 1 == 50 * 400


def test_what_has_no_sa_is_dropped_at_once_and_takes_no_room() -> None:
    portal = Portal(1)
    forged = memoryview(bytes(4) + bytes(range(96)) * 3 + bytes(4))
    portal.shares.arrive([(forged, 100, Endpoint(f"203.0.113.{n}", n), 0) for n in range(100)])
    assert not portal.shares.arrivals_wait
    assert portal.counters.snapshot() == {"esp-unknown-spi": 300}
    portal.shares.arrive([(memoryview(bytes(9)), 9, ELSEWHERE, 0)])
    assert portal.counters.snapshot()["esp-too-short"] == 1


def test_envelopes_that_were_joined_to_another_sas_are_not_overtaken_by_their_own() -> None:
    portal = Portal(1)
    old, new = Ends(1).portal, Ends(2).portal  # a rekey
    object.__setattr__(new, "connection", "c1")
    portal.esp.install(new, portal.host(1), activate_outbound=True)

    def of(child: ChildSa, first: int, count: int) -> bytes:
        spi = child.spi_in.to_bytes(4, "big")
        numbers = (n.to_bytes(4, "big") for n in range(first, first + count))
        return b"".join(spi + number + bytes(1392) for number in numbers)

    joined = [of(old, at, 40) for at in range(1, 800, 40)]
    joined += [of(old, 801, 38) + of(new, 1, 2)]
    joined += [of(new, at, 40) for at in range(3, 400, 40)]
    for data in joined:
        portal.shares.arrive([(memoryview(data), 1400, portal.host(1), 0)])
    came: dict[bytes, list[int]] = {}
    for data, size, *_ in portal.shares.arrivals(ENOUGH):
        for at in range(0, len(data), size):
            envelope = bytes(data[at : at + 8])
            came.setdefault(envelope[:4], []).append(int.from_bytes(envelope[4:], "big"))
    assert not portal.counters.snapshot()
    assert [sorted(numbers) for numbers in came.values()] == list(came.values())
    assert sum(map(len, came.values())) == sum(map(len, joined)) // 1400


def test_who_has_only_seen_an_spi_has_no_part_in_the_peers_share() -> None:
    portal = Portal(1)
    genuine = portal.envelope(1)
    spi = bytes(genuine[0][:4])
    forged = memoryview(spi + bytes(1400))
    for _ in range(5000):
        portal.shares.arrive([(forged, len(forged), ELSEWHERE, 0)])
    portal.shares.arrive([genuine])
    first = portal.shares.arrivals(1)
    portal.shares.arrivals(1)
    # It takes turns with them: it is among the first two turns, not behind them all.
    rest = portal.shares.arrivals(2 * 65536 + 4000)
    assert genuine[2] in {arrival[2] for arrival in (*first, *rest)}


def test_protocol_50_has_no_port_to_compare() -> None:
    portal = Portal(1)
    data, size, source, tos = portal.envelope(1)
    portal.shares.arrive([(data, size, Endpoint(source.host, 0), tos)])
    assert len(portal.delivered()) == 1


def order(packets: list[bytes], octets: int = 1) -> list[bytes]:
    """Return the first packet of each turn, of packets that leave a moat of the portal's."""
    portal = Portal(3)
    portal.shares.leave([raw(packet) for packet in packets])
    turns = []
    while portal.shares.packets_wait:
        turns.append(bytes(portal.shares.packets(octets)[0][0]))
    return turns


def to(target: str, port: int = 7, size: int = 1400, protocol: int = TCP) -> bytes:
    ports = (443).to_bytes(2, "big") + port.to_bytes(2, "big")
    return ipv4(ports + bytes(size), CORP, target, protocol=protocol)


def test_connections_clients_and_flows_take_turns() -> None:
    bulk = [to("10.201.1.10", size=60_000) for _ in range(6)]
    other_moat, other_client = to("10.201.2.10"), to("10.201.1.11")
    other_flow, ping = to("10.201.1.10", 8), to("10.201.1.10", protocol=1)
    for other in (other_moat, other_client, other_flow, ping):
        turns = order([*bulk, other])
        assert len(turns) == 7
        # The bulk has used up its turn with its first two packets.
        assert turns.index(other) <= 2


def test_ipv6_flows_take_turns() -> None:
    bulk = [ipv6(b"1234" + bytes(60_000), CORP6, PC6, protocol=TCP) for _ in range(4)]
    ping = ipv6(b"ping", CORP6, PC6, protocol=58)
    assert order([*bulk, ping]).index(ping) <= 2


def test_what_nobody_may_send_is_counted_each() -> None:
    portal = Portal(1)
    nowhere, broken = ipv4(target="198.18.0.1"), ipv4()[:-1] + b"xx"
    portal.shares.leave([raw(nowhere), raw(nowhere), raw(broken), raw(b"\x45")])
    assert portal.counters.snapshot() == {"out-malformed": 2, "out-no-policy": 2}
    assert not portal.shares.packets_wait


def test_a_flow_without_an_end_is_dropped_by_name() -> None:
    portal = Portal(2)
    for _ in range(100):
        portal.shares.leave([raw(to("10.201.1.10", size=60_000))])
    portal.shares.leave([raw(to("10.201.2.10"))])
    assert set(portal.counters.snapshot()) == {"out-over-share"}
    left = portal.shares.packets(ENOUGH)
    assert sum(len(packet) for packet, _ in left) < 3 << 20
    bursts: list[Burst] = list(portal.esp.encapsulate(left, 0.0))
    assert {burst.peer.host for burst in bursts} == {"192.0.2.1", "192.0.2.2"}
    assert MOAT.host not in {burst.peer.host for burst in bursts}
