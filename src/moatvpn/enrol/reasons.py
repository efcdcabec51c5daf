"""Why an enrolment is refused: one name for each reason, counted by the service, told to a box."""

from __future__ import annotations

from enum import StrEnum

from moatvpn.errors import MoatError


class Reason(StrEnum):
    """What is wrong with a request, or with a connection. The names are also the counters'."""

    MALFORMED = "malformed"  # no request of ours, or too long
    SLOW = "slow"  # not there in time, no TLS 1.3, or gone half way
    TOO_MANY = "too-many"  # of connections at once, or by one source or customer
    UNKNOWN = "unknown"  # no such claim, or no such box
    PROOF = "no-proof"  # it has not the key that it shows
    EXPIRED = "expired"  # the claim's time is over
    USED = "used-with-another-key"  # the claim has bound another key: somebody has a copy
    COPIED = "key-of-another-box"  # the key belongs to another box: a disk was copied
    REPLAYED = "older-than-last"  # what is signed is older than what the box has had
    SERVER = "another-server"  # whom the box has reached is not whom the operator has signed for
    BROKEN = "not-served"  # the service cannot do its work now


# What a stranger is told of: that a box is not known and that a proof is wrong look the same.
TOLD = frozenset({Reason.TOO_MANY, Reason.EXPIRED, Reason.USED, Reason.COPIED, Reason.BROKEN})


class EnrolError(MoatError):
    """A request, or an answer, that is not taken. detail is for a log, and holds no secret."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
