"""Key derivation (RFC 7296, 2.14, 2.17 and 2.18)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moatvpn.crypto.prf import Prf
from moatvpn.wire.algorithms import CipherSuite


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The keys of one IKE SA (RFC 7296, 2.14).

    sk_i and sk_r protect the messages of initiator and responder, each suite.material_length
    octets: SK_e with its salt (RFC 5282, 7), or SK_e and SK_a.
    """

    prf: Prf
    suite: CipherSuite
    sk_d: bytes = field(repr=False)
    sk_i: bytes = field(repr=False)
    sk_r: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Seed:
    """What each side has given to an IKE SA's keys: the nonces, and the SPIs (2.14)."""

    nonce_i: bytes
    nonce_r: bytes
    spi_i: bytes
    spi_r: bytes


def ike_keys(prf: Prf, suite: CipherSuite, shared: bytes, seed: Seed) -> IkeKeys:
    """Return the keys of an IKE SA made by IKE_SA_INIT (2.14)."""
    return _expand(prf, suite, prf.compute(seed.nonce_i + seed.nonce_r, shared), seed)


def rekeyed_ike_keys(
    prf: Prf, suite: CipherSuite, old: IkeKeys, shared: bytes, seed: Seed, more: bytes = b""
) -> IkeKeys:
    """Return the keys of an IKE SA made by rekeying the one with the keys old (2.18).

    more is the secrets of additional key exchanges, in their order (RFC 9370, 2.2.4).
    """
    skeyseed = old.prf.compute(old.sk_d, shared + seed.nonce_i + seed.nonce_r + more)
    return _expand(prf, suite, skeyseed, seed)


def resumed_ike_keys(prf: Prf, suite: CipherSuite, sk_d: bytes, seed: Seed) -> IkeKeys:
    """Return the keys of an IKE SA that resumes the one with SK_d sk_d (RFC 5723, 5.1)."""
    return _expand(prf, suite, prf.compute(sk_d, b"Resumption" + seed.nonce_i + seed.nonce_r), seed)


def _expand(prf: Prf, suite: CipherSuite, skeyseed: bytes, seed: Seed) -> IkeKeys:
    n, e, a = prf.length, suite.key_length + suite.salt_length, suite.integrity_key_length
    octets = seed.nonce_i + seed.nonce_r + seed.spi_i + seed.spi_r
    stream = prf.expand(skeyseed, octets, 3 * n + 2 * (a + e))
    parts = []
    for length in (n, a, a, e, e, n, n):
        parts.append(stream[:length])
        stream = stream[length:]
    sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr = parts
    return IkeKeys(prf, suite, sk_d, sk_ei + sk_ai, sk_er + sk_ar, sk_pi, sk_pr)


def with_ppk(keys: IkeKeys, ppk: bytes) -> IkeKeys:
    """Return the keys of a new IKE SA with a PPK in those that need not be in use yet.

    They are SK_d, SK_pi and SK_pr (RFC 8784, 3).
    """
    sk_d, sk_pi, sk_pr = (
        keys.prf.expand(ppk, key, len(key)) for key in (keys.sk_d, keys.sk_pi, keys.sk_pr)
    )
    return replace(keys, sk_d=sk_d, sk_pi=sk_pi, sk_pr=sk_pr)


def child_keys(
    keys: IkeKeys, shared: bytes, nonce_i: bytes, nonce_r: bytes, length: int, more: bytes = b""
) -> tuple[bytes, bytes]:
    """Return length octets for initiator to responder, and length octets for the other way (2.17).

    shared is empty where the exchange had no key exchange of its own; more is as above.
    """
    stream = keys.prf.expand(keys.sk_d, shared + nonce_i + nonce_r + more, 2 * length)
    return stream[:length], stream[length:]
