"""The audit: every change of a record, written with the change or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.journal import Audit

Fields = Mapping[str, Any]


def record_audit(
    session: Session,
    now: datetime,
    what: str,
    kind: str,
    subject: str,
    *,
    before: Fields | None = None,
    after: Fields | None = None,
) -> None:
    """Write one change into the audit, in the session's transaction.

    what, kind and subject name the change: set, customer, c0001. Where before and after are
    both given, what they agree in is left out. Neither may hold a secret.
    """
    if before is not None and after is not None:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        before = {name: before.get(name) for name in names}
        after = {name: after.get(name) for name in names}
    session.add(
        Audit(
            at=now,
            who=operator(session),
            what=what,
            kind=kind,
            subject=subject,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
        )
    )


def operator(session: Session) -> str:
    """Return who the session's changes are made by."""
    return str(session.info.get("who", "unknown"))


def history(session: Session, subject: str | None = None) -> list[Audit]:
    """Return the changes of one subject, or all, the oldest first."""
    query = select(Audit).order_by(Audit.id)
    if subject is not None:
        query = query.where(Audit.subject == subject)
    return list(session.scalars(query))
