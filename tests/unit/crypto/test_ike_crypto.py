"""IKE's cryptography against published vectors, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.crypto import keymat, sign
from moatvpn.crypto.ike_aead import ICV_LENGTH, IV_LENGTH, OpeningKey, SealingKey
from moatvpn.crypto.kex import KeyExchange
from moatvpn.crypto.nat import nat_detection_hash
from moatvpn.crypto.prf import Prf
from moatvpn.errors import OperatorError, PeerError
from moatvpn.wire.endpoint import Endpoint

MATERIAL = bytes(range(36))

# RFC 4231, test case 1
HMACS = {
    Prf.HMAC_SHA2_256: "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    Prf.HMAC_SHA2_512: "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
    "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
}
# RFC 8032, 7.1, test 1
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
    "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
SPKI_HEAD = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, 4


@pytest.mark.parametrize("prf", Prf)
def test_prf_of_rfc_4231(prf):
    assert prf.compute(b"\x0b" * 20, b"Hi There").hex() == HMACS[prf]
    assert prf.length == len(HMACS[prf]) // 2


@pytest.mark.parametrize("prf", Prf)
@given(key=st.binary(min_size=1, max_size=80), seed=st.binary(max_size=80))
def test_prf_plus_chains_its_blocks(prf, key, seed):
    name = {Prf.HMAC_SHA2_256: "sha256", Prf.HMAC_SHA2_512: "sha512"}[prf]
    first = hmac.digest(key, seed + b"\1", name)
    second = hmac.digest(key, first + seed + b"\2", name)
    assert prf.expand(key, seed, prf.length + 5) == first + second[:5]


def test_x25519_of_rfc_7748():
    """RFC 7748, 5.2: one and a thousand turns of feeding the function with itself."""
    scalar = point = bytes((9,)) + bytes(31)
    results = []
    for _ in range(1000):
        scalar, point = KeyExchange(scalar).shared_secret(point), scalar
        results.append(scalar.hex())
    assert results[0] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert results[-1] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), bytes(31), bytes(33), b""])
def test_a_public_value_of_small_order_or_wrong_length_is_refused(public):
    with pytest.raises(PeerError) as caught:
        KeyExchange(bytes(range(32))).shared_secret(public)
    assert caught.value.reason is DropReason.IKE_MALFORMED


def test_ed25519_of_rfc_8032():
    signer = sign.Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)))
    assert signer.public_key == SPKI_HEAD + bytes.fromhex(PUBLIC)
    assert base64.b64decode(signer.public_text) == signer.public_key
    assert signer.sign(b"").hex() == SIGNATURE
    assert sign.verify(signer.public_key, bytes.fromhex(SIGNATURE), b"")


@given(st.integers(0, 511))
def test_a_changed_signature_or_message_does_not_verify(bit):
    signature = bytearray.fromhex(SIGNATURE)
    signature[bit // 8] ^= 1 << bit % 8
    public = SPKI_HEAD + bytes.fromhex(PUBLIC)
    assert not sign.verify(public, bytes(signature), b"")
    assert not sign.verify(public, bytes.fromhex(SIGNATURE), b"\0")


@given(st.binary(max_size=200))
def test_no_octets_pass_for_a_signature(signature):
    assert not sign.verify(SPKI_HEAD + bytes.fromhex(PUBLIC), signature, b"message")


def test_a_private_key_is_read_back_and_others_are_refused():
    pem = sign.generate_private_key()
    signer = sign.load_private_key(pem)
    assert sign.verify(signer.public_key, signer.sign(b"message"), b"message")
    for wrong in (b"", b"no key", pem[:60]):
        with pytest.raises(OperatorError, match="Make a key"):
            sign.load_private_key(wrong)


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_what_is_sealed_is_opened(plaintext, associated):
    # The pad length octet is always there (RFC 7296, 3.14).
    sealed = SealingKey(MATERIAL).seal(plaintext + b"\0", associated)
    assert len(sealed) == IV_LENGTH + len(plaintext) + 1 + ICV_LENGTH
    assert OpeningKey(MATERIAL).open(sealed, associated) == plaintext + b"\0"


@given(st.integers(0, 8 * 40 - 1))
def test_a_changed_bit_is_noticed(bit):
    sealed = bytearray(SealingKey(MATERIAL).seal(bytes(16), b"header"))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerError) as caught:
        OpeningKey(MATERIAL).open(bytes(sealed), b"header")
    assert caught.value.reason is DropReason.IKE_NOT_AUTHENTIC
    with pytest.raises(PeerError):
        OpeningKey(MATERIAL).open(SealingKey(MATERIAL).seal(bytes(16), b"header"), b"other")


@given(st.binary(max_size=100))
def test_hostile_octets_are_not_opened(sealed):
    with pytest.raises(PeerError):
        OpeningKey(MATERIAL).open(sealed, b"")


def test_no_initialization_vector_comes_twice():
    key = SealingKey(MATERIAL)
    sealed = [key.seal(b"\0", b"")[:IV_LENGTH] for _ in range(1000)]
    assert len(set(sealed)) == 1000


@pytest.mark.parametrize("prf", Prf)
def test_keys_come_in_the_order_of_rfc_7296(prf):
    """RFC 7296, 2.14, 2.17 and 2.18, worked out here by their formulas."""
    shared, n_i, n_r, spi_i, spi_r = b"shared", b"i" * 32, b"r" * 32, b"spi-init", b"spi-resp"
    keys = keymat.ike_keys(prf, shared, n_i, n_r, spi_i, spi_r)
    stream = prf.expand(prf.compute(n_i + n_r, shared), n_i + n_r + spi_i + spi_r, 400)
    lengths = [prf.length, 36, 36, prf.length, prf.length]
    for key, length in zip(
        (keys.sk_d, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr), lengths, strict=True
    ):
        assert key == stream[:length]
        stream = stream[length:]
    out, back = keymat.child_keys(keys, b"", n_i, n_r, 36)
    assert out + back == prf.expand(keys.sk_d, n_i + n_r, 72)
    new = keymat.rekeyed_ike_keys(prf, keys, b"fresh", n_i, n_r, spi_r, spi_i)
    seed = prf.compute(keys.sk_d, b"fresh" + n_i + n_r)
    assert new.sk_d == prf.expand(seed, n_i + n_r + spi_r + spi_i, prf.length)
    assert "sk_d" not in repr(keys)


def test_the_hash_of_nat_detection():
    octets = b"initiateresponse" + bytes((192, 0, 2, 1)) + b"\x01\xf4"
    expected = hashlib.sha1(octets, usedforsecurity=False).digest()
    assert nat_detection_hash(b"initiate", b"response", Endpoint("192.0.2.1", 500)) == expected
