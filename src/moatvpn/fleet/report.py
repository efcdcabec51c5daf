"""The fleet in figures, for people who don't run it: what `moat-fleet report` puts on its page.

Everything is of one moment and one state of the database. Up-time and loss are those that
observations have counted (moatvpn.fleet.observations), of active customers alone.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.crypto.sign import fingerprint
from moatvpn.fleet.forecast import Ending, forecast
from moatvpn.fleet.inventory import SEEKING, build_inventory
from moatvpn.fleet.journal import Observation
from moatvpn.fleet.models import Customer, Moat, Portal, PublicKey, Status
from moatvpn.fleet.observations import LONGEST_GAP, observations
from moatvpn.fleet.plan import Pending, plan

# The oldest key of a class, in days; the last class has no end.
_AGES = ((30, "0-29 days"), (90, "30-89"), (180, "90-179"), (365, "180-364"))
_OLDEST = "365 or more"
NO_KEY = "no key"
# How far ahead is seen in which steps, in days, so that a plot has room for all of them.
_PERIODS = (("week", 7), ("month", 30), ("quarter", 91), ("year", 366))
_MOST_PERIODS = 10
# Whose tunnel has been up for less of the time than this may need help.
GOOD_UP_TIME = 0.95


@dataclass(slots=True)
class Group:
    """Active customers with one ISP, or all of them, and how their tunnels do.

    up, down and silent (nobody has told of them for a day) are numbers of tunnels now. seconds
    and envelopes are as moatvpn.fleet.journal.Observation has them.
    """

    name: str
    customers: int = 0
    up: int = 0
    down: int = 0
    silent: int = 0
    watched_seconds: int = 0
    up_seconds: int = 0
    expected: int = 0
    lost: int = 0

    @property
    def up_time(self) -> float | None:
        """Return which part of the time watched they were up at least, None where nobody did."""
        return self.up_seconds / self.watched_seconds if self.watched_seconds else None

    @property
    def loss(self) -> float | None:
        """Return which part of the envelopes was lost, None where none were counted."""
        return self.lost / self.expected if self.expected else None


@dataclass(frozen=True, slots=True)
class Trouble:
    """An active customer whose tunnel is down, or has been for more than a little."""

    customer: str
    name: str
    isp: str
    moat: str
    up: bool
    up_time: float | None


@dataclass(frozen=True, slots=True)
class Differing:
    """A box that is not as it should be, and in what."""

    box: str
    why: str


@dataclass(frozen=True, slots=True)
class Figures:
    """All that the page says. Lists are whole; what is left out of the page, the page decides.

    versions are numbers of moats and portals by version, the commonest first. periods are numbers
    of endings in each week, month, quarter or year from now. policies: whether there was something
    to hold policies against.
    """

    made: datetime
    days: int
    portals: int
    statuses: Mapping[str, int]
    versions: Sequence[tuple[str, int, int]]
    unheard: int
    key_ages: Mapping[str, int]
    endings: Sequence[Ending]
    periods: Mapping[str, int]
    pending: Sequence[Pending]
    differing: Sequence[Differing]
    policies: bool
    everyone: Group
    isps: Sequence[Group]
    troubles: Sequence[Trouble] = field(repr=False)


def make_figures(
    session: Session,
    now: datetime,
    within: timedelta,
    policies: Mapping[str, str] | None = None,
) -> Figures:
    """Return the fleet's figures at now; policies are the hashes to be in force, by identity."""
    seen = observations(session)
    boxes = _boxes(session)
    keys: dict[int, list[tuple[str, datetime]]] = defaultdict(list)
    for key in session.scalars(select(PublicKey).order_by(PublicKey.id)):
        if key.valid(now):
            keys[key.box_id].append((key.key, key.not_before))
    wanted = [box for box in boxes if box.status is None or box.status in SEEKING]
    active = [box for box in boxes if box.status == Status.ACTIVE]
    everyone, isps = _groups(active, seen, now)
    endings = forecast(session, now, within)
    return Figures(
        made=now,
        days=within.days,
        portals=sum(box.status is None for box in boxes),
        statuses=_statuses(boxes),
        versions=_versions(wanted, seen),
        unheard=sum(box.id not in seen or seen[box.id].answered is None for box in wanted),
        key_ages=_key_ages(wanted, keys, now),
        endings=endings,
        periods=_periods(endings, now, within),
        pending=plan(session, build_inventory(session, now)),
        differing=_differing(wanted, seen, keys, policies),
        policies=policies is not None,
        everyone=everyone,
        isps=isps,
        troubles=_troubles(active, seen),
    )


class _Box(NamedTuple):
    """A box and whose it is; a portal is nobody's, and has no status."""

    id: int
    identity: str
    customer: str = ""
    name: str = ""
    isp: str = ""
    status: str | None = None


