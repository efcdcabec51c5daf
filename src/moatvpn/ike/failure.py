"""What failed between two peers, on which side, and what to do about it: for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.ike.refusal import RefusalError
from moatvpn.wire.ike_payloads import Notify, NotifyType

# Who refused: we or the peer; or what we said was lost between us.
Side = Literal["here", "peer", "between"]
SIDES = {"here": "refused here", "peer": "refused by the peer", "between": "not reached"}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. what and remedy are text for people, and hold no secret."""

    side: Side
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{SIDES[self.side]}: {self.what}. {self.remedy}"


class FailureError(PeerError):
    """What the peer does or is cannot be accepted, or the peer does not accept us."""

    def __init__(self, reason: DropReason, failure: Failure) -> None:
        super().__init__(reason, str(failure))
        self.failure = failure


class ProofError(FailureError):
    """The peer has not proved to be whom we look for."""

    def __init__(
        self,
        what: str,
        remedy: str,
        reason: DropReason = DropReason.IKE_AUTHENTICATION_FAILED,
    ) -> None:
        super().__init__(reason, Failure("here", what, remedy))


class UnhiddenError(RefusalError):
    """The peer takes nothing that could hide what is to be hidden of our traffic."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(DropReason.IKE_NO_PROPOSAL, Notify(NotifyType.NO_PROPOSAL_CHOSEN), what)
        self.failure = Failure("here", what, remedy)


_SETTINGS = "Compare this connection's settings on both sides"
# What a notify of the peer's means, and what to do about it.
_MEANINGS = {
    NotifyType.AUTHENTICATION_FAILED: (
        "AUTHENTICATION_FAILED, it does not know our identity or does not accept our proof of it",
        "Look at the peer's log and status for the cause; check that it has a connection for our"
        " identity, and our key, secret or CA; and check both clocks",
    ),
    NotifyType.NO_PROPOSAL_CHOSEN: (
        "NO_PROPOSAL_CHOSEN, we have no algorithms in common",
        _SETTINGS + ": suites and groups",
    ),
    NotifyType.INVALID_KE_PAYLOAD: (
        "INVALID_KE_PAYLOAD, we have no key exchange group in common",
        _SETTINGS + ": groups",
    ),
    NotifyType.TS_UNACCEPTABLE: (
        "TS_UNACCEPTABLE, our traffic selectors have nothing in common with its own",
        _SETTINGS + ": local_selectors here are remote_selectors there, and the reverse",
    ),
    NotifyType.INVALID_SYNTAX: (
        "INVALID_SYNTAX, it does not understand what we sent",
        "Look at the peer's log; one of the two programs is at fault",
    ),
}


def no_answer(exchange: str) -> Failure:
    """Return the failure that a request of the named exchange was never answered."""
    what = f"no answer to {exchange}"
    if exchange == "IKE_SA_INIT":
        remedy = "Check this box's way to the internet, that moatd runs there, and UDP 500 and 4500"
    else:
        remedy = "Check that nothing on the way drops UDP 4500, or long or fragmented packets"
    return Failure("between", what, remedy)


def failure_told(notify: int) -> Failure:
    """Return the failure that the peer's error notify reports."""
    for kind, (what, remedy) in _MEANINGS.items():
        if kind == notify:
            return Failure("peer", what, remedy)
    return Failure("peer", f"notify {notify}", "Look at the peer's log and status for the cause")


def refused(notify: Notify) -> Failure | None:
    """Return the failure that our own error notify tells the peer, None for one that is none."""
    if notify.type == NotifyType.NO_PROPOSAL_CHOSEN:
        what = "NO_PROPOSAL_CHOSEN, its proposals have no algorithms in common with ours"
        return Failure("here", what, _SETTINGS + ": suites and groups")
    if notify.type == NotifyType.TS_UNACCEPTABLE:
        what = "TS_UNACCEPTABLE, its traffic selectors have nothing in common with ours"
        remedy = _SETTINGS + ": local_selectors here are remote_selectors there, and the reverse"
        return Failure("here", what, remedy)
    return None


def failure_of(error: PeerError) -> Failure | None:
    """Return the failure that error is about, None where it is about single octets only."""
    if isinstance(error, FailureError | UnhiddenError):
        return error.failure
    return refused(error.notify) if isinstance(error, RefusalError) else None
