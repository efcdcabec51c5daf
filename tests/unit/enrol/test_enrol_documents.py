"""What the operator signs for enrolment is believed, by the keys of today, and nothing else is."""

from __future__ import annotations

import itertools

import pytest
from enrolling import PORTAL_KEY, configuration, connection
from hypothesis import given
from hypothesis import strategies as st
from policies import new_seal

from moatvpn.enrol.documents import (
    Voucher,
    check_server,
    open_configuration,
    open_voucher,
    seal_configuration,
    seal_handover,
    seal_voucher,
    walk,
)
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import ConfigError

FIRST, SECOND, THIRD, OTHER = (new_seal() for _ in range(4))
TRUST = (FIRST.public_text,)
CHAIN = (
    seal_handover(SECOND.public_text, FIRST),
    seal_handover(THIRD.public_text, SECOND),
)
SETTINGS = seal_configuration(configuration(), FIRST)
HERE, THERE = "ab" * 32, "cd" * 32


def test_settings_come_out_as_they_were_signed():
    assert open_configuration(SETTINGS, TRUST) == configuration()


def test_the_digest_is_of_all_but_the_serial():
    assert configuration(1).digest == configuration(2).digest
    changed = configuration(connections=(connection(PORTAL_KEY, initiate=False),))
    assert changed.digest != configuration().digest


@pytest.mark.parametrize(
    "data",
    [
        SETTINGS.replace(b"moat-configuration-1", b"moat-voucher-1"),
        seal_configuration(configuration(), OTHER),
        seal_voucher(Voucher(HERE, 1), FIRST),
        seal_configuration(configuration(connections=(connection(PORTAL_KEY),) * 2), FIRST),
        b"",
    ],
    ids=["renamed", "anothers", "a voucher", "a name twice", "nothing"],
)
def test_settings_that_the_operator_has_not_signed_are_refused(data):
    with pytest.raises(ConfigError):
        open_configuration(data, TRUST)


@given(st.data())
def test_settings_changed_anywhere_are_refused(data):
    place = data.draw(st.integers(0, len(SETTINGS) - 1))
    other = bytearray(SETTINGS)
    other[place] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_configuration(bytes(other), TRUST)
    except ConfigError:
        return
    assert opened == configuration()  # blanks between JSON's tokens mean nothing


def test_a_box_that_was_away_walks_from_key_to_key():
    assert walk(TRUST, CHAIN) == (THIRD.public_text,)
    assert walk((SECOND.public_text,), CHAIN) == (THIRD.public_text,)
    assert walk((THIRD.public_text,), CHAIN) == (THIRD.public_text,)


def test_a_key_that_has_handed_over_is_believed_no_more():
    keys = walk(TRUST, CHAIN)
    assert walk(keys, (seal_handover(OTHER.public_text, FIRST),)) == keys
    with pytest.raises(ConfigError):
        open_configuration(SETTINGS, keys)


def test_a_chain_with_a_gap_leads_nowhere():
    assert walk(TRUST, CHAIN[1:]) == TRUST
    assert walk(TRUST, tuple(reversed(CHAIN))) == (SECOND.public_text,)


def test_nobody_hands_over_for_another():
    forged = seal_handover(OTHER.public_text, OTHER)
    signed_by_another = seal_handover(OTHER.public_text, SECOND)
    assert walk(TRUST, (forged, signed_by_another, SETTINGS, b"{}")) == TRUST
    both = (FIRST.public_text, SECOND.public_text)
    assert walk(both, (signed_by_another,)) == (FIRST.public_text, OTHER.public_text)


@given(st.lists(st.sampled_from([*CHAIN, SETTINGS, b"", b"{}", b"\xff"]), max_size=8))
def test_whatever_comes_the_keys_are_of_the_chain(files):
    assert walk(TRUST, files)[0] in {each.public_text for each in (FIRST, SECOND, THIRD)}


def test_no_handover_to_what_is_no_key():
    with pytest.raises(ConfigError, match="successor"):
        seal_handover("nonsense", FIRST)


def test_the_voucher_is_for_one_certificate():
    voucher = seal_voucher(Voucher(HERE, 5), FIRST)
    assert open_voucher(voucher, TRUST) == check_server(voucher, TRUST, HERE, 5) == Voucher(HERE, 5)


@pytest.mark.parametrize(
    ("certificate", "seal", "seen", "reason"),
    [
        (THERE, FIRST, 5, Reason.SERVER),
        (HERE, OTHER, 5, Reason.SERVER),
        (HERE, FIRST, 6, Reason.REPLAYED),
    ],
    ids=["another certificate", "another signature", "an older one"],
)
def test_whom_the_operator_does_not_vouch_for_is_another(certificate, seal, seen, reason):
    with pytest.raises(EnrolError) as refused:
        check_server(seal_voucher(Voucher(HERE, 5), seal), TRUST, certificate, seen)
    assert refused.value.reason is reason


def test_no_signature_of_one_kind_passes_for_another():
    files = (SETTINGS, seal_voucher(Voucher(HERE, 1), FIRST), CHAIN[0])
    opened = []
    for data, read in itertools.product(files, (open_configuration, open_voucher)):
        try:
            read(data, TRUST)
        except ConfigError:
            continue
        opened.append((files.index(data), read))
    assert opened == [(0, open_configuration), (1, open_voucher)]
