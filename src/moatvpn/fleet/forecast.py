"""What ends soon: keys, and claims that nobody has used yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from moatvpn.fleet.claims import claims_of, is_open
from moatvpn.fleet.inventory import SEEKING
from moatvpn.fleet.models import Box, Moat


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends. lapses: nothing takes its place, and somebody loses the connection."""

    when: datetime
    what: str
    whose: str
    lapses: bool


def forecast(session: Session, now: datetime, within: timedelta) -> list[Ending]:
    """Return what ends before now + within, the first to end first; what has lapsed is in it, too.

    Keys are those of portals, and of moats whose customers are to have a connection.
    """
    end = now + within
    found = [*_keys(session, now, end), *_claims(session, now, end)]
    return sorted(found, key=lambda each: (each.when, each.whose))


def _keys(session: Session, now: datetime, end: datetime) -> Iterator[Ending]:
    # Moats' customers come with a query of their own, for all of them at once.
    session.scalars(select(Moat).options(joinedload(Moat.customer))).unique().all()
    boxes = session.scalars(select(Box).options(joinedload(Box.public_keys)))
    for box in boxes.unique():
        if isinstance(box, Moat) and box.customer.status not in SEEKING:
            continue
        last = max(
            (key.not_after or datetime.max.replace(tzinfo=end.tzinfo) for key in box.public_keys),
            default=None,
        )
        for key in box.public_keys:
            ends = key.not_after
            # A key that ended when another took its place is history.
            if ends is None or ends > end or (ends <= now and ends != last):
                continue
            yield Ending(ends, f"public key {key.key[-12:]}", box.identity, ends == last)


def _claims(session: Session, now: datetime, end: datetime) -> Iterator[Ending]:
    for claim in claims_of(session):
        if is_open(claim, now) and claim.expires <= end:
            yield Ending(claim.expires, "claim", claim.customer_id, lapses=False)
