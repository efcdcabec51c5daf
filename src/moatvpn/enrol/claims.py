"""Claims: a one-time token binds the key pair that a box has made to a customer's record.

The operator's side keeps the token's SHA-256 only. Whoever shows the token first, with proof of a
key, is the box; the same box may ask again for ever, for its answer may have been lost. The same
token with another key is a copy in somebody's hands, which is refused and told of.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from moatvpn.crypto.seal import sha256_hex
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.ike.gate import Buckets, Rate

TOKEN_OCTETS = 32
# How often one claim may be shown, rightly or wrongly: a box asks again after minutes.
OF_A_CLAIM = Rate(1 / 30, 10)


def new_token(random: Callable[[int], bytes]) -> str:
    """Return a token of 256 bits, as it is printed: 43 characters of base64url."""
    return base64.urlsafe_b64encode(random(TOKEN_OCTETS)).decode("ascii").rstrip("=")


def token_hash(token: str) -> str:
    """Return by what a token is known to those who must not have it: SHA-256, in hex."""
    return sha256_hex(token.encode("ascii"))


@dataclass(frozen=True, slots=True)
class Open:
    """What the operator's side knows of a claim.

    token_hash: of the token. identity: the moat that it makes a box. expires: seconds since the
    epoch; the claim is good before that. used_key: the key that it has bound, if it has.
    """

    token_hash: str
    identity: str
    expires: float
    used_key: str | None = None


class ClaimStore(Protocol):
    """Where claims are kept."""

    def find(self, token_hash: str) -> Open | None:
        """Return the claim of that hash, None where there is none."""
        ...

    def owner(self, public_key: str) -> str | None:
        """Return the identity of the box that a key belongs to, or ever has; None for none."""
        ...

    def bind(self, claim: Open, public_key: str, source: str) -> None:
        """Bind the key to the claim, for good: it is on the disk when this returns."""
        ...

    def refused(self, claim: Open, reason: Reason, public_key: str, source: str) -> None:
        """Note that a claim was shown and refused, and where from."""
        ...


def verdict(claim: Open, owner: str | None, public_key: str, now: float) -> Reason | None:
    """Return why a claim with proof of public_key is refused, None where it is good.

    owner is the identity of the box that the key belongs to. now is in seconds since the epoch.
    """
    if claim.used_key is not None:
        return None if claim.used_key == public_key else Reason.USED
    if now >= claim.expires:
        return Reason.EXPIRED
    if owner is not None and owner != claim.identity:
        return Reason.COPIED
    return None


class Claims:
    """Decides on claims whose proof has been verified. random gives the rates' secret."""

    def __init__(self, store: ClaimStore, random: Callable[[int], bytes]) -> None:
        self._store = store
        self._rate = Buckets(OF_A_CLAIM, random)

    def present(
        self, token: str, public_key: str, source: str, *, now: float, ticks: float
    ) -> Open:
        """Return the claim of a token, which is now bound to public_key.

        source is where it came from, for people. now: seconds since the epoch; ticks: seconds of a
        clock that is never set, which rates go by. Raises EnrolError where it is refused; a refusal
        of a token that there is has been noted.
        """
        claim = self._store.find(token_hash(token))
        if claim is None:
            raise EnrolError(Reason.UNKNOWN, "no such claim")
        if not self._rate.allows(claim.token_hash, ticks):
            raise EnrolError(Reason.TOO_MANY, f"claim of {claim.identity}")
        reason = verdict(claim, self._store.owner(public_key), public_key, now)
        if reason is not None:
            self._store.refused(claim, reason, public_key, source)
            raise EnrolError(reason, f"claim of {claim.identity}")
        if claim.used_key is None:
            self._store.bind(claim, public_key, source)
        return claim
