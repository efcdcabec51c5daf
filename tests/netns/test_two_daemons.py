"""Two moatds as real programs: traffic, rekeys, restarts, moves and other connections."""

from __future__ import annotations

import signal

import pytest
from boxes import other_public_key, wait_for
from pair import Pair
from traffic import pings, transfer

from moatvpn.fleet.observed import read_answer

INSIDE, INSIDE6 = "10.50.0.1", "fd00:50::1"


def test_the_tunnel_is_what_was_asked_for(pair: Pair) -> None:
    moat, portal = pair.moat.connection("portal1"), pair.portal.connection("m0001")
    way = "udp" if pair.to_moat["encapsulation"] == "udp" else "esp"
    for row in (moat, portal):
        assert row["state"] == "established"
        assert row["encapsulation"] == way
        assert row["esn"] is True
        assert row["packets_in"] > 0
        assert row["packets_out"] > 0
    assert (moat["role"], portal["role"]) == ("initiator", "responder")
    assert (moat["spi_in"], moat["spi_out"]) == (portal["spi_out"], portal["spi_in"])
    assert moat["ike_spi_i"] == portal["ike_spi_i"]
    # IKE is at port 4500 whether or not envelopes are (RFC 4555, 3.3).
    assert (moat["peer"], portal["peer"]) == ("192.0.2.1:4500", "192.0.2.10:4500")


def test_what_a_fleet_keeps_of_a_tunnel_is_what_moatd_tells(pair: Pair) -> None:
    moat, portal = pair.moat.connection("portal1"), pair.portal.connection("m0001")
    for row, other in ((moat, portal), (portal, moat)):
        (tunnel,) = read_answer({"running": True, "connections": [row]}).tunnels.values()
        assert tunnel.up
        # Rekeys make the IKE SA younger than the tunnel.
        assert tunnel.up_for >= row["established_for"] >= 0
        assert tunnel.key == row["local_key"] == other["remote_key"]
        assert (tunnel.expected, tunnel.lost) == (row["expected_in"], row["lost_in"])


def test_only_envelopes_are_on_the_wild_side(pair: Pair) -> None:
    command = ("tcpdump", "-n", "-i", "wild0", "-c", "8", "ip")
    with pair.portal.popen(*command, stdout=-1, stderr=-1) as seen:
        try:
            assert seen.stderr is not None
            while b"listening on" not in (line := seen.stderr.readline()):
                assert line, "tcpdump ended"
            pair.moat.run("ping", "-c4", "-i0.1", INSIDE)
            output = seen.communicate(timeout=10)[0].decode()
        finally:
            seen.kill()
    lines = output.splitlines()
    assert len(lines) == 8
    kind = "UDP-encap: ESP" if pair.to_moat["encapsulation"] == "udp" else ": ESP"
    assert all(kind in line or "isakmp" in line for line in lines), output


@pytest.mark.parametrize("address", [INSIDE, INSIDE6])
def test_pings_of_every_size(pair: Pair, address: str) -> None:
    for size in ("0", "1", "1400", "1452", "4000"):
        pair.moat.run("ping", "-c1", "-W2", "-s", size, address)


@pytest.mark.parametrize("address", [INSIDE, INSIDE6])
def test_a_transfer_arrives_whole(pair: Pair, address: str) -> None:
    with transfer(pair.moat, pair.portal, address, 16) as result:
        pass
    way = f"{pair.to_moat['encapsulation']}, {address}"
    print(f"TCP from moat to portal, {way}: {result.megabits_a_second:.0f} Mb/s")
    assert result.seconds > 0


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", ["moat", "portal"])
def test_a_rekey_during_a_transfer_loses_nothing(pair: Pair, who: str, sa: str) -> None:
    box, name = {"moat": (pair.moat, "portal1"), "portal": (pair.portal, "m0001")}[who]
    spi = {"child": "spi_in", "ike": "ike_spi_i"}[sa]
    before, drops = box.connection(name)[spi], [pair.moat.drops(), pair.portal.drops()]
    with (
        pings(pair.moat, INSIDE) as answers,
        # At a pace: TCP at full speed fills the kernel's queues until they lose packets.
        transfer(pair.moat, pair.portal, INSIDE, 16, pace=5 << 20),
    ):
        box.moatctl("rekey", name, sa)
        wait_for(lambda: box.connection(name)[spi] != before, f"another {spi}", 5)
    assert answers.sent == answers.received == 300
    assert answers.duplicates == 0
    assert [pair.moat.drops(), pair.portal.drops()] == drops


def test_replacing_by_an_equal_is_no_change(pair: Pair) -> None:
    before = pair.portal.connection("m0001")["spi_in"]
    assert pair.portal.apply("replace", pair.to_moat) == {"changed": False, "running": True}
    assert pair.portal.connection("m0001")["spi_in"] == before


