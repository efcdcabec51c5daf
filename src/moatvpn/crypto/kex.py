"""Key exchange: Curve25519 (RFC 8031), NIST curves (RFC 5903), MODP 3072 (RFC 3526), ML-KEM.

All methods have the same steps: the initiator makes a key and sends its public value; the
responder answers to that value with its own, and has the secret; with that the initiator has it,
too. An ephemeral key is used once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dh, ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

from moatvpn.counters import DropReason
from moatvpn.crypto.kem import MlKem768, encapsulate_768
from moatvpn.errors import MoatError, PeerError
from moatvpn.wire.algorithms import Group, Kem, Method

Random = Callable[[int], bytes]


class KeyExchange(Protocol):
    """An initiator's ephemeral key. public is its public value, as a KE payload holds it (3.4)."""

    public: bytes

    def shared_secret(self, peer_public: bytes) -> bytes:
        """Return the shared secret with the responder's public value.

        Raises PeerError for a value that no honest peer sends (RFC 6989).
        """
        ...


def new_key_exchange(method: Method, random: Random) -> KeyExchange:
    """Return a new key of method; random(n) gives n octets fit for keys."""
    return _NEW[method](random)


def answer_key_exchange(method: Method, peer_public: bytes, random: Random) -> tuple[bytes, bytes]:
    """Return the responder's public value to the initiator's, and the shared secret.

    Raises PeerError for a value that no honest peer sends.
    """
    if method is Kem.ML_KEM_768:
        return encapsulate_768(peer_public)
    key = new_key_exchange(method, random)
    return key.public, key.shared_secret(peer_public)


def _check_length(value: bytes, length: int) -> None:
    if len(value) != length:
        raise PeerError(DropReason.IKE_MALFORMED, f"public value of {len(value)} octets")


class _X25519:
    def __init__(self, random: Random) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random(32))
        self.public = self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, 32)
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            # The secret would be all zero (RFC 8031, 2.3).
            raise PeerError(DropReason.IKE_MALFORMED, "public value of small order") from error


# The orders of the curves' groups (SEC 2): private keys are below them.
_ORDER_256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ORDER_384 = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
_UNCOMPRESSED = b"\x04"  # SEC 1; a KE payload leaves it out (RFC 5903, 7)


class _Curve:
    """A curve over a prime field; the secret is the x coordinate alone (RFC 5903, 7)."""

    def __init__(self, curve: ec.EllipticCurve, order: int, random: Random) -> None:
        self._curve = curve
        self._size = (curve.key_size + 7) // 8
        # 64 bits more than the order has, so that no private key is likelier than another.
        scalar = int.from_bytes(random(self._size + 8), "big") % (order - 1) + 1
        self._private = ec.derive_private_key(scalar, curve)
        point = self._private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.public = point[len(_UNCOMPRESSED) :]

    def shared_secret(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, 2 * self._size)
        point = _UNCOMPRESSED + peer_public
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, point)
        except ValueError as error:
            raise PeerError(DropReason.IKE_MALFORMED, "public value not on the curve") from error
        return self._private.exchange(ec.ECDH(), public)


# RFC 3526, 5: 2^3072 - 2^3008 - 1 + 2^64 * (the integer part of 2^2942 pi + 1690314).
_PRIME_3072 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404"
    "DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406"
    "B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD"
    "24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E46"
    "2E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D226"
    "1898FA051015728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB397"
    "0F85A6E1E4C7ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A6452"
    "1F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CA"
    "FFFFFFFFFFFFFFFF",
    16,
)
_SIZE_3072 = 384
_EXPONENT_3072 = 52  # octets; RFC 3526, 8 wants at least 260 bits, 420 by its other estimate
_GENERATOR = 2


class _Modp3072:
    """The secret is as long as the prime, with leading zeros (RFC 7296, 2.14)."""

    def __init__(self, random: Random) -> None:
        exponent = int.from_bytes(random(_EXPONENT_3072), "big")
        # Through a PKCS #8 structure OpenSSL computes the public value from the exponent, in
        # constant time, which Python's own arithmetic would not.
        with _accepted_deprecation():
            private = serialization.load_der_private_key(_pkcs8(exponent), None)
            if not isinstance(private, dh.DHPrivateKey):
                raise MoatError("no Diffie-Hellman key where one was made")
            self._private = private
            y = private.public_key().public_numbers().y
        self.public = y.to_bytes(_SIZE_3072, "big")

    def shared_secret(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, _SIZE_3072)
        y = int.from_bytes(peer_public, "big")
        if not 1 < y < _PRIME_3072 - 1:  # RFC 6989, 2.1
            raise PeerError(DropReason.IKE_MALFORMED, "public value out of range")
        with _accepted_deprecation():
            numbers = dh.DHParameterNumbers(_PRIME_3072, _GENERATOR)
            secret = self._private.exchange(dh.DHPublicNumbers(y, numbers).public_key())
        return secret.rjust(_SIZE_3072, b"\0")


class _accepted_deprecation(warnings.catch_warnings):  # noqa: N801 (it is used as a statement)
    """Keeps quiet that the library will drop this: the group is for old peers, as long as it is."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)


def _der(tag: int, body: bytes) -> bytes:
    """Return a DER element."""
    size = len(body)
    if size < 128:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body


def _der_integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


_DH_KEY_AGREEMENT = bytes.fromhex("06092a864886f70d010301")  # PKCS #3
_ALGORITHM_3072 = _der(
    0x30,
    _DH_KEY_AGREEMENT + _der(0x30, _der_integer(_PRIME_3072) + _der_integer(_GENERATOR)),
)


def _pkcs8(exponent: int) -> bytes:
    """Return a PrivateKeyInfo (RFC 5958) of the 3072-bit group."""
    key = _der(0x04, _der_integer(exponent))
    return _der(0x30, _der_integer(0) + _ALGORITHM_3072 + key)


_NEW: dict[Method, Callable[[Random], KeyExchange]] = {
    Group.X25519: _X25519,
    Group.ECP_256: lambda random: _Curve(ec.SECP256R1(), _ORDER_256, random),
    Group.ECP_384: lambda random: _Curve(ec.SECP384R1(), _ORDER_384, random),
    Group.MODP_3072: _Modp3072,
    Kem.ML_KEM_768: MlKem768,
}
