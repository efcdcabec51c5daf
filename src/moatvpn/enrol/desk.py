"""What the enrolment service answers: bytes and the time in, bytes out. It opens no socket.

Every request costs at most a look-up, one verification and one line of a journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from moatvpn.enrol.claims import Claims, Open
from moatvpn.enrol.journal import Journal
from moatvpn.enrol.messages import (
    Answer,
    Claim,
    Configure,
    Hello,
    Request,
    answer_line,
    hello_line,
    read_request,
    refusal_line,
)
from moatvpn.enrol.proof import is_proved
from moatvpn.enrol.published import Entry, Published
from moatvpn.enrol.reasons import TOLD, EnrolError, Reason


class Desk:
    """Serves the moats of what an operator has published, and keeps the claims' journal.

    certificate: SHA-256 of the service's own certificate, in hex, which proofs name. random gives
    the rates' secret. published may be replaced at any time by a newer one.
    """

    def __init__(
        self,
        published: Published,
        journal: Journal,
        certificate: str,
        random: Callable[[int], bytes],
    ) -> None:
        self.published = published
        self.counters: Counter[str] = Counter()
        self._journal = journal
        self._certificate = certificate
        self._claims = Claims(self, random)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def hello(self, nonce: bytes) -> bytes:
        """Return the first line of a connection, which has a nonce of its own."""
        return hello_line(Hello(nonce, self.published.voucher, self.published.handovers))

    def answer(
        self, line: bytes, nonce: bytes, source: str, *, now: float, ticks: float
    ) -> bytes | None:
        """Return the line to answer with, or None where there is none for such a line.

        now: seconds since the epoch; ticks: seconds of a clock that is never set.
        """
        try:
            request = read_request(line)
            answer = self._served(request, nonce, source, now, ticks)
        except EnrolError as error:
            self.counters[error.reason] += 1
            if error.reason is Reason.MALFORMED:
                return None
            return refusal_line(error.reason if error.reason in TOLD else Reason.UNKNOWN)
        except OSError:
            # A claim that is not on the disk is not made: the box asks again.
            self.counters[Reason.BROKEN] += 1
            return refusal_line(Reason.BROKEN)
        self.counters["claimed" if isinstance(request, Claim) else "configured"] += 1
        return answer_line(answer)

    def _served(
        self, request: Request, nonce: bytes, source: str, now: float, ticks: float
    ) -> Answer:
        if isinstance(request, Configure) and request.public_key not in self._keys(request):
            raise EnrolError(Reason.UNKNOWN, "no such box, or no such key")
        if not is_proved(request, nonce, self._certificate):
            raise EnrolError(Reason.PROOF)
        if isinstance(request, Configure):
            entry = self.published.entries[request.identity]
            newer = entry.serial > request.serial
            return Answer(entry.identity, entry.configuration if newer else None)
        claim = self._claims.present(
            request.token, request.public_key, source, now=now, ticks=ticks
        )
        entry = self.published.entries[claim.identity]
        return Answer(entry.identity, entry.configuration)

    def _keys(self, request: Configure) -> tuple[str, ...]:
        """Return the keys that are good for a box: those published, and those just claimed."""
        entry = self.published.entries.get(request.identity)
        return () if entry is None else (*entry.keys, *self._claimed(entry))

    def _claimed(self, entry: Entry) -> list[str]:
        # Once the operator's side knows of a claim, its own list of keys says which are good.
        found = (
            self._journal.bound(each.token_hash) for each in entry.claims if each.used_key is None
        )
        return [key for key in found if key is not None]

    def find(self, token_hash: str) -> Open | None:
        """Return the claim of that hash (claims.ClaimStore)."""
        claim = self.published.claims.get(token_hash)
        if claim is None or claim.used_key is not None:
            return claim
        return replace(claim, used_key=self._journal.bound(token_hash))

    def owner(self, public_key: str) -> str | None:
        """Return whose key it is (claims.ClaimStore)."""
        return self.published.owners.get(public_key) or self._journal.owner(public_key)

    def bind(self, claim: Open, public_key: str, source: str) -> None:
        """Bind a key to a claim, for good (claims.ClaimStore)."""
        self._journal.bind(claim, public_key, source)

    def refused(self, claim: Open, reason: Reason, public_key: str, source: str) -> None:
        """Note a claim's refusal (claims.ClaimStore)."""
        self._journal.refuse(claim, reason, public_key, source)