def test_other_connections_come_and_go_without_a_loss(pair: Pair) -> None:
    other = {
        **pair.to_moat,
        "name": "m0002",
        "remote_identity": "m2.moats.example.net",
        "remote_public_keys": [other_public_key()],
        "remote_selectors": ["10.201.2.0/24"],
    }
    portal = pair.portal
    before = portal.connection("m0001")["spi_in"]
    with pings(pair.moat, INSIDE) as answers:
        assert portal.apply("add", other) == {"changed": True, "running": True}
        assert portal.connection("m0002")["state"] == "waiting"
        again = portal.moatctl("add", str(portal.directory / "new.json"), check=False)
        assert again.returncode == 1
        assert "m0002: is there already" in again.stderr
        changed = {**other, "child_lifetime": 600}
        assert portal.apply("replace", changed) == {"changed": True, "running": True}
        assert (portal.connections / "m0002.json").exists()
        assert portal.ctl("delete", "m0002") == {"changed": True, "running": True}
        assert portal.ctl("delete", "m0002") == {"changed": False, "running": True}
    assert not (portal.connections / "m0002.json").exists()
    assert portal.moatctl("show", "m0002", check=False).returncode == 1
    assert answers.sent == answers.received
    assert portal.connection("m0001")["spi_in"] == before


def test_replacing_a_live_connection_sets_it_up_anew(pair: Pair) -> None:
    before = pair.moat.connection("portal1")["spi_in"]
    pair.to_portal["esp_suites"] = ["chacha20-poly1305"]
    assert pair.moat.apply("replace", pair.to_portal)["changed"] is True
    pair.wait_until_up()
    after = pair.moat.connection("portal1")
    assert after["spi_in"] != before
    assert after["suite"] == "chacha20-poly1305"


# A moat that starts calls at once; a portal waits to be called, by a moat that finds it silent.
@pytest.mark.parametrize("who", ["moat", "portal"])
def test_a_killed_daemon_is_back_soon(pair: Pair, who: str) -> None:
    box = {"moat": pair.moat, "portal": pair.portal}[who]
    box.kill(signal.SIGKILL)
    assert pair.pings() == pair.outlives_moatd
    status = box.moatctl("status", check=False)
    assert status.returncode == 3
    assert "does not run" in status.stderr
    box.start()
    assert pair.wait_until_up(5) < 5


def test_a_killed_portal_is_resumed_by_a_ticket(pair: Pair) -> None:
    wait_for(lambda: pair.moat.connection("portal1")["ticket"], "a ticket", 5)
    wait_for((pair.portal.directory / "ticket-keys.json").exists, "the ticket keys", 5)
    before = pair.moat.connection("portal1")["resumptions"]
    pair.portal.kill(signal.SIGKILL)
    # Without the peers' addresses the portal does not call, so it is the moat's turn.
    (pair.portal.directory / "peers.jsonl").unlink(missing_ok=True)
    pair.portal.start()
    assert pair.wait_until_up(5) < 5
    moat, portal = pair.moat.connection("portal1"), pair.portal.connection("m0001")
    assert (moat["resumed"], portal["resumed"]) == (True, True)
    assert (moat["resumptions"], portal["resumptions"]) == (before + 1, 1)


def test_both_killed_at_once(pair: Pair) -> None:
    for box in (pair.moat, pair.portal):
        box.kill(signal.SIGKILL)
    for box in (pair.moat, pair.portal):
        box.start()
    assert pair.wait_until_up() < 5


def test_an_orderly_end_tells_the_peer(pair: Pair) -> None:
    assert pair.moat.kill(signal.SIGTERM) == 0
    assert not pair.moat.socket.exists()
    wait_for(lambda: pair.portal.connection("m0001")["state"] == "waiting", "the Delete", 2)
    pair.moat.start()
    pair.wait_until_up()


def test_the_moats_wild_address_changes(pair: Pair) -> None:
    before = pair.moat.connection("portal1")["spi_in"]
    pair.moat.ip("address", "del", "192.0.2.10/24", "dev", "wild0")
    pair.moat.ip("address", "add", "192.0.2.20/24", "dev", "wild0")
    assert pair.wait_until_up() < 10
    wait_for(
        lambda: str(pair.portal.connection("m0001")["peer"]).startswith("192.0.2.20:"),
        "the portal knows the new address",
        5,
    )
    # The same SAs went on: nothing was set up anew.
    assert pair.moat.connection("portal1")["spi_in"] == before
    with pings(pair.moat, INSIDE, 50) as answers:
        pass
    assert answers.received == answers.sent


def test_without_a_tunnel_raw_packets_are_dropped(pair: Pair) -> None:
    pair.moat.moatctl("delete", "portal1", "--connections", str(pair.moat.connections))
    before = pair.moat.drops().get("out-no-policy", 0)
    assert not pair.pings()
    assert pair.moat.drops()["out-no-policy"] > before
    assert pair.moat.apply("add", pair.to_portal) == {"changed": True, "running": True}
    pair.wait_until_up()
