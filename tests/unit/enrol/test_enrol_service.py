"""A box and the enrolment service on a real socket: TLS, claims, settings, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time

import pytest
from boxes import MOAT, wait_for
from enrolling import DAY, NOW, Operator, configuration, desk, new_signer, running
from policies import new_seal

from moatvpn.crypto.sign import verify
from moatvpn.enrol.claims import new_token
from moatvpn.enrol.client import Trust, ask
from moatvpn.enrol.documents import open_configuration, seal_handover
from moatvpn.enrol.journal import BOUND, MOST_REFUSALS, Journal, read_journal
from moatvpn.enrol.messages import (
    Claim,
    Configure,
    read_answer,
    request_line,
)
from moatvpn.enrol.proof import proof_octets, prove
from moatvpn.enrol.published import publish, read_published
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.enrol.service import Bounds
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.ike.gate import Rate

PATIENCE = 20.0


@pytest.fixture
def operator():
    return Operator()


@pytest.fixture
def trust(operator):
    return Trust((operator.seal.public_text,))


def claim(operator, signer):
    return Claim(operator.token, signer.public_text)


def configure(signer, serial=0, identity=MOAT.identity):
    return Configure(identity, signer.public_text, serial)


def refusal(service, request, signer, trust):
    with pytest.raises(EnrolError) as refused:
        ask(service.server, request, signer, trust)
    return refused.value.reason


def test_a_box_claims_its_record_and_then_asks_by_its_key(tmp_path, operator, trust):
    signer = new_signer()
    with running(operator, tmp_path) as service:
        answer, _ = ask(service.server, claim(operator, signer), signer, trust)
        assert answer.identity == MOAT.identity
        assert open_configuration(answer.configuration, trust.keys) == configuration()
        answer, _ = ask(service.server, configure(signer), signer, trust)
        assert open_configuration(answer.configuration, trust.keys) == configuration()
        answer, _ = ask(service.server, configure(signer, serial=1), signer, trust)
        assert answer.configuration is None
    (seen,) = read_journal((tmp_path / "journal").read_bytes(), "journal")
    assert (seen.what, seen.public_key, seen.source) == (BOUND, signer.public_text, "127.0.0.1")
    assert operator.token not in (tmp_path / "journal").read_text()


def test_a_lost_answer_costs_nothing_even_over_a_restart(tmp_path, operator, trust):
    signer = new_signer()
    for _ in range(2):
        with running(operator, tmp_path) as service:
            for _ in range(2):
                assert ask(service.server, claim(operator, signer), signer, trust)[0].configuration
    assert len(read_journal((tmp_path / "journal").read_bytes(), "journal")) == 1


def test_a_stolen_token_is_refused_and_seen_whoever_comes_second(tmp_path, operator, trust):
    ours, theirs = new_signer(), new_signer()
    with running(operator, tmp_path) as service:
        ask(service.server, claim(operator, ours), ours, trust)
        assert refusal(service, claim(operator, theirs), theirs, trust) is Reason.USED
        assert refusal(service, configure(theirs), theirs, trust) is Reason.UNKNOWN
        assert ask(service.server, configure(ours), ours, trust)[0].configuration
    first, second = read_journal((tmp_path / "journal").read_bytes(), "journal")
    assert (first.what, second.what) == (BOUND, Reason.USED)
    assert second.public_key == theirs.public_text


def test_a_token_of_yesterday_is_refused(tmp_path, operator, trust):
    signer = new_signer()
    with running(operator, tmp_path, now=NOW + DAY) as service:
        assert refusal(service, claim(operator, signer), signer, trust) is Reason.EXPIRED


def test_a_token_that_nobody_made_is_refused_and_costs_no_disk(tmp_path, operator, trust):
    signer = new_signer()
    with running(operator, tmp_path) as service:
        wrong = Claim(new_token(os.urandom), signer.public_text)
        assert refusal(service, wrong, signer, trust) is Reason.UNKNOWN
    assert (tmp_path / "journal").read_bytes() == b""


def test_who_has_not_the_key_gets_nothing(tmp_path, operator, trust):
    ours, theirs = new_signer(), new_signer()
    operator.keys = (ours.public_text,)
    with running(operator, tmp_path) as service:
        assert refusal(service, claim(operator, ours), theirs, trust) is Reason.UNKNOWN
        assert refusal(service, configure(ours), theirs, trust) is Reason.UNKNOWN
        other = configure(ours, identity="m2.moats.example.net")
        assert refusal(service, other, ours, trust) is Reason.UNKNOWN
        assert service.desk.counters[Reason.PROOF] == 2
    assert (tmp_path / "journal").read_bytes() == b""


def test_a_box_that_was_revoked_gets_nothing(tmp_path, operator, trust):
    signer = new_signer()
    operator.keys = (signer.public_text,)
    with running(operator, tmp_path) as service:
        ask(service.server, configure(signer), signer, trust)
        whole = service.desk.published
        voucher = whole.voucher
        service.desk.published = read_published(publish(voucher, (), ()), "published")
        assert refusal(service, configure(signer), signer, trust) is Reason.UNKNOWN
        assert refusal(service, claim(operator, signer), signer, trust) is Reason.UNKNOWN


def test_a_key_that_the_operator_has_ended_is_good_no_more(tmp_path, operator, trust):
    old, new = new_signer(), new_signer()
    with running(operator, tmp_path) as service:
        ask(service.server, claim(operator, old), old, trust)
        # The claim was collected, and the box's key has been rotated since.
        operator.used_key, operator.keys = old.public_text, (new.public_text,)
        service.desk.published = operator.published(service.certificate)
        assert refusal(service, configure(old), old, trust) is Reason.UNKNOWN
        assert ask(service.server, configure(new), new, trust)[0].configuration


def test_a_box_that_was_away_for_half_a_year_walks_to_the_keys_of_today(tmp_path, operator, trust):
    signer, now = new_signer(), new_seal()
    between = new_seal()
    operator.keys = (signer.public_text,)
    operator.handovers = (
        seal_handover(between.public_text, operator.seal),
        seal_handover(now.public_text, between),
    )
    operator.seal, operator.serial, operator.voucher_serial = now, 9, 40
    with running(operator, tmp_path) as service:
        answer, after = ask(service.server, configure(signer, serial=1), signer, trust)
    assert after == Trust((now.public_text,), 40)
    assert open_configuration(answer.configuration, after.keys).serial == 9


def test_a_rogue_service_never_sees_the_token(tmp_path, operator, trust):
    signer, rogue = new_signer(), Operator()
    with running(rogue, tmp_path) as service:
        assert refusal(service, claim(operator, signer), signer, trust) is Reason.SERVER
        # It has copied the true one's voucher, which is for another certificate.
        service.desk.published = operator.published("cd" * 32)
        assert refusal(service, claim(operator, signer), signer, trust) is Reason.SERVER
        assert service.desk.counters["claimed"] == 0
        # Its own certificate was vouched for once, and is no longer.
        service.desk.published = operator.published(service.certificate)
        newer = Trust(trust.keys, 2)
        assert refusal(service, claim(operator, signer), signer, newer) is Reason.REPLAYED
        assert service.desk.counters["claimed"] == 0


def test_a_proof_is_good_once_and_on_one_connection(tmp_path, operator):
    signer = new_signer()
    operator.keys = (signer.public_text,)
    here = desk(operator, tmp_path)
    line = request_line(prove(configure(signer), signer, b"a" * 32, "ab" * 32))
    assert read_answer(here.answer(line, b"a" * 32, "192.0.2.7", now=NOW, ticks=0)).configuration
    with pytest.raises(EnrolError):
        read_answer(here.answer(line, b"b" * 32, "192.0.2.7", now=NOW, ticks=0))
    elsewhere = request_line(prove(configure(signer), signer, b"a" * 32, "cd" * 32))
    with pytest.raises(EnrolError):
        read_answer(here.answer(elsewhere, b"a" * 32, "192.0.2.7", now=NOW, ticks=0))
    assert here.counters[Reason.PROOF] == 2
    here.close()


def test_a_proof_is_no_signature_over_ike():
    octets = proof_octets(configure(new_signer()), b"n" * 32, "ab" * 32)
    # RFC 7296, 3.1: an IKE header's version, where the signed octets of IKE_AUTH begin (2.15).
    assert octets[17] != 0x20
    signer = new_signer()
    asked = prove(configure(signer), signer, b"n" * 32, "ab" * 32)
    assert verify(signer.public_key, asked.proof, proof_octets(asked, b"n" * 32, "ab" * 32))


def secure(service):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(service.server, timeout=PATIENCE)
    return context.wrap_socket(plain)


def until_closed(sock):
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


@pytest.mark.parametrize(
    "line",
    [b"x" * 50_000, b"{}\n", b"\x00\xff\n", b"[" * 1000 + b"\n", b"GET / HTTP/1.1\r\n"],
    ids=["long", "no fields", "octets", "deep", "http"],
)
def test_a_line_of_something_else_is_dropped_and_counted(tmp_path, operator, line):
    with running(operator, tmp_path) as service, secure(service) as sock:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            sock.sendall(line)
        assert len(until_closed(sock).splitlines()) <= 1  # the greeting
        wait_for(lambda: service.desk.counters[Reason.MALFORMED] == 1, "counted", 5)


def test_what_is_no_tls_is_dropped_and_counted(tmp_path, operator):
    with running(operator, tmp_path) as service:
        with socket.create_connection(service.server, timeout=PATIENCE) as sock:
            sock.sendall(b"{}\n" * 100)
            assert b"nonce" not in until_closed(sock)
        wait_for(lambda: service.desk.counters[Reason.SLOW] == 1, "counted", 5)


def test_tls_before_1_3_is_refused(tmp_path, operator):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        running(operator, tmp_path) as service,
        socket.create_connection(service.server, timeout=PATIENCE) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def test_who_says_nothing_is_hung_up_on_and_the_next_one_served(tmp_path, operator, trust):
    bounds = Bounds(connections=2, seconds=0.5)
    signer = new_signer()
    with running(operator, tmp_path, bounds) as service:
        idle = [socket.create_connection(service.server, timeout=PATIENCE) for _ in range(2)]
        with pytest.raises((OSError, EnrolError)):
            ask(service.server, claim(operator, signer), signer, trust)
        wait_for(lambda: service.desk.counters[Reason.SLOW] == 2, "hung up", 10)
        for sock in idle:
            sock.close()
        assert ask(service.server, claim(operator, signer), signer, trust)[0].configuration
        assert service.desk.counters[Reason.TOO_MANY] >= 1


def test_one_address_connects_so_often_and_no_more(tmp_path, operator):
    bounds = Bounds(rate_of_host=Rate(0.001, 5))
    with running(operator, tmp_path, bounds) as service:
        for _ in range(9):
            socket.create_connection(service.server, timeout=PATIENCE).close()
        counters = service.desk.counters
        wait_for(lambda: counters[Reason.TOO_MANY] + counters[Reason.SLOW] == 9, "all seen", 10)
        assert counters[Reason.TOO_MANY] == 4


def test_one_address_holds_so_many_connections_and_no_more(tmp_path, operator):
    bounds = Bounds(of_host=3)
    with running(operator, tmp_path, bounds) as service:
        held = [socket.create_connection(service.server, timeout=PATIENCE) for _ in range(3)]
        counters = service.desk.counters
        with socket.create_connection(service.server, timeout=PATIENCE) as one_more:
            assert until_closed(one_more) == b""
        assert counters == {Reason.TOO_MANY: 1}
        held.pop().close()
        wait_for(lambda: counters[Reason.SLOW] == 1, "the end of one seen", 5)
        with socket.create_connection(service.server, timeout=PATIENCE) as another:
            another.sendall(b"{}\n" * 100)  # no TLS: it was heard, and hung up on for that
            until_closed(another)
            wait_for(lambda: counters[Reason.SLOW] == 2, "another heard", 5)
        assert counters[Reason.TOO_MANY] == 1
        for sock in held:
            sock.close()


def test_a_service_that_drips_holds_no_box(tmp_path, operator, trust):
    listener = socket.create_server(("127.0.0.1", 0))
    signer = new_signer()
    begin = time.monotonic()
    with listener, pytest.raises(OSError, match=r"timed out|too long"):
        ask(listener.getsockname(), claim(operator, signer), signer, trust, patience=0.5)
    assert time.monotonic() - begin < PATIENCE


def test_a_claim_that_is_not_on_the_disk_is_not_made(tmp_path, operator, trust, monkeypatch):
    signer = new_signer()
    with running(operator, tmp_path) as service:
        full = OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(full))
            assert refusal(service, claim(operator, signer), signer, trust) is Reason.BROKEN
        assert (tmp_path / "journal").read_bytes() == b""
        assert refusal(service, configure(signer), signer, trust) is Reason.UNKNOWN
        assert ask(service.server, claim(operator, signer), signer, trust)[0].configuration


def test_a_torn_line_of_the_journal_was_never_answered_by(tmp_path, operator, trust):
    signer = new_signer()
    with running(operator, tmp_path) as service:
        ask(service.server, claim(operator, signer), signer, trust)
    path = tmp_path / "journal"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    journal = Journal(path, lambda: NOW)
    assert path.read_bytes() == whole
    assert journal.owner(signer.public_text) == MOAT.identity
    journal.close()


def test_refusals_fill_no_disk(tmp_path, operator):
    journal = Journal(tmp_path / "journal", lambda: NOW)
    (found,) = operator.published("ab" * 32).claims.values()
    key = new_signer().public_text
    for _ in range(MOST_REFUSALS + 50):
        journal.refuse(found, Reason.USED, key, "192.0.2.7")
    journal.close()
    assert len(read_journal((tmp_path / "journal").read_bytes(), "journal")) == MOST_REFUSALS


@pytest.mark.parametrize("change", [{"at": True}, {"what": "gone"}, {"public_key": "x"}, {"x": 1}])
def test_a_journal_that_was_changed_is_refused(tmp_path, operator, change):
    journal = Journal(tmp_path / "journal", lambda: NOW)
    (found,) = operator.published("ab" * 32).claims.values()
    journal.bind(found, new_signer().public_text, "192.0.2.7")
    journal.close()
    record = json.loads((tmp_path / "journal").read_text()) | change
    (tmp_path / "journal").write_text(json.dumps(record) + "\n")
    with pytest.raises(OperatorError):
        Journal(tmp_path / "journal", lambda: NOW)


def test_a_file_that_is_not_whole_is_not_served_from(operator):
    whole = publish(b"{}", (), operator.published("ab" * 32).entries.values())
    assert len(read_published(whole, "here").entries) == 1
    head = whole[: whole.index(b"\n") + 1]
    for part in (head, b"", whole[:-20], whole + b"{}\n", whole.replace(b"hash", b"hush")):
        with pytest.raises(ConfigError):
            read_published(part, "here")
