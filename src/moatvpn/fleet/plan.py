"""What is to be done on which boxes: all that the database says otherwise than when it was applied.

A box's host variables are all that a playbook knows of it. Their digest is kept once a run has
ended well, so the plan is what has another one now. It says nothing of what somebody has changed
on a box by hand: `ansible-playbook site.yml --check --diff` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.configurations import next_serial
from moatvpn.fleet.inventory import REVOKED, Inventory
from moatvpn.fleet.journal import Configuration
from moatvpn.fleet.models import Status
from moatvpn.fleet.revocation import Untold, note_told, untold

# site.yml leaves these moats alone, and so does a plan.
_LEFT_ALONE = (f"status_{Status.SUSPENDED}", f"status_{Status.REVOKED}")


@dataclass(frozen=True, slots=True)
class Pending:
    """A box that is to be changed. applied: when it was last; None: never, by `apply`.

    digest is that of the variables that it is to be changed to. untold: who was revoked without the
    portal's knowing it yet.
    """

    identity: str
    kind: str
    applied: datetime | None
    digest: str
    untold: Untold | None = None


def _digests(inventory: Inventory) -> dict[str, str]:
    """Return a digest of the variables of each box that a run would reach."""
    left_alone = {host for group in _LEFT_ALONE for host in inventory.groups.get(group, ())}
    return {
        host: hashlib.sha256(_text(variables).encode()).hexdigest()
        for host, variables in inventory.hosts.items()
        if host not in left_alone
    }


def _text(variables: Mapping[str, Any]) -> str:
    # Who is revoked has a ledger of its own, for portals are told at once.
    return json.dumps(
        {name: value for name, value in variables.items() if name != REVOKED}, sort_keys=True
    )


def plan(session: Session, inventory: Inventory) -> list[Pending]:
    """Return the boxes to be changed: portals first, for moats call them; else by their names."""
    portals = set(inventory.groups["portals"])
    known = {row.box: row for row in session.scalars(select(Configuration))}
    ignorant = {each.portal: each for each in untold(session)}
    found = []
    for host, digest in _digests(inventory).items():
        row = known.get(_name(host))
        if row is None or row.digest != digest or host in ignorant:
            kind = "portal" if host in portals else "moat"
            applied = None if row is None else row.at
            found.append(Pending(host, kind, applied, digest, ignorant.get(host)))
    return sorted(found, key=lambda each: (each.kind != "portal", each.identity))


def mark_applied(session: Session, applied: Iterable[Pending], now: datetime) -> None:
    """Note that boxes are as the plan had them."""
    boxes = list(applied)
    for box in boxes:
        next_serial(session, _name(box.identity), box.digest, now)
    note_told(session, [box.untold for box in boxes if box.untold is not None], now)


def _name(host: str) -> str:
    """Return what `configurations` knows a box's variables by."""
    # Of one length: an identity may be as long as the column.
    return f"applied {hashlib.sha256(host.encode()).hexdigest()}"
