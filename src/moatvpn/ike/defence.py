"""What keeps strangers cheap: cookies that need no memory, and a limit on answers.

The half of the wild side that we have not authenticated may make us parse a message; it must not
make us remember or compute much, and never send more than it sent.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from moatvpn.crypto.prf import Prf

COOKIE_SECONDS = 60.0  # how long a secret makes cookies; they are good for as long again
_MAC_LENGTH = 16  # octets; what asks for a cookie is longer than the answer with it
ANSWERS_A_SECOND = 10.0


class Cookies:
    """Proves that an initiator receives at its address, by what it sends back (RFC 7296, 2.6).

    A cookie is the number of its secret, and a MAC of nonce, address and SPI with that secret.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._number = 0
        self._since: float | None = None
        self._secret = self._previous = b""

    def _rotate(self, now: float) -> None:
        age = COOKIE_SECONDS if self._since is None else now - self._since
        if age < COOKIE_SECONDS:
            return
        stale = self._since is None or age >= 2 * COOKIE_SECONDS
        self._previous = self._random(32) if stale else self._secret
        self._secret = self._random(32)
        self._number = (self._number + 1) & 0xFF
        self._since = now

    @staticmethod
    def _mac(secret: bytes, nonce: bytes, host: str, spi_i: bytes) -> bytes:
        data = nonce + spi_i + host.encode()
        return Prf.HMAC_SHA2_256.compute(secret, data)[:_MAC_LENGTH]

    def make(self, nonce: bytes, host: str, spi_i: bytes, now: float) -> bytes:
        """Return the cookie for an initiator at host."""
        self._rotate(now)
        return bytes((self._number,)) + self._mac(self._secret, nonce, host, spi_i)

    def good(self, cookie: bytes, nonce: bytes, host: str, spi_i: bytes, now: float) -> bool:
        """Return whether cookie is one that we made for this initiator not long ago."""
        self._rotate(now)
        secret = self._secret if cookie[:1] == bytes((self._number,)) else self._previous
        return hmac.compare_digest(cookie[1:], self._mac(secret, nonce, host, spi_i))


class AnswerLimit:
    """Lets ANSWERS_A_SECOND through, and that many at once, whoever asks."""

    def __init__(self) -> None:
        self._left = ANSWERS_A_SECOND
        self._asked = 0.0

    def allows(self, now: float) -> bool:
        """Return whether one more answer may go out."""
        self._left = min(
            ANSWERS_A_SECOND, self._left + max(0.0, now - self._asked) * ANSWERS_A_SECOND
        )
        self._asked = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
