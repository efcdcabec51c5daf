"""Key derivation (RFC 7296, 2.14, 2.17 and 2.18)."""

from __future__ import annotations

from dataclasses import dataclass, field

from moatvpn.crypto.ike_aead import KEY_MATERIAL_LENGTH
from moatvpn.crypto.prf import Prf


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The keys of one IKE SA. There is no SK_a: AES-GCM needs none (RFC 5282, 7)."""

    prf: Prf
    sk_d: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


def ike_keys(
    prf: Prf, shared: bytes, nonce_i: bytes, nonce_r: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """Return the keys of an IKE SA made by IKE_SA_INIT (2.14)."""
    return _expand(prf, prf.compute(nonce_i + nonce_r, shared), nonce_i + nonce_r + spi_i + spi_r)


def rekeyed_ike_keys(
    prf: Prf,
    old: IkeKeys,
    shared: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
) -> IkeKeys:
    """Return the keys of an IKE SA made by rekeying the one with the keys old (2.18)."""
    seed = old.prf.compute(old.sk_d, shared + nonce_i + nonce_r)
    return _expand(prf, seed, nonce_i + nonce_r + spi_i + spi_r)


def _expand(prf: Prf, skeyseed: bytes, seed: bytes) -> IkeKeys:
    n, e = prf.length, KEY_MATERIAL_LENGTH
    stream = prf.expand(skeyseed, seed, 3 * n + 2 * e)
    return IkeKeys(
        prf,
        sk_d=stream[:n],
        sk_ei=stream[n : n + e],
        sk_er=stream[n + e : n + 2 * e],
        sk_pi=stream[n + 2 * e : 2 * n + 2 * e],
        sk_pr=stream[2 * n + 2 * e :],
    )


def child_keys(
    keys: IkeKeys, shared: bytes, nonce_i: bytes, nonce_r: bytes, length: int
) -> tuple[bytes, bytes]:
    """Return length octets for initiator to responder, and length octets for the other way (2.17).

    shared is empty where the exchange had no key exchange of its own.
    """
    stream = keys.prf.expand(keys.sk_d, shared + nonce_i + nonce_r, 2 * length)
    return stream[:length], stream[length:]
