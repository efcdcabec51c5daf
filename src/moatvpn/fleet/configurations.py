"""Serial numbers of the signed documents that boxes are given: they only grow."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from moatvpn.fleet.journal import Configuration

# Not a box: the row that says below which number nobody begins.
FLOOR = "floor"


def next_serial(session: Session, box: str, digest: str, now: datetime) -> int:
    """Return the serial number under which a box gets the document of this digest.

    It is the last one's for the same document, and the next one for another.
    """
    row = session.get(Configuration, box)
    if row is None:
        floor = session.get(Configuration, FLOOR)
        first = 1 if floor is None else floor.serial + 1
        row = Configuration(box=box, serial=first, digest=digest, at=now)
        session.add(row)
    elif row.digest != digest:
        row.serial, row.digest, row.at = row.serial + 1, digest, now
    session.flush()
    return row.serial


def leap(session: Session, distance: int, now: datetime) -> None:
    """Raise all serial numbers by distance, and those that boxes will begin with.

    After a restore boxes have had documents that the database does not know of, some of them under
    names that it does not know either; and boxes take nothing that is older than their last.
    """
    session.execute(update(Configuration).values(serial=Configuration.serial + distance))
    if session.get(Configuration, FLOOR) is None:
        session.add(Configuration(box=FLOOR, serial=distance, digest="", at=now))
    session.flush()
