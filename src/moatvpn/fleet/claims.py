"""Claims in the customer database: made once, used once, and told of when somebody has a copy.

A token is printed when it is made, and is nowhere afterwards: its SHA-256 is what tells it apart
(moatvpn.enrol.claims). What became of it stands in the journals of the portals' services.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.enrol.claims import Open
from moatvpn.enrol.journal import BOUND, Seen
from moatvpn.errors import OperatorError
from moatvpn.fleet.audit import record_audit
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.journal import Audit, Claim
from moatvpn.fleet.keys import record_key
from moatvpn.fleet.models import Customer, Moat, Status


@dataclass(frozen=True, slots=True)
class Collected:
    """What journals told for the first time. recorded: identities. alarms: lines for people."""

    recorded: tuple[str, ...]
    alarms: tuple[str, ...]


def make_claim(
    session: Session, customer_id: str, token_hash: str, now: datetime, lifetime: timedelta
) -> Claim:
    """Let whoever shows the token of this hash first become the customer's moat.

    Raises OperatorError for a revoked customer, and while another claim of theirs is open.
    """
    customer = get_customer(session, customer_id)
    if customer.status == Status.REVOKED:
        why = "is revoked"
        raise OperatorError(f"customer {customer_id}", why, "Set another status first")
    open_one = next((each for each in claims_of(session, customer_id) if is_open(each, now)), None)
    if open_one is not None:
        raise OperatorError(
            f"customer {customer_id}",
            f"has a claim until {moment_text(open_one.expires)}",
            "Use that token, or cancel it: moat-fleet claim cancel",
        )
    claim = Claim(
        customer_id=customer_id,
        token_hash=token_hash,
        created=now,
        expires=now + lifetime,
        used=None,
        used_key=None,
        refused=0,
    )
    session.add(claim)
    expires = moment_text(claim.expires)
    record_audit(session, now, "make", "claim", customer_id, after={"expires": expires})
    session.flush()
    return claim


def claims_of(session: Session, customer_id: str | None = None) -> list[Claim]:
    """Return the claims of a customer, or all, the oldest first."""
    query = select(Claim).order_by(Claim.id)
    if customer_id is not None:
        query = query.where(Claim.customer_id == customer_id)
    return list(session.scalars(query))


def is_open(claim: Claim, now: datetime) -> bool:
    """Return whether a claim may bind a key yet."""
    return claim.used is None and now < claim.expires


def cancel_claims(session: Session, customer: Customer, now: datetime) -> int:
    """Forget the claims of a customer that have bound no key; return how many there were."""
    unused = [claim for claim in claims_of(session, customer.id) if claim.used is None]
    for claim in unused:
        before = {"expires": moment_text(claim.expires)}
        record_audit(session, now, "cancel", "claim", customer.id, before=before)
        session.delete(claim)
    session.flush()
    return len(unused)


def open_claims(session: Session) -> dict[str, list[Open]]:
    """Return by identity what an enrolment service is to know of each moat's claims."""
    query = select(Claim, Moat.identity).join(Moat, Moat.customer_id == Claim.customer_id)
    found: dict[str, list[Open]] = {}
    for claim, identity in session.execute(query.order_by(Claim.id)):
        made = Open(claim.token_hash, identity, claim.expires.timestamp(), claim.used_key)
        found.setdefault(identity, []).append(made)
    return found


def collect(session: Session, journals: Sequence[Sequence[Seen]], now: datetime) -> Collected:
    """Take in what services have seen: bound keys become the moats', copies become alarms.

    Journals only grow and are collected again and again: what was taken in before changes nothing,
    and is not told of again. Each alarm is in the audit, under the moat's identity.
    """
    seen = sorted((line for journal in journals for line in journal), key=lambda each: each.at)
    claims = {claim.token_hash: claim for claim in claims_of(session)}
    recorded: list[str] = []
    alarms: dict[str, str] = {}
    refusals: Counter[str] = Counter()
    for line in seen:
        claim = claims.get(line.token_hash)
        if line.what != BOUND:
            refusals[line.token_hash] += 1
            _alarm(alarms, line, f"refused, {line.what}")
        elif claim is None:
            _alarm(alarms, line, "it was cancelled, so the key is not recorded")
        elif claim.used_key is None:
            fault = _bind(session, claim, line, now)
            if fault is None:
                recorded.append(line.identity)
            else:
                _alarm(alarms, line, fault)
        elif claim.used_key != line.public_key:
            refusals[line.token_hash] += 1
            _alarm(alarms, line, "another key has it: somebody has a copy of the token")
    for token_hash, count in refusals.items():
        claim = claims.get(token_hash)
        if claim is not None and claim.refused < count:
            before, after = {"refused": claim.refused}, {"refused": count}
            claim.refused = count
            record_audit(
                session, now, "refuse", "claim", claim.customer_id, before=before, after=after
            )
    told = _told(session)
    new = [alarm for alarm in alarms if alarm not in told]
    for alarm in new:
        record_audit(session, now, "alarm", "claim", alarms[alarm], after={"alarm": alarm})
    session.flush()
    return Collected(tuple(recorded), tuple(new))


def _told(session: Session) -> frozenset[str]:
    """Return the alarms that were told of before."""
    rows = session.scalars(select(Audit).where(Audit.what == "alarm"))
    return frozenset(str(row.after["alarm"]) for row in rows if row.after is not None)


def _bind(session: Session, claim: Claim, line: Seen, now: datetime) -> str | None:
    """Record the key that a claim has bound; return why not, None where it is recorded."""
    customer = session.get_one(Customer, claim.customer_id)
    if customer.moat.identity != line.identity:
        return f"the customer's moat is {customer.moat.identity} by now"
    try:
        # The operator gave the token out for a new box: its key takes the place of an older one's.
        record_key(session, line.identity, line.public_key, now, replace=True)
    except OperatorError as error:
        return str(error)
    claim.used, claim.used_key = datetime.fromtimestamp(int(line.at), UTC), line.public_key
    after = {"used_key": line.public_key, "source": line.source}
    record_audit(session, now, "use", "claim", claim.customer_id, after=after)
    return None


def _alarm(alarms: dict[str, str], line: Seen, what: str) -> None:
    """Add a line for people to alarms, whose values are the identities that they concern."""
    when = moment_text(datetime.fromtimestamp(int(line.at), UTC))
    text = f"{line.identity}: claim shown from {line.source} at {when}: {what}"
    alarms[text] = line.identity
