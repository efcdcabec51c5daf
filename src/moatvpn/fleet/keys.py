"""Public keys of boxes: recorded once, never replaced in silence, never shared by two boxes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager

from moatvpn.errors import OperatorError
from moatvpn.fleet import fields
from moatvpn.fleet.audit import record_audit
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.models import Box, Moat, PublicKey, Status


def record_key(
    session: Session,
    identity: str,
    text: str,
    now: datetime,
    *,
    replace: bool = False,
    beside: bool = False,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> bool:
    """Make a key that a box made valid for it; return whether that changed anything.

    text is base64 of the key's SubjectPublicKeyInfo. The key is valid from not_before (now) until
    before not_after (no end); for a key that is there, only dates that are given change. replace
    ends the box's other keys when this one begins; beside leaves them valid, for as long as one
    takes the other's place. Raises OperatorError where another key is valid and neither is given,
    where the key is another box's, or one that has ended.
    """
    box = get_box(session, identity)
    try:
        key = fields.public_key(text)
    except ValueError as error:
        raise OperatorError(
            f"public key of {identity}", str(error), "Copy it from the box (module moat_identity)"
        ) from error
    row = session.scalar(select(PublicKey).where(PublicKey.key == key))
    if row is not None:
        _check_known(row, box, now)
    before = _validities(box)
    start = not_before or (row.not_before if row is not None else now)
    end = not_after or (row.not_after if row is not None else None)
    if end is not None and end < start:
        why = f"ends ({end}) before it begins ({start})"
        raise OperatorError(f"public key of {identity}", why, "Mend the dates")
    others = _others(box, row, max(start, now))
    if others and row is None and not (replace or beside):
        raise OperatorError(
            identity,
            "has another valid public key",
            "Add --replace if the box made a new key on purpose, --beside while it has both",
        )
    if replace:
        for other in others:
            other.end(max(start, now))
    changed = bool(replace and others)
    if row is None:
        session.add(PublicKey(box=box, key=key, not_before=start, not_after=end))
        changed = True
    elif (row.not_before, row.not_after) != (start, end):
        row.not_before, row.not_after = start, end
        changed = True
    if changed:
        record_audit(session, now, "key", box.kind, identity, before=before, after=_validities(box))
    session.flush()
    return changed


def _validities(box: Box) -> dict[str, list[str | None]]:
    """Return when each of the box's keys counts, from and until, as the audit has it."""
    return {
        key.key: [moment_text(key.not_before), moment_text(key.not_after)]
        for key in box.public_keys
    }


def end_keys(session: Session, box: Box, now: datetime) -> None:
    """End every key of a box that counts at now or later."""
    before = _validities(box)
    for key in box.public_keys:
        key.end(now)
    after = _validities(box)
    if after != before:
        record_audit(session, now, "key", box.kind, box.identity, before=before, after=after)


def _others(box: Box, row: PublicKey | None, moment: datetime) -> list[PublicKey]:
    """Return the box's keys beside row that count at moment or later."""
    return [
        other
        for other in box.public_keys
        if other is not row and (other.not_after is None or other.not_after > moment)
    ]


def get_box(session: Session, identity: str) -> Box:
    """Return the moat or portal of that identity; OperatorError for none, or a revoked one."""
    box = session.scalar(select(Box).where(Box.identity == identity))
    if box is None:
        raise OperatorError(
            identity,
            "no moat or portal of that name is in the database",
            "See `moat-fleet customer list` and `moat-fleet portal list`",
        )
    if isinstance(box, Moat) and box.customer.status == Status.REVOKED:
        raise OperatorError(
            identity,
            f"customer {box.customer_id} is revoked",
            "Set another status first if the moat is to come back",
        )
    return box


def _check_known(row: PublicKey, box: Box, now: datetime) -> None:
    if row.box_id != box.id:
        raise OperatorError(
            box.identity,
            f"this public key is already {row.box.identity}'s",
            "Make a new key on the box, and see whether its disk is a copy",
        )
    if row.not_after is not None and row.not_after <= now:
        raise OperatorError(
            box.identity,
            f"this public key ended on {row.not_after:%Y-%m-%d}",
            "Make a new key on the box",
        )


def list_keys(session: Session) -> list[PublicKey]:
    """Return all keys, in order of identity and then of their recording."""
    query = (
        select(PublicKey)
        .join(PublicKey.box)
        .options(contains_eager(PublicKey.box))
        .order_by(Box.identity, PublicKey.id)
    )
    return list(session.scalars(query))
