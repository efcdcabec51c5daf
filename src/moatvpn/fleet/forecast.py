"""What ends soon: keys, claims that nobody has used yet; and what should have ended long ago."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from moatvpn.fleet.claims import claims_of, is_open
from moatvpn.fleet.inventory import SEEKING
from moatvpn.fleet.models import Box, Customer, Moat, PublicKey
from moatvpn.fleet.revocation import untold


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends. lapses: nothing takes its place, and somebody loses the connection."""

    when: datetime
    what: str
    whose: str
    lapses: bool


def forecast(session: Session, now: datetime, within: timedelta) -> list[Ending]:
    """Return what ends before now + within, the first to end first; what has lapsed is in it, too.

    Keys are those of portals, and of moats whose customers are to have a connection. A portal that
    has not been told of a revocation is in it whenever that was: it still lets the customer in.
    """
    end = now + within
    found = [*_keys(session, now, end), *_claims(session, now, end), *_untold(session)]
    return sorted(found, key=lambda each: (each.when, each.whose))


def _keys(session: Session, now: datetime, end: datetime) -> Iterator[Ending]:
    # Columns, not objects: of thousands of boxes, what ends is a few lines.
    moats = Moat.__table__
    query = (
        select(Box.id, Box.identity, PublicKey.key, PublicKey.not_after)
        .join(PublicKey, PublicKey.box_id == Box.id)
        .outerjoin(moats, moats.c.id == Box.id)
        .outerjoin(Customer, Customer.id == moats.c.customer_id)
        .where(or_(Customer.status.is_(None), Customer.status.in_(SEEKING)))
        .order_by(Box.identity, PublicKey.id)
    )
    for _, rows in groupby(session.execute(query), key=attrgetter("id")):
        keys = list(rows)
        # What has no end is the last of a box's.
        ends_of = [row.not_after for row in keys]
        last = None if None in ends_of else max(ends_of)
        for row in keys:
            ends = row.not_after
            # A key that ended when another took its place is history.
            if ends is None or ends > end or (ends <= now and ends != last):
                continue
            yield Ending(ends, f"public key {row.key[-12:]}", row.identity, ends == last)


def _untold(session: Session) -> Iterator[Ending]:
    for each in untold(session):
        what = f"revocation of {', '.join(each.customers)} untold"
        yield Ending(each.since, what, each.portal, lapses=True)


def _claims(session: Session, now: datetime, end: datetime) -> Iterator[Ending]:
    for claim in claims_of(session):
        if is_open(claim, now) and claim.expires <= end:
            yield Ending(claim.expires, "claim", claim.customer_id, lapses=False)