def _boxes(session: Session) -> list[_Box]:
    """Return all boxes in the order of their identities."""
    moats = select(
        Moat.id, Moat.identity, Customer.id, Customer.name, Customer.isp, Customer.status
    ).join(Customer, Customer.id == Moat.customer_id)
    portals = select(Portal.id, Portal.identity)
    found = [_Box(*row) for query in (portals, moats) for row in session.execute(query)]
    return sorted(found, key=lambda box: box.identity)


def _statuses(boxes: Sequence[_Box]) -> dict[str, int]:
    counted = Counter(box.status for box in boxes)
    return {status.value: counted[status.value] for status in Status}


def _versions(boxes: Sequence[_Box], seen: Mapping[int, Observation]) -> list[tuple[str, int, int]]:
    """Return how many moats and portals have said to run each version, the commonest first."""
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for box in boxes:
        row = seen.get(box.id)
        if row is not None and row.answered is not None:
            counted[row.version or "unknown"][box.status is None] += 1
    rows = [(version, moats, portals) for version, (moats, portals) in counted.items()]
    return sorted(rows, key=lambda row: (-row[1] - row[2], row[0]))


def _key_ages(
    boxes: Sequence[_Box], keys: Mapping[int, Sequence[tuple[str, datetime]]], now: datetime
) -> dict[str, int]:
    """Return how many boxes have a newest valid key of each class of ages."""
    ages = {name: 0 for _, name in _AGES} | {_OLDEST: 0, NO_KEY: 0}
    for box in boxes:
        begun = [not_before for _, not_before in keys.get(box.id, ())]
        if begun:
            days = (now - max(begun)).days
            ages[next((name for end, name in _AGES if days < end), _OLDEST)] += 1
        else:
            ages[NO_KEY] += 1
    return ages


def _periods(endings: Sequence[Ending], now: datetime, within: timedelta) -> dict[str, int]:
    """Return how many endings there are in each period from now; what has ended is in the first."""
    name, days = next(each for each in _PERIODS if within.days <= _MOST_PERIODS * each[1])
    last = max(1, -(-within.days // days))
    periods = {f"{name} {number}": 0 for number in range(1, last + 1)}
    for ending in endings:
        number = 1 + max(0, (ending.when - now).days // days)
        periods[f"{name} {min(number, last)}"] += 1
    return periods


def _groups(
    active: Sequence[_Box], seen: Mapping[int, Observation], now: datetime
) -> tuple[Group, list[Group]]:
    """Return all active customers as one group, and a group for each ISP, the largest first."""
    everyone = Group("all")
    isps: dict[str, Group] = {}
    for box in active:
        isp = isps.setdefault(box.isp, Group(box.isp))
        row = seen.get(box.id)
        for group in (everyone, isp):
            group.customers += 1
            if row is None or row.at < now - LONGEST_GAP:
                group.silent += 1
            else:
                group.up += row.up
                group.down += not row.up
            if row is not None:
                group.watched_seconds += row.watched_seconds
                group.up_seconds += row.up_seconds
                group.expected += row.expected
                group.lost += row.lost
    return everyone, sorted(isps.values(), key=lambda group: (-group.customers, group.name))


def _troubles(active: Sequence[_Box], seen: Mapping[int, Observation]) -> list[Trouble]:
    """Return the customers whose tunnels are down, and then those with little up-time."""
    found = []
    for box in active:
        row = seen.get(box.id)
        if row is None:
            continue
        up_time = row.up_seconds / row.watched_seconds if row.watched_seconds else None
        if row.up and (up_time is None or up_time >= GOOD_UP_TIME):
            continue
        found.append(Trouble(box.customer, box.name, box.isp, box.identity, row.up, up_time))
    return sorted(found, key=lambda each: (each.up, each.up_time or 0.0, each.customer))


def _differing(
    boxes: Sequence[_Box],
    seen: Mapping[int, Observation],
    keys: Mapping[int, Sequence[tuple[str, datetime]]],
    policies: Mapping[str, str] | None,
) -> list[Differing]:
    """Return the boxes that are, by what they said, not as the database or the policies have it."""
    found = []
    for box in boxes:
        row = seen.get(box.id)
        if row is None or row.answered is None:
            continue
        known = {fingerprint(base64.b64decode(text)) for text, _ in keys.get(box.id, ())}
        if row.key is not None and row.key not in known:
            found.append(Differing(box.identity, "proves a key that the database does not hold"))
        if row.policy_fault is not None:
            found.append(Differing(box.identity, f"policy: {row.policy_fault}"))
        elif policies is not None and row.policy is not None:
            expected = policies.get(box.identity, "")
            if row.policy != expected:
                why = f"policy {row.policy[:12] or 'none'} in force, not {expected[:12] or 'none'}"
                found.append(Differing(box.identity, why))
    return found
