"""The lines of an enrolment are read whole and exactly, or refused in one way."""

from __future__ import annotations

import json

import pytest
from enrolling import new_signer
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.enrol.messages import (
    MOST_REQUEST,
    MOST_SERIAL,
    VERSION,
    Answer,
    Claim,
    Configure,
    Hello,
    answer_line,
    hello_line,
    read_answer,
    read_hello,
    read_request,
    refusal_line,
    request_line,
)
from moatvpn.enrol.reasons import TOLD, EnrolError, Reason

KEY = new_signer().public_text
CLAIM = Claim("A" * 43, KEY, b"p" * 80)
CONFIGURE = Configure("m1.moats.example.net", KEY, 7, b"p" * 80)
READERS = (read_hello, read_request, read_answer)


@pytest.mark.parametrize("request_", [CLAIM, CONFIGURE], ids=["claim", "configure"])
def test_a_request_comes_out_as_it_went_in(request_):
    line = request_line(request_)
    assert line.endswith(b"\n")
    assert read_request(line) == request_


def test_hello_and_answers_come_out_as_they_went_in():
    hello = Hello(b"n" * 32, b"{}", (b"{}", b"[]"))
    assert read_hello(hello_line(hello)) == hello
    for answer in (Answer("m1.example.net", b"{}"), Answer("m1.example.net", None)):
        assert read_answer(answer_line(answer)) == answer


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_is_told_by_a_reason_that_may_be_told(reason):
    with pytest.raises(EnrolError) as refused:
        read_answer(refusal_line(reason))
    assert refused.value.reason is (reason if reason in TOLD else Reason.UNKNOWN)


def changed(request_, **changes):
    record = json.loads(request_line(request_)) | changes
    return json.dumps({k: v for k, v in record.items() if v != "gone"}).encode() + b"\n"


def reason_of(line):
    with pytest.raises(EnrolError) as refused:
        read_request(line)
    return refused.value.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "moat-enrol-2"},
        {"version": "gone"},
        {"ask": "erase"},
        {"ask": ["claim"]},
        {"token": "A" * 42},
        {"token": "A" * 42 + "="},
        {"token": "gone"},
        {"public_key": "AAAA"},
        {"public_key": 5},
        {"proof": "?"},
        {"proof": "A"},
        {"proof": "gone"},
        {"identity": "m1.example.net"},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_claim_with_anything_else_in_it_is_malformed(changes):
    assert reason_of(changed(CLAIM, **changes)) is Reason.MALFORMED


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "M1.example.net"},
        {"identity": "../m1"},
        {"identity": None},
        {"serial": -1},
        {"serial": True},
        {"serial": 1.0},
        {"serial": MOST_SERIAL + 1},
        {"token": "A" * 43},
    ],
    ids=str,
)
def test_a_question_with_anything_else_in_it_is_malformed(changes):
    assert reason_of(changed(CONFIGURE, **changes)) is Reason.MALFORMED


TWICE = b'{"version":"%s","version":"%s"}\n' % (VERSION.encode(), VERSION.encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        request_line(CLAIM)[:-1],
        b"[" * 2000 + b"\n",
        b"9" * 2000 + b"\n",
        TWICE,
        request_line(CLAIM).replace(b"\n", b" " * MOST_REQUEST + b"\n"),
    ],
    ids=["nothing", "empty", "no fields", "cut", "deep", "a number", "twice", "long"],
)
def test_what_is_no_line_of_ours_is_malformed(line):
    assert reason_of(line) is Reason.MALFORMED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
fields = st.sampled_from(
    ["version", "ask", "token", "identity", "public_key", "serial", "proof", "nonce", "voucher",
     "handovers", "configuration", "refused"]
)  # fmt: skip


@given(st.binary(max_size=400))
def test_octets_raise_nothing_but_a_refusal(data):
    for read in READERS:
        try:
            read(data + b"\n")
        except EnrolError:
            continue


@given(
    st.sampled_from([CLAIM, CONFIGURE]), st.dictionaries(fields, json_values, max_size=5), st.data()
)
def test_values_of_any_kind_raise_nothing_but_a_refusal(request_, changes, data):
    line = changed(request_, **changes)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(line) - 2))
        line = line[:place] + bytes([data.draw(st.integers(0, 255))]) + line[place + 1 :]
    for read in READERS:
        try:
            found = read(line)
        except EnrolError:
            continue
        if isinstance(found, Claim | Configure):
            assert read_request(request_line(found)) == found


def test_a_token_is_not_in_what_is_logged():
    assert "A" * 43 not in repr(CLAIM)
