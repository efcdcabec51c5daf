"""What both sides say when it does not work, how often they try, and what they never say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from network import (
    EMPTY,
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    exchange_of,
    moat_config,
    new_signer,
    portal_config,
    tables,
)

from moatvpn.ike.backoff import FIRST_SECONDS, MOST_SECONDS, Backoff
from moatvpn.ike.diagnosis import LINES_A_MINUTE, MOST_STRANGERS, Diagnosis
from moatvpn.ike.events import ChildUp, IkeUp, Notice
from moatvpn.ike.failure import Failure
from moatvpn.ike.secrets import ConnectionSecrets
from moatvpn.ike.status import status_of
from moatvpn.wire.algorithms import CipherSuite, Group
from moatvpn.wire.ike_header import Exchange

PSK: dict[str, Any] = {"authentication": "psk", "remote_public_keys": ()}


def two(at_moat: dict[str, Any], at_portal: dict[str, Any]) -> tuple[Network, Peer, Peer]:
    """Return a moat and a portal whose settings differ from those that fit."""
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, **at_portal), 0.0)
    moat.ike.add_connection(moat_config(portal, **at_moat), 0.0)
    return network, moat, portal


def failure(peer: Peer) -> Any:
    (name,) = peer.ike._context.connections
    record = peer.ike.status(name).failure
    assert record is not None
    return record


def warnings(peer: Peer) -> list[str]:
    return [e.text for e in peer.kinds(Notice) if e.level == "warning"]


OTHER_KEY = (new_signer().public_text,)
# What differs at the moat and at the portal; what each of them says.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str], tuple[str, str]]] = {
    "the moat's key": (
        {},
        {"remote_public_keys": OTHER_KEY},
        ("peer", "AUTHENTICATION_FAILED"),
        ("here", "signed with a key that is none of its own"),
    ),
    "the portal's key": (
        {"remote_public_keys": OTHER_KEY},
        {},
        ("here", "signed with a key that is none of its own"),
        ("peer", "AUTHENTICATION_FAILED"),
    ),
    "whom the moat looks for": (
        {"remote_identity": "portal2.example.net"},
        {},
        ("peer", "AUTHENTICATION_FAILED"),
        ("here", "looks for another one than portal.example.net"),
    ),
    "selectors": (
        {},
        {"remote_selectors": ("10.9.9.0/24",)},
        ("peer", "TS_UNACCEPTABLE"),
        ("here", "TS_UNACCEPTABLE"),
    ),
    "suites of ESP": (
        {"esp_suites": (CipherSuite.AES_256_GCM,)},
        {"esp_suites": (CipherSuite.CHACHA20_POLY1305,)},
        ("peer", "NO_PROPOSAL_CHOSEN"),
        ("here", "NO_PROPOSAL_CHOSEN"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_sides_say_what_failed_where_and_what_to_do(case):
    at_moat, at_portal, at_the_moat, at_the_portal = CASES[case]
    network, moat, portal = two(at_moat, at_portal)
    network.run(0.6)
    assert not moat.kinds(IkeUp)
    assert tables(portal) == EMPTY
    for peer, (side, what) in ((moat, at_the_moat), (portal, at_the_portal)):
        found = failure(peer).failure
        assert found.side == side
        assert what in found.what
        assert found.remedy
        # One line says all of it.
        (line,) = warnings(peer)
        assert found.what in line
        assert found.remedy in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "changes",
    [{"ike_suites": (CipherSuite.CHACHA20_POLY1305,)}, {"groups": (Group.MODP_3072,)}],
)
def test_a_refusal_in_clear_is_told_and_ends_nothing(changes):
    """The portal has no IKE proposal in common with the moat.

    HDR, SAi1, KEi, Ni  ---->
                        <----  HDR, N(NO_PROPOSAL_CHOSEN)
    """
    at_portal = {"ike_suites": (CipherSuite.AES_256_GCM,), "groups": (Group.X25519,)}
    network, moat, portal = two(changes, at_portal)
    network.run(0.5)
    assert failure(moat).failure.side == "peer"
    assert "NO_PROPOSAL_CHOSEN" in failure(moat).failure.what
    assert tables(moat)["ike_sas"] == 1  # it might be a lie
    network.run(20.0)
    assert "NO_PROPOSAL_CHOSEN" in failure(moat).failure.what  # not: no answer
    assert len(warnings(moat)) == 1
    assert tables(portal) == EMPTY


def test_nobody_who_answers_is_told_as_that():
    network, moat, portal = two({}, {})
    network.peers.remove(portal)
    network.run(30.0)
    assert failure(moat).failure.side == "between"
    assert "no answer to IKE_SA_INIT" in failure(moat).failure.what
    network.join(portal)
    network.lose = lambda datagram: exchange_of(datagram)[0] == Exchange.IKE_AUTH
    network.run(60.0)
    assert "no answer to IKE_AUTH" in failure(moat).failure.what


def test_what_failed_once_is_remembered_once_it_works():
    network, moat, portal = two({}, {"remote_public_keys": OTHER_KEY})
    network.run(5.0)
    portal.ike.remove_connection("c0001", network.now)
    portal.ike.add_connection(portal_config(moat), network.now)
    network.run(30.0)
    assert connected(moat, portal)
    assert failure(moat).failure.side == "peer"
    assert failure(moat).when < 30.0


# How often


def calls(network: Network) -> int:
    return sum(exchange_of(d) == (Exchange.IKE_SA_INIT, False) for d in network.log)


def test_a_refused_moat_calls_less_and_less_but_never_gives_up():
    network, moat, portal = two({}, {"remote_public_keys": OTHER_KEY})
    network.run(600.0)
    assert calls(network) <= 12
    network.run(3600.0)
    assert 20 <= calls(network) <= 30
    portal.ike.remove_connection("c0001", network.now)
    portal.ike.add_connection(portal_config(moat), network.now)
    network.run(network.now + MOST_SECONDS)
    assert connected(moat, portal)
    # What has worked makes the next refusal count as the first.
    before = calls(network)
    portal.ike.remove_connection("c0001", network.now)
    portal.ike.add_connection(portal_config(moat, remote_public_keys=OTHER_KEY), network.now)
    network.run(network.now + 20.0)
    assert calls(network) - before >= 4


def test_a_change_of_address_or_of_settings_makes_it_call_at_once():
    network, moat, portal = two({}, {"remote_public_keys": OTHER_KEY})
    network.run(1000.0)
    before = calls(network)
    moat.host = "192.0.2.77"
    moat.ike.local_address_changed(network.now)
    network.run(network.now + 5.0)
    assert calls(network) - before >= 3  # at once, then after a second and after two
    before = calls(network)
    network.run(network.now + 700.0)
    moat.ike.remove_connection("portal", network.now)
    moat.ike.add_connection(moat_config(portal), network.now)
    before = calls(network)
    network.run(network.now + 5.0)
    assert calls(network) - before >= 3


def test_the_wait_doubles_to_its_limit_with_jitter():
    least, most = Backoff(lambda: 0.0), Backoff(lambda: 1.0)
    waits = [(least.wait(), most.wait()) for _ in range(12)]
    assert waits[0] == (0.75 * FIRST_SECONDS, FIRST_SECONDS)
    assert waits[3] == (6.0, 8.0)
    assert waits[-1] == (0.75 * MOST_SECONDS, MOST_SECONDS)
    least.reset()
    assert least.wait() == 0.75 * FIRST_SECONDS


# What strangers can cause


def test_a_stranger_is_told_with_the_name_that_it_gave():
    network, moat, portal = two({}, {"remote_identity": "m2.example.net"})
    network.run(0.6)
    (stranger,) = portal.ike.strangers()
    assert (stranger.peer, stranger.identity) == (MOAT_HOST, MOAT)
    assert stranger.failure.side == "here"
    (line,) = warnings(portal)
    assert MOAT_HOST in line
    assert MOAT in line
    assert portal.ike.status("c0001").failure is None
    assert "AUTHENTICATION_FAILED" in failure(moat).failure.what


def diagnosed() -> tuple[Diagnosis, list[str]]:
    lines: list[str] = []
    return Diagnosis(lambda name, level, text: lines.append(text)), lines


def test_strangers_are_few_and_their_names_short_whatever_they_do():
    diagnosis, lines = diagnosed()
    for n in range(1000):
        failed = Failure("here", "it is unknown", "Look")
        diagnosis.of_stranger(failed, (f"203.0.113.{n % 250}", f"\x1b[2J{n}" + "x" * 500), n / 100)
    strangers = diagnosis.strangers()
    assert len(strangers) == MOST_STRANGERS
    assert all(len(s.identity) <= 64 and s.identity.isprintable() for s in strangers)
    assert strangers[0].identity.startswith("?[2J999")
    assert len(lines) == LINES_A_MINUTE + 1
    assert not any("\x1b" in line for line in lines)
    diagnosis.of_stranger(Failure("here", "it is unknown", "Look"), ("192.0.2.1", "again"), 100.0)
    assert "again" in lines[-1]


def test_the_same_failure_is_said_once_a_minute_and_counted():
    diagnosis, lines = diagnosed()
    record, failed = None, Failure("here", "a proof", "Look")
    for second in range(150):
        peer = ("192.0.2.10", MOAT)
        record = diagnosis.of_connection(record, "c1", failed, peer, float(second))
    assert record is not None
    assert record.count == 150
    assert len(lines) == 3
    other = Failure("here", "another one", "Look")
    record = diagnosis.of_connection(record, "c1", other, ("192.0.2.10", MOAT), 150.0)
    assert (record.count, len(lines)) == (1, 4)


def test_who_claims_a_name_changes_nothing_of_its_established_connection():
    network, moat, portal = two({}, {})
    network.run(1.0)
    thief = Peer(MOAT, "203.0.113.66", 5)
    network.join(thief)
    thief.ike.add_connection(moat_config(portal), network.now)
    network.run(30.0)
    assert "none of its own" in failure(portal).failure.what
    assert failure(portal).peer == "203.0.113.66"
    assert connected(moat, portal)
    assert len(portal.kinds(IkeUp)) == 1
    assert tables(portal)["ike_sas"] == 1


# What is never said


def material(*peers: Peer) -> set[bytes]:
    """Return every secret that the peers have now."""
    found: set[bytes] = set()
    for peer in peers:
        for sa in peer.ike._context.ike_sas.values():
            if sa.keys is not None:
                values = [getattr(sa.keys, name) for name in sa.keys.__dataclass_fields__]
                found |= {v for v in values if isinstance(v, bytes) and len(v) >= 16}
        for up in peer.kinds(ChildUp):
            found |= {up.child.key_in, up.child.key_out}
    return found


def spellings(secret: bytes) -> list[str]:
    """Return how a secret might stand in a text, any eight octets of it."""
    import base64

    parts = [secret[:8], secret[-8:]]
    return [
        form
        for part in parts
        for form in (part.hex(), repr(part)[2:-1], base64.b64encode(part).decode()[:10])
    ]


def all_text(peers: list[Peer]) -> str:
    said = []
    for peer in peers:
        peer.take_events()
        said += [repr(event) + str(event) for event in peer.events]
        context = peer.ike._context
        for connection in context.connections.values():
            said += [repr(status_of(connection)), repr(connection.config)]
            said += [repr(connection.authentication), repr(connection.failure)]
        said += [repr(sa) for sa in context.ike_sas.values()]
        said += [repr(secrets) for secrets in context.init_secrets.values()]
        said.append(repr(peer.ike.strangers()))
    return "\n".join(said)


Story = Callable[[Network, Peer, Peer], None]


@pytest.mark.parametrize("psks", [(b"one secret of both boxes",) * 2, (b"a" * 20, b"b" * 20)])
def test_no_text_at_any_level_holds_a_secret(psks):
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    secrets = [ConnectionSecrets(psk=psk) for psk in psks]
    portal.ike.add_connection(portal_config(moat, **PSK), 0.0, secrets[1])
    moat.ike.add_connection(moat_config(portal, **PSK), 0.0, secrets[0])
    seen: set[bytes] = set(psks)
    texts: list[str] = [repr(secrets)]

    def look() -> None:
        seen.update(material(moat, portal))
        texts.append(all_text([moat, portal]))

    network.each_step = look
    network.run(2.0)
    if psks[0] == psks[1]:
        moat.ike.rekey("portal", "ike", network.now)
        moat.ike.rekey("portal", "child", network.now)
        network.run(10.0)
        assert len(seen) > 10
    text = "\n".join(texts)
    assert "Notice" in text or psks[0] == psks[1]
    found = [secret.hex() for secret in seen if any(form in text for form in spellings(secret))]
    assert found == []
