"""One token binds one key: used once, by the box that has it, before its time is over."""

from __future__ import annotations

import os

import pytest
from enrolling import DAY, NOW, new_signer

from moatvpn.enrol.claims import OF_A_CLAIM, Claims, Open, new_token, token_hash
from moatvpn.enrol.reasons import EnrolError, Reason

TOKEN = new_token(os.urandom)
OURS, THEIRS = new_signer().public_text, new_signer().public_text


class Kept:
    """Claims in memory."""

    def __init__(self, *claims):
        self.claims = {claim.token_hash: claim for claim in claims}
        self.owners = {}
        self.seen = []

    def find(self, token_hash):
        return self.claims.get(token_hash)

    def owner(self, public_key):
        return self.owners.get(public_key)

    def bind(self, claim, public_key, source):
        self.claims[claim.token_hash] = Open(
            claim.token_hash, claim.identity, claim.expires, public_key
        )
        self.owners[public_key] = claim.identity

    def refused(self, claim, reason, public_key, source):
        self.seen.append((claim.identity, reason, public_key, source))


@pytest.fixture
def kept():
    return Kept(Open(token_hash(TOKEN), "m1.example.net", NOW + DAY))


@pytest.fixture
def claims(kept):
    return Claims(kept, os.urandom)


def refusal(claims, token=TOKEN, key=OURS, now=NOW, ticks=0.0):
    with pytest.raises(EnrolError) as refused:
        claims.present(token, key, "192.0.2.7", now=now, ticks=ticks)
    return refused.value.reason


def test_a_token_has_256_bits_and_is_kept_by_its_hash_alone():
    assert len(TOKEN) == 43
    assert len({new_token(os.urandom) for _ in range(100)}) == 100
    assert TOKEN not in token_hash(TOKEN)


def test_the_first_key_is_bound(claims, kept):
    assert claims.present(TOKEN, OURS, "192.0.2.7", now=NOW, ticks=0).identity == "m1.example.net"
    assert kept.find(token_hash(TOKEN)).used_key == OURS


def test_the_same_box_may_ask_again_even_after_the_claims_time(claims, kept):
    for number, now in enumerate((NOW, NOW + 1, NOW + 200 * DAY)):
        claims.present(TOKEN, OURS, "192.0.2.7", now=now, ticks=number * 60)
    assert kept.seen == []


def test_another_key_is_refused_and_seen_with_where_it_came_from(claims, kept):
    claims.present(TOKEN, OURS, "192.0.2.7", now=NOW, ticks=0)
    assert refusal(claims, key=THEIRS) is Reason.USED
    assert kept.seen == [("m1.example.net", Reason.USED, THEIRS, "192.0.2.7")]
    assert kept.find(token_hash(TOKEN)).used_key == OURS


def test_an_expired_token_is_refused_and_seen(claims, kept):
    assert refusal(claims, now=NOW + DAY) is Reason.EXPIRED
    assert kept.seen == [("m1.example.net", Reason.EXPIRED, OURS, "192.0.2.7")]
    assert kept.find(token_hash(TOKEN)).used_key is None


def test_a_key_of_another_box_is_a_copy_of_its_disk(claims, kept):
    kept.owners[OURS] = "m2.example.net"
    assert refusal(claims) is Reason.COPIED
    assert kept.find(token_hash(TOKEN)).used_key is None


def test_a_token_that_nobody_made_is_unknown(claims, kept):
    assert refusal(claims, token=new_token(os.urandom)) is Reason.UNKNOWN
    assert kept.seen == []


def test_one_claim_is_looked_at_so_often_and_no_more(claims, kept):
    claims.present(TOKEN, OURS, "192.0.2.7", now=NOW, ticks=0)
    reasons = [refusal(claims, key=THEIRS) for _ in range(30)]
    assert reasons.count(Reason.USED) == OF_A_CLAIM.burst - 1 == len(kept.seen)
    assert reasons[-1] is Reason.TOO_MANY
    later = 1 / OF_A_CLAIM.a_second
    claims.present(TOKEN, OURS, "192.0.2.7", now=NOW, ticks=later)
