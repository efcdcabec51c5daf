"""A signed policy is opened by the operator's key, as it was signed, or not at all."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import PASSPHRASE, compiled, new_seal, signed

from moatvpn.crypto.seal import generate_seal, is_encrypted, is_public_text, load_seal
from moatvpn.crypto.sign import generate_private_key
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.policy.rules import compiled_to_bytes
from moatvpn.policy.signed import digest_of, open_policy

SEAL = new_seal()
FILE = signed(SEAL)


def test_what_was_signed_comes_out():
    opened = open_policy(FILE, [SEAL.public_text], "here")
    assert opened.compiled == compiled()
    assert opened.digest == digest_of(compiled())


def test_one_of_several_keys_will_do():
    assert open_policy(FILE, [new_seal().public_text, SEAL.public_text], "here")


@pytest.mark.parametrize("keys", [[], ["nonsense"], [new_seal().public_text]])
def test_without_the_operators_key_nothing_opens(keys):
    with pytest.raises(ConfigError, match="not signed by"):
        open_policy(FILE, keys, "here")


@given(st.data())
def test_an_octet_changed_anywhere_is_refused(data):
    place = data.draw(st.integers(0, len(FILE) - 1))
    other = bytearray(FILE)
    other[place] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_policy(bytes(other), [SEAL.public_text], "here")
    except ConfigError:
        return
    assert opened.compiled == compiled()  # blanks between JSON's tokens mean nothing


def test_the_signature_is_over_the_format_too():
    payload = compiled_to_bytes(compiled())
    bare = base64.b64encode(SEAL.sign(payload)).decode()
    record = json.loads(FILE) | {"signature": bare}
    with pytest.raises(ConfigError, match="not signed by"):
        open_policy(json.dumps(record).encode(), [SEAL.public_text], "here")


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_anything_else_is_refused(data):
    with pytest.raises(ConfigError):
        open_policy(data, [SEAL.public_text], "here")


@pytest.mark.parametrize("key", ["format", "payload", "signature"])
@pytest.mark.parametrize("value", [None, 1, [], {}, "?", "Zm9v", "\ud800"])
def test_a_field_of_another_kind_is_refused(key, value):
    with pytest.raises(ConfigError):
        open_policy(
            json.dumps(json.loads(FILE) | {key: value}).encode(), [SEAL.public_text], "here"
        )


def test_a_key_rests_encrypted():
    pem = generate_seal(PASSPHRASE)
    assert is_encrypted(pem)
    assert is_public_text(load_seal(pem, PASSPHRASE).public_text)
    for wrong in (None, b"", b"another"):
        with pytest.raises(OperatorError, match="cannot be opened"):
            load_seal(pem, wrong)


def test_an_unencrypted_key_is_known_as_one():
    pem = generate_private_key()
    assert not is_encrypted(pem)
    assert is_public_text(load_seal(pem, None).public_text)
