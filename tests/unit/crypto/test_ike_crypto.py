"""IKE's cryptography against published vectors, and what it refuses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.counters import DropReason
from moatvpn.crypto import keymat, sign
from moatvpn.crypto.ike_cipher import opening_key, sealing_key
from moatvpn.crypto.kex import new_key_exchange
from moatvpn.crypto.nat import nat_detection_hash
from moatvpn.crypto.prf import Prf
from moatvpn.crypto.signature_algorithms import SignatureHash
from moatvpn.errors import OperatorError, PeerError
from moatvpn.wire.algorithms import CipherSuite, Group
from moatvpn.wire.endpoint import Endpoint

SEED_RANDOM = 7


def keys(suite):
    material = random.Random(SEED_RANDOM).randbytes(suite.material_length)
    return sealing_key(suite, material), opening_key(suite, material)


def _arctan_of_inverse(n, bits):
    """Return arctan(1/n) in fixed point."""
    term = total = (1 << bits) // n
    k, sign = 1, 1
    while term:
        term //= n * n
        k, sign = k + 2, -sign
        total += sign * (term // k)
    return total


# Pi by Machin's formula, in fixed point of 3000 bits (and some to round away).
PI_3000 = (16 * _arctan_of_inverse(5, 3064) - 4 * _arctan_of_inverse(239, 3064)) >> 64

# RFC 4231, test case 1
HMACS = {
    Prf.HMAC_SHA2_256: "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    Prf.HMAC_SHA2_384: "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
    "faea9ea9076ede7f4af152e8b2fa9cb6",
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
# As AUTH carries it: the length of the algorithm's name, the name (RFC 8410, 3), the signature.
IN_AUTH = bytes.fromhex("07300506032b6570" + SIGNATURE)
SPKI_HEAD = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, 4


@pytest.mark.parametrize("prf", Prf)
def test_prf_of_rfc_4231(prf):
    assert prf.compute(b"\x0b" * 20, b"Hi There").hex() == HMACS[prf]
    assert prf.length == len(HMACS[prf]) // 2


@pytest.mark.parametrize("prf", Prf)
@given(key=st.binary(min_size=1, max_size=80), seed=st.binary(max_size=80))
def test_prf_plus_chains_its_blocks(prf, key, seed):
    name = prf.name.removeprefix("HMAC_").replace("SHA2_", "sha")
    first = hmac.digest(key, seed + b"\1", name)
    second = hmac.digest(key, first + seed + b"\2", name)
    assert prf.expand(key, seed, prf.length + 5) == first + second[:5]


def test_x25519_of_rfc_7748():
    """RFC 7748, 5.2: one and a thousand turns of feeding the function with itself."""
    scalar = point = bytes((9,)) + bytes(31)
    results = []
    for _ in range(1000):
        key = new_key_exchange(Group.X25519, lambda _, scalar=scalar: scalar)
        scalar, point = key.shared_secret(point), scalar
        results.append(scalar.hex())
    assert results[0] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert results[-1] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), bytes(31), bytes(33), b""])
def test_a_public_value_of_small_order_or_wrong_length_is_refused(public):
    with pytest.raises(PeerError) as caught:
        new_key_exchange(Group.X25519, random.Random(1).randbytes).shared_secret(public)
    assert caught.value.reason is DropReason.IKE_MALFORMED


def test_ed25519_of_rfc_8032():
    signer = sign.Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)))
    assert signer.public_key == SPKI_HEAD + bytes.fromhex(PUBLIC)
    assert base64.b64decode(signer.public_text) == signer.public_key
    assert signer.sign(b"", SignatureHash.IDENTITY) == IN_AUTH
    assert sign.verify(signer.public_key, IN_AUTH, b"")


@given(st.integers(0, 8 * len(IN_AUTH) - 1))
def test_a_changed_signature_or_message_does_not_verify(bit):
    signature = bytearray(IN_AUTH)
    signature[bit // 8] ^= 1 << bit % 8
    public = SPKI_HEAD + bytes.fromhex(PUBLIC)
    assert not sign.verify(public, bytes(signature), b"")
    assert not sign.verify(public, IN_AUTH, b"\0")


@given(st.binary(max_size=200))
def test_no_octets_pass_for_a_signature(signature):
    assert not sign.verify(SPKI_HEAD + bytes.fromhex(PUBLIC), signature, b"message")


def test_a_private_key_is_read_back_and_others_are_refused():
    pem = sign.generate_private_key()
    signer = sign.load_private_key(pem)
    assert sign.verify(
        signer.public_key, signer.sign(b"message", SignatureHash.IDENTITY), b"message"
    )
    for wrong in (b"", b"no key", pem[:60]):
        with pytest.raises(OperatorError, match="Make a key"):
            sign.load_private_key(wrong)


@pytest.mark.parametrize("suite", CipherSuite)
@given(st.binary(max_size=200), st.binary(max_size=60))
def test_what_is_sealed_is_opened(suite, payloads, associated):
    sealing, opening = keys(suite)
    sealed = sealing.seal(payloads, associated)
    assert len(sealed) == sealing.sealed_length(len(payloads))
    opened = opening.open(sealed, associated)
    # The pad length octet is always there (RFC 7296, 3.14).
    assert opened[: len(opened) - 1 - opened[-1]] == payloads


@pytest.mark.parametrize("suite", CipherSuite)
@given(st.integers(0, 10_000))
def test_a_changed_bit_is_noticed(suite, bit):
    sealing, opening = keys(suite)
    sealed = bytearray(sealing.seal(bytes(16), b"header"))
    sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
    with pytest.raises(PeerError) as caught:
        opening.open(bytes(sealed), b"header")
    assert caught.value.reason is DropReason.IKE_NOT_AUTHENTIC
    with pytest.raises(PeerError):
        opening.open(sealing.seal(bytes(16), b"header"), b"other")


@pytest.mark.parametrize("suite", CipherSuite)
@given(st.binary(max_size=100))
def test_hostile_octets_are_not_opened(suite, sealed):
    with pytest.raises(PeerError):
        keys(suite)[1].open(sealed, b"")


@pytest.mark.parametrize("suite", CipherSuite)
def test_no_initialization_vector_comes_twice(suite):
    sealing, _ = keys(suite)
    size = 8 if suite.combined else 16
    sealed = [sealing.seal(b"", b"")[:size] for _ in range(1000)]
    assert len(set(sealed)) == 1000


@pytest.mark.parametrize("suite", CipherSuite)
@pytest.mark.parametrize("prf", Prf)
def test_keys_come_in_the_order_of_rfc_7296(prf, suite):
    """RFC 7296, 2.14, 2.17 and 2.18, worked out here by their formulas."""
    shared, n_i, n_r, spi_i, spi_r = b"shared", b"i" * 32, b"r" * 32, b"spi-init", b"spi-resp"
    keys = keymat.ike_keys(prf, suite, shared, keymat.Seed(n_i, n_r, spi_i, spi_r))
    stream = prf.expand(prf.compute(n_i + n_r, shared), n_i + n_r + spi_i + spi_r, 600)
    n, a, e = prf.length, suite.integrity_key_length, suite.key_length + suite.salt_length
    parts = []
    for length in (n, a, a, e, e, n, n):
        parts.append(stream[:length])
        stream = stream[length:]
    sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr = parts
    assert (keys.sk_d, keys.sk_pi, keys.sk_pr) == (sk_d, sk_pi, sk_pr)
    assert (keys.sk_i, keys.sk_r) == (sk_ei + sk_ai, sk_er + sk_ar)
    out, back = keymat.child_keys(keys, b"", n_i, n_r, 36)
    assert out + back == prf.expand(keys.sk_d, n_i + n_r, 72)
    seed = keymat.Seed(n_i, n_r, spi_r, spi_i)
    new = keymat.rekeyed_ike_keys(prf, suite, keys, b"fresh", seed)
    skeyseed = prf.compute(keys.sk_d, b"fresh" + n_i + n_r)
    assert new.sk_d == prf.expand(skeyseed, n_i + n_r + spi_r + spi_i, prf.length)
    assert "sk_d" not in repr(keys)


# RFC 5903, 8.1 and 8.2: private keys, public values, and the secret that both find.
CURVES = {
    Group.ECP_256: (
        "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
        "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
        "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63"
        "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
        "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
    ),
    Group.ECP_384: (
        "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655"
        "E35B538041E649EE3FAEF896783AB194",
        "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6"
        "DE3AC808ACB4BDB4C88732AEE95F41AA9482ED1FC0EEB9CAFC4984625CCFC23F"
        "65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
        "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942"
        "E0308312916B8ED2960E4BD55A7448FC",
        "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D"
        "0D1AC43A0336DEF96FDA41D0774A3571DCFBEC7AACF3196472169E838430367F"
        "66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
        "11187331C279962D93D604243FD592CB9D0A926F422E4718"
        "7521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
    ),
}


@pytest.mark.parametrize("group", CURVES)
def test_the_curves_of_rfc_5903(group):
    private_i, public_i, private_r, public_r, secret = map(bytes.fromhex, CURVES[group])
    for private, ours, theirs in (
        (private_i, public_i, public_r),
        (private_r, public_r, public_i),
    ):
        # Private keys are what was drawn, modulo the order less one, and one.
        drawn = int.from_bytes(private, "big") - 1
        key = new_key_exchange(group, lambda size, drawn=drawn: drawn.to_bytes(size, "big"))
        assert key.public == ours
        assert key.shared_secret(theirs) == secret


def test_the_3072_bit_group_by_its_formulas():
    """RFC 3526, 5, and RFC 7296, 2.14, with Python's own arithmetic."""
    prime = 2**3072 - 2**3008 - 1 + 2**64 * ((2**2942 * PI_3000 >> 3000) + 1690314)
    rng = random.Random(3)
    drawn = []

    def draw(size):
        drawn.append(rng.randbytes(size))
        return drawn[-1]

    one, other = (new_key_exchange(Group.MODP_3072, draw) for _ in range(2))
    exponents = [int.from_bytes(octets, "big") for octets in drawn]
    assert one.public == pow(2, exponents[0], prime).to_bytes(384, "big")
    secret = pow(2, exponents[0] * exponents[1], prime).to_bytes(384, "big")
    assert one.shared_secret(other.public) == other.shared_secret(one.public) == secret
    for wrong in (0, 1, prime - 1, prime, prime + 1):
        with pytest.raises(PeerError, match="out of range"):
            one.shared_secret(wrong.to_bytes(384, "big"))


@pytest.mark.parametrize("group", Group)
@given(st.binary(max_size=40))
def test_no_public_value_does_more_than_be_refused(group, octets):
    key = new_key_exchange(group, random.Random(4).randbytes)
    for public in (octets, (octets * len(key.public))[: len(key.public)]):
        with contextlib.suppress(PeerError):
            assert any(key.shared_secret(public))


def test_the_hash_of_nat_detection():
    octets = b"initiateresponse" + bytes((192, 0, 2, 1)) + b"\x01\xf4"
    expected = hashlib.sha1(octets, usedforsecurity=False).digest()
    assert nat_detection_hash(b"initiate", b"response", Endpoint("192.0.2.1", 500)) == expected
