"""Claims: made once, used once, cancelled; what services have seen of them is taken in."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select

from moatvpn.enrol.claims import Open, new_token, token_hash
from moatvpn.enrol.journal import Journal, Seen, read_journal
from moatvpn.enrol.reasons import Reason
from moatvpn.errors import OperatorError
from moatvpn.fleet import claims, keys, store
from moatvpn.fleet.audit import history
from moatvpn.fleet.claims import Collected
from moatvpn.fleet.database import Database
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.models import PublicKey

Texts = dict[str, str]
MOAT = "m0001.moats.example.net"
HOME, OTHER = "192.0.2.7", "203.0.113.9"
MONTH = timedelta(days=30)
TOKEN = new_token(os.urandom)
HASH = token_hash(TOKEN)


@pytest.fixture
def stocked(
    database: Database, portal_texts: Texts, customer: Callable[..., Texts], now: datetime
) -> Database:
    """Two customers, the first of whom has a claim for a month."""
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        store.add_customers(session, [(None, customer(1)), (None, customer(2))], "file", now)
        claims.make_claim(session, "c0001", HASH, now, MONTH)
    return database


def new_p384() -> bytes:
    """Return the SubjectPublicKeyInfo of a new key of a kind that no box makes."""
    public_key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Service:
    """The journal of a portal's service."""

    def __init__(self, path: Path, now: datetime) -> None:
        self._path = path
        self._journal = Journal(path, now.timestamp)
        self._claim = Open(HASH, MOAT, now.timestamp() + 1)

    def binds(self, key: str, source: str = HOME) -> None:
        self._journal.bind(self._claim, key, source)

    def refuses(self, key: str, source: str = OTHER) -> None:
        self._journal.refuse(self._claim, Reason.USED, key, source)

    def seen(self) -> list[Seen]:
        return read_journal(self._path.read_bytes(), "journal")


@pytest.fixture
def service(tmp_path: Path, now: datetime) -> Service:
    return Service(tmp_path / "journal", now + timedelta(hours=1))


def collect(database: Database, now: datetime, *services: Service) -> Collected:
    with database.write() as session:
        return claims.collect(session, [each.seen() for each in services], now)


def valid_keys(database: Database, now: datetime) -> list[str]:
    with database.read() as session:
        return [each.key for each in session.scalars(select(PublicKey)) if each.valid(now)]


def test_the_token_is_nowhere(stocked: Database, now: datetime) -> None:
    with stocked.read() as session:
        (claim,) = claims.claims_of(session, "c0001")
        assert claims.is_open(claim, now)
        assert not claims.is_open(claim, now + MONTH)
        kept = [str(vars(row)) for row in (claim, *history(session))]
    assert not any(TOKEN in text for text in kept)


def test_one_open_claim_of_a_customer(stocked: Database, now: datetime) -> None:
    with pytest.raises(OperatorError, match="cancel"), stocked.write() as session:
        claims.make_claim(session, "c0001", "0" * 64, now, MONTH)
    with stocked.write() as session:
        claims.make_claim(session, "c0001", "0" * 64, now + MONTH, MONTH)


def test_a_revoked_customer_gets_none(stocked: Database, now: datetime) -> None:
    with stocked.write() as session:
        store.set_customer(session, "c0002", {"status": "revoked"}, now)
    with pytest.raises(OperatorError, match="revoked"), stocked.write() as session:
        claims.make_claim(session, "c0002", "0" * 64, now, MONTH)


def test_a_bound_key_is_the_moats_once(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime
) -> None:
    with stocked.write() as session:
        keys.record_key(session, MOAT, key(1), now)  # of the box that the new one replaces
    service.binds(key(2))
    later = now + timedelta(hours=2)
    assert collect(stocked, later, service) == Collected((MOAT,), ())
    assert valid_keys(stocked, later) == [key(2)]
    assert collect(stocked, later, service) == Collected((), ())
    with stocked.read() as session:
        (claim,) = claims.claims_of(session)
        assert (claim.used, claim.used_key) == (now + timedelta(hours=1), key(2))
        used = [each for each in history(session, "c0001") if each.what == "use"]
        assert [each.after for each in used] == [{"used_key": key(2), "source": HOME}]


def test_a_copied_token_is_seen_and_not_recorded(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime, tmp_path: Path
) -> None:
    service.binds(key(1))
    service.refuses(key(2))
    # The thief tries another portal's service, which knew nothing of the first.
    second = Service(tmp_path / "second", now + timedelta(hours=2))
    second.binds(key(3), OTHER)
    found = collect(stocked, now + MONTH, service, second)
    assert found.recorded == (MOAT,)
    assert len(found.alarms) == 2
    assert all(OTHER in alarm for alarm in found.alarms)
    assert valid_keys(stocked, now + MONTH) == [key(1)]
    # Told of once, and kept.
    assert collect(stocked, now + MONTH, service, second) == Collected((), ())
    with stocked.read() as session:
        kept = [each.after for each in history(session, MOAT) if each.what == "alarm"]
        assert kept == [{"alarm": alarm} for alarm in found.alarms]
        (claim,) = claims.claims_of(session)
        assert claim.refused == 2


def test_a_cancelled_claim_binds_nothing(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime
) -> None:
    service.binds(key(1))
    with stocked.write() as session:
        assert claims.cancel_claims(session, get_customer(session, "c0001"), now) == 1
        assert claims.cancel_claims(session, get_customer(session, "c0001"), now) == 0
    (alarm,) = collect(stocked, now, service).alarms
    assert "cancelled" in alarm
    assert valid_keys(stocked, now) == []


def test_a_revoked_customers_claim_is_never_used_again(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime
) -> None:
    """A thief's key that a portal bound does not come back with a customer who is ordered again."""
    service.binds(key(1), OTHER)
    for status in ("revoked", "ordered"):
        with stocked.write() as session:
            store.set_customer(session, "c0001", {"status": status}, now)
        found = collect(stocked, now, service)
        assert found.recorded == ()
        assert len(found.alarms) == (status == "revoked")
    assert valid_keys(stocked, now) == []


def test_a_claim_with_a_key_of_another_kind_stops_no_others(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime, tmp_path: Path
) -> None:
    """Whoever has a token may claim with a key that the database has no room for."""
    service.binds(base64.b64encode(new_p384()).decode())
    with stocked.write() as session:
        claims.make_claim(session, "c0002", "0" * 64, now, MONTH)
    second = tmp_path / "second"
    moat = "m0002.moats.example.net"
    journal = Journal(second, now.timestamp)
    journal.bind(Open("0" * 64, moat, now.timestamp() + 1), key(2), HOME)
    with stocked.write() as session:
        seen = [service.seen(), read_journal(second.read_bytes(), "second")]
        found = claims.collect(session, seen, now)
    assert found.recorded == (moat,)
    (alarm,) = found.alarms
    assert "Ed25519" in alarm


def test_a_key_that_is_another_boxs_is_an_alarm(
    stocked: Database, service: Service, key: Callable[[int], str], now: datetime
) -> None:
    service.binds(key(1))
    with stocked.write() as session:
        keys.record_key(session, "m0002.moats.example.net", key(1), now)
    found = collect(stocked, now, service)
    assert found.recorded == ()
    assert len(found.alarms) == 1
    with stocked.read() as session:
        assert claims.claims_of(session)[0].used is None
