"""Serial numbers of the signed documents that boxes are given: they only grow."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from moatvpn.fleet.journal import Configuration


def next_serial(session: Session, box: str, digest: str, now: datetime) -> int:
    """Return the serial number under which a box gets the document of this digest.

    It is the last one's for the same document, and the next one for another.
    """
    row = session.get(Configuration, box)
    if row is None:
        row = Configuration(box=box, serial=1, digest=digest, at=now)
        session.add(row)
    elif row.digest != digest:
        row.serial, row.digest, row.at = row.serial + 1, digest, now
    session.flush()
    return row.serial
