"""What is heard of boxes, kept: the newest of each, and up-time and loss since the first.

A portal's moatd tells of all its moats, and goes first: it sees those that nobody reaches. Up-time
is a lower bound. Of the time between two observations, so much counts as up as the tunnel has been
up without a break when the second one is made. After a longer gap than LONGEST_GAP nobody has
watched. Only active customers are watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from moatvpn.fleet.inventory import SERVED, connection_name
from moatvpn.fleet.journal import Observation
from moatvpn.fleet.models import Box, Moat, Portal, Status
from moatvpn.fleet.observed import BrokenAnswerError, Heard, Tunnel, read_answer
from moatvpn.fleet.playbooks import Answers

# Whoever observes once a day, and a bit late, leaves no gap.
LONGEST_GAP = timedelta(hours=26)
# Far from what a column of the database holds, however long a box lies.
_MOST_COUNTED = 10**17


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many boxes spoke, how many are known of by that, and why an answer is none, by box."""

    answered: int
    heard_of: int
    refused: Mapping[str, str]


def record_observations(session: Session, answers: Answers, now: datetime) -> Recorded:
    """Keep what boxes have answered, now being when they were asked."""
    heard: dict[str, Heard] = {}
    refused = dict(answers.refused)
    for identity, answer in answers.found.items():
        try:
            heard[identity] = read_answer(answer)
        except BrokenAnswerError as error:
            refused[identity] = str(error)
    known = {row.box_id: row for row in session.scalars(select(Observation))}
    portals = {portal.id: portal for portal in session.scalars(select(Portal))}
    moats = session.scalars(select(Moat).options(joinedload(Moat.customer))).unique().all()
    heard_of = 0
    for box in (*portals.values(), *moats):
        own = heard.get(box.identity)
        portal = portals[box.portal_id] if isinstance(box, Moat) else None
        theirs = heard.get(portal.identity) if portal is not None else None
        if isinstance(box, Moat) and box.customer.status not in SERVED:
            theirs = None  # which has no connection for them
        if own is None and theirs is None:
            continue
        heard_of += 1
        row = known.get(box.id)
        if row is None:
            row = _new(box, now)
            session.add(row)
        if own is not None:
            _spoke(row, own, now)
        if isinstance(box, Moat) and portal is not None:
            _told_of(row, box, portal, own, theirs, now)
        elif own is not None:
            row.up = own.running
        row.at = max(row.at, now)
    session.flush()
    return Recorded(len(heard), heard_of, dict(sorted(refused.items())))


def _new(box: Box, now: datetime) -> Observation:
    return Observation(
        box_id=box.id,
        at=now,
        answered=None,
        up=False,
        up_for=0,
        version=None,
        policy=None,
        policy_fault=None,
        key=None,
        counters={},
        since=now,
        watched_seconds=0,
        up_seconds=0,
        expected=0,
        lost=0,
    )


def _spoke(row: Observation, own: Heard, now: datetime) -> None:
    row.answered = now
    row.version = own.version
    row.policy, row.policy_fault = own.policy, own.policy_fault
    row.key = own.key or row.key


def _told_of(
    row: Observation,
    moat: Moat,
    portal: Portal,
    own: Heard | None,
    theirs: Heard | None,
    now: datetime,
) -> None:
    """Take in how a moat's tunnel is: by its portal's word, without that by its own."""
    ends = {
        portal.identity: None if theirs is None else theirs.tunnels.get(moat.customer_id),
        moat.identity: None if own is None else _own_tunnel(own, portal),
    }
    tunnel = ends[portal.identity if theirs is not None else moat.identity]
    up_for = 0 if tunnel is None else int(tunnel.up_for)
    gap = now - row.at
    if moat.customer.status == Status.ACTIVE and timedelta(0) < gap <= LONGEST_GAP:
        watched = int(gap.total_seconds())
        row.watched_seconds += watched
        row.up_seconds += min(watched, up_for)
    row.up = tunnel is not None and tunnel.up
    row.up_for = up_for
    _count_envelopes(row, ends)


def _own_tunnel(own: Heard, portal: Portal) -> Tunnel | None:
    """Return a moat's tunnel to its portal, called as the inventory calls it; else any other."""
    found = own.tunnels.get(connection_name(portal.identity))
    return found if found is not None else next(iter(own.tunnels.values()), None)


def _count_envelopes(row: Observation, ends: Mapping[str, Tunnel | None]) -> None:
    """Add what each end has counted since it told last; its moatd may have begun anew since."""
    counters: dict[str, list[int]] = {}
    for teller, tunnel in ends.items():
        last = row.counters.get(teller)
        if tunnel is None or tunnel.expected is None or tunnel.lost is None:
            if last is not None:
                counters[teller] = last
            continue
        now = [tunnel.expected, tunnel.lost]
        before = last if last is not None and now[0] >= last[0] else [0, 0]
        expected = now[0] - before[0]
        lost = min(max(0, now[1] - before[1]), expected)
        if row.expected + expected <= _MOST_COUNTED:
            row.expected += expected
            row.lost += lost
        counters[teller] = now
    row.counters = counters


def observations(session: Session) -> dict[int, Observation]:
    """Return what is known of each box, by the number of its row."""
    return {row.box_id: row for row in session.scalars(select(Observation))}


def reachable(session: Session, *, portals_only: bool) -> list[str]:
    """Return whom to ask: portals, and moats of customers who are neither suspended nor revoked."""
    found: Iterable[Box] = session.scalars(select(Portal).order_by(Portal.identity)).all()
    asked = [box.identity for box in found]
    if not portals_only:
        moats = select(Moat).options(joinedload(Moat.customer)).order_by(Moat.identity)
        left_alone = (Status.SUSPENDED, Status.REVOKED)
        asked += [
            moat.identity
            for moat in session.scalars(moats).unique()
            if moat.customer.status not in left_alone
        ]
    return asked
