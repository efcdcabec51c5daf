"""AES-CBC with an HMAC, for peers that have no combined mode (RFC 3602, RFC 4868)."""

from __future__ import annotations

import hmac as compare

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

from moatvpn.wire.algorithms import CipherSuite

BLOCK = 16  # octets, of cipher block and IV


class CbcHmac:
    """One direction's keys, made from keying material: the cipher's key, then the HMAC's.

    Raises ValueError where material has not the suite's length.
    """

    def __init__(self, suite: CipherSuite, material: bytes) -> None:
        if len(material) != suite.material_length:
            raise ValueError(f"keying material of {len(material)} octets")
        self._key = AES(material[: suite.key_length])
        self._mac = hmac.HMAC(
            material[suite.key_length :],
            hashes.SHA256() if suite.integrity_key_length == 32 else hashes.SHA512(),
        )
        # Truncated to half of the hash (RFC 4868, 2.1).
        self.icv_length = suite.integrity_key_length // 2

    def encrypt(self, number: int, plaintext: bytes) -> bytes:
        """Return IV and ciphertext of plaintext, which is whole blocks.

        number must never come twice. The IV is its encryption under the same key: nobody can tell
        it beforehand (NIST SP 800-38A, appendix C), which is what CBC asks of an IV.
        """
        block = Cipher(self._key, ECB()).encryptor()  # noqa: S305 (one block, as above)
        iv = block.update(number.to_bytes(BLOCK, "big")) + block.finalize()
        cipher = Cipher(self._key, CBC(iv)).encryptor()
        return iv + cipher.update(plaintext) + cipher.finalize()

    def decrypt(self, sealed: bytes) -> bytes:
        """Return the plaintext of IV and ciphertext, which must have been found authentic."""
        cipher = Cipher(self._key, CBC(sealed[:BLOCK])).decryptor()
        return cipher.update(sealed[BLOCK:]) + cipher.finalize()

    def icv(self, data: bytes) -> bytes:
        """Return the integrity check value of data."""
        mac = self._mac.copy()
        mac.update(data)
        return mac.finalize()[: self.icv_length]

    def is_authentic(self, data: bytes, icv: bytes) -> bool:
        """Return whether icv is that of data, in constant time."""
        return compare.compare_digest(self.icv(data), icv)
