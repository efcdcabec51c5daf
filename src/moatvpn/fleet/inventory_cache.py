"""An inventory as a cache keeps it: one that is out of date is never served.

It counts for the database's stamp that it was made under, from the moment that it was made until
before the next key begins or ends.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatvpn.fleet.inventory import Inventory
from moatvpn.fleet.models import PublicKey


def next_key_change(session: Session, now: datetime) -> datetime | None:
    """Return when, after now, the first key begins or ends; None where none does."""
    moments = [
        session.scalar(select(func.min(column)).where(column > now))
        for column in (PublicKey.not_before, PublicKey.not_after)
    ]
    return min((moment for moment in moments if moment is not None), default=None)


def pack(inventory: Inventory, stamp: str, now: datetime, until: datetime | None) -> dict[str, Any]:
    """Return an inventory made at now as values of JSON. until: next_key_change at now."""
    return {
        "stamp": stamp,
        "from": now.isoformat(),
        "until": None if until is None else until.isoformat(),
        # One text: Ansible copies and compares what it keeps, value by value.
        "inventory": json.dumps([inventory.hosts, inventory.groups]),
    }


def unpack(kept: Any, stamp: str, now: datetime) -> Inventory | None:
    """Return the inventory in what pack returned; None where it no longer counts, or is not one."""
    try:
        if kept["stamp"] != stamp or now < datetime.fromisoformat(kept["from"]):
            return None
        if kept["until"] is not None and now >= datetime.fromisoformat(kept["until"]):
            return None
        hosts, groups = json.loads(kept["inventory"])
    except (KeyError, TypeError, ValueError):
        return None
    return Inventory(hosts=hosts, groups=groups)
