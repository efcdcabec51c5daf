"""ML-KEM-768 as a key exchange method."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.crypto.kex import answer_key_exchange, new_key_exchange
from moatvpn.errors import PeerError
from moatvpn.wire.algorithms import Group, Kem

# A published vector of ML-KEM-768 key generation (C2SP, CCTV, ML-KEM "strcmp"; Wycheproof,
# mlkem_768_test.json, tcId 1): the seed d | z, and both ends of the encapsulation key.
SEED = bytes.fromhex(
    "cbfc4405d1b2a3a386c94c25e0f2d5f5ee92cb0388ff4d6aa04223086d51c3fd"
    "24752da14c9fc3b8ae0d9e4a8b1016b8d8fc69e229c03ea2ef08a4ae0cffc37f"
)
KEY_BEGINS = bytes.fromhex("8b9a7354e8c1c17a9898f96caf99bba1c625ae0983c4d26e60c12f59bc25d756")
KEY_ENDS = bytes.fromhex("486a6822b9bbf59fbfcaedc13284b9813cabdd526e326a6832d3b36efc3102ef")


def test_the_published_key() -> None:
    key = new_key_exchange(Kem.ML_KEM_768, lambda size: SEED[:size])
    assert len(key.public) == 1184
    assert key.public.startswith(KEY_BEGINS)
    assert key.public.endswith(KEY_ENDS)


@pytest.mark.parametrize("method", [*Group, *Kem])
def test_every_method_has_the_same_steps(method: Group | Kem) -> None:
    draw = random.Random(5).randbytes
    ours = new_key_exchange(method, draw)
    public, secret = answer_key_exchange(method, ours.public, draw)
    assert ours.shared_secret(public) == secret
    other, another = answer_key_exchange(method, ours.public, draw)
    assert other != public
    assert another != secret


def test_lengths() -> None:
    ours = new_key_exchange(Kem.ML_KEM_768, random.Random(6).randbytes)
    public, secret = answer_key_exchange(Kem.ML_KEM_768, ours.public, random.randbytes)
    assert (len(public), len(secret)) == (1088, 32)
    for wrong in (public[:-1], public + b"\0", b""):
        with pytest.raises(PeerError):
            ours.shared_secret(wrong)
    # Implicit rejection: a secret, but not the peer's.
    assert ours.shared_secret(bytes(1088)) not in (secret, bytes(32))


@given(st.binary(min_size=1, max_size=40))
def test_no_public_value_does_more_than_be_refused(octets: bytes) -> None:
    for public in (octets, (octets * 1184)[:1184]):
        try:
            ciphertext, _ = answer_key_exchange(Kem.ML_KEM_768, public, random.randbytes)
        except PeerError:
            continue
        assert len(ciphertext) == 1088


def test_a_coefficient_out_of_range_is_refused() -> None:
    """FIPS 203, 7.2: the key has to be what its decoding encodes to."""
    with pytest.raises(PeerError):
        answer_key_exchange(Kem.ML_KEM_768, b"\xff" * 1184, random.randbytes)
