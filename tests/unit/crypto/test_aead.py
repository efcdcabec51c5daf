"""ESP's ciphers against published vectors."""

from __future__ import annotations

import pytest

from moatvpn.crypto.aead import NotAuthentic, new_aead
from moatvpn.wire.algorithms import CipherSuite

COMBINED = [suite for suite in CipherSuite if suite.combined]

# McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", appendix B, test cases 13 to 16:
# AES-256 with a 96-bit IV. Key, IV, plaintext, associated data, ciphertext, tag.
_KEY = "feffe9928665731c6d6a8f9467308308" * 2
_IV = "cafebabefacedbaddecaf888"
_PLAINTEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
_CIPHERTEXT = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
_ASSOCIATED = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
GCM_CASES = {
    13: ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    14: ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18",
         "d0d1c8a799996bf0265b98b5d48ab919"),
    15: (_KEY, _IV, _PLAINTEXT, "", _CIPHERTEXT, "b094dac5d93471bdec1a502270e3cc6c"),
    16: (_KEY, _IV, _PLAINTEXT[:120], _ASSOCIATED, _CIPHERTEXT[:120],
         "76fc6ece0f4e1768cddf8853bb2d551b"),
}  # fmt: skip

# RFC 7634, appendix A
CHACHA_MATERIAL = bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3")
CHACHA_IV = bytes.fromhex("1011121314151617")
CHACHA_ASSOCIATED = bytes.fromhex("0102030400000005")
CHACHA_PLAINTEXT = bytes.fromhex(
    "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
    "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
    "2425262728292a2b2c2d2e2f303132333435363701020204"
)
CHACHA_SEALED = bytes.fromhex(
    "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6"
    "14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3"
    "cbec163fac469b502773f6fb94e664da9165b82829f641e0"
    "76aaa8266b7fb0f7b11b369907e1ad43"
)


@pytest.mark.parametrize("case", GCM_CASES)
def test_aes_256_gcm(case):
    key, iv, plaintext, associated, ciphertext, tag = map(bytes.fromhex, GCM_CASES[case])
    aead, salt = new_aead(CipherSuite.AES_256_GCM, key + iv[:4])
    assert salt == iv[:4]
    assert aead.encrypt(salt + iv[4:], plaintext, associated) == ciphertext + tag
    assert aead.decrypt(salt + iv[4:], ciphertext + tag, associated) == plaintext


def test_chacha20_poly1305():
    aead, salt = new_aead(CipherSuite.CHACHA20_POLY1305, CHACHA_MATERIAL)
    nonce = salt + CHACHA_IV
    assert aead.encrypt(nonce, CHACHA_PLAINTEXT, CHACHA_ASSOCIATED) == CHACHA_SEALED
    assert aead.decrypt(nonce, CHACHA_SEALED, CHACHA_ASSOCIATED) == CHACHA_PLAINTEXT


@pytest.mark.parametrize("suite", COMBINED)
@pytest.mark.parametrize("where", ["ciphertext", "icv", "associated", "nonce", "key", "length"])
def test_what_is_not_authentic(suite, where):
    aead, salt = new_aead(suite, CHACHA_MATERIAL[-suite.material_length :])
    nonce, associated = salt + CHACHA_IV, CHACHA_ASSOCIATED
    sealed = bytearray(aead.encrypt(nonce, b"payload", associated))
    if where == "ciphertext":
        sealed[0] ^= 1
    elif where == "icv":
        sealed[-1] ^= 0x80
    elif where == "associated":
        associated = associated[:-1] + b"\x06"
    elif where == "nonce":
        nonce = bytes(12)
    elif where == "key":
        aead, _ = new_aead(suite, bytes(suite.material_length))
    else:
        del sealed[-1]
    with pytest.raises(NotAuthentic):
        aead.decrypt(nonce, bytes(sealed), associated)


@pytest.mark.parametrize("suite", COMBINED)
@pytest.mark.parametrize("wrong", [-20, -4, -1, 1, 32])
def test_keying_material_of_another_length_is_refused(suite, wrong):
    length = suite.material_length + wrong
    with pytest.raises(ValueError, match=f"keying material of {length} octets"):
        new_aead(suite, bytes(length))


def test_an_hmac_suite_is_no_combined_mode():
    suite = CipherSuite.AES_256_CBC_SHA2_256
    with pytest.raises(ValueError, match=suite.value):
        new_aead(suite, bytes(suite.material_length))
