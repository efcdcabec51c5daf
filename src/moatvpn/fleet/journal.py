"""The tables of what operators did and are doing, and of what boxes said.

The audit, locks, operations, claims, serial numbers, observations.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from moatvpn.fleet.base import Base, UtcDateTime

_Json = JSON(none_as_null=True)


class Audit(Base):
    """One change of one record: who made it, when, and what the record said before and after.

    what is the change (add, set, key, ...), kind and subject name the record (customer c0001).
    before and after hold the fields that changed, None where there was or is no record; they
    hold no secrets. who is what the operator says of himself. Rows are never changed or deleted.
    """

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    who: Mapped[str] = mapped_column(Text)
    what: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(253), index=True)
    before: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    after: Mapped[dict[str, Any] | None] = mapped_column(_Json)


class Lock(Base):
    """A name that one holder at a time may hold, until expires (moatvpn.fleet.locks)."""

    __tablename__ = "locks"
    __table_args__ = (CheckConstraint("expires > taken", name="expires"),)

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    taken: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime] = mapped_column(UtcDateTime)


class State(StrEnum):
    """Where an operation stands. One that is stopped, or was killed, can be resumed."""

    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"


class Operation(Base):
    """Work on many boxes, such as a rotation of keys; its steps are the ledger of it."""

    __tablename__ = "operations"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'stopped', 'done')", name="state"),
        CheckConstraint("(state = 'running') = (ended IS NULL)", name="ended"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    state: Mapped[str] = mapped_column(String(8))
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    who: Mapped[str] = mapped_column(Text)
    began: Mapped[datetime] = mapped_column(UtcDateTime)
    ended: Mapped[datetime | None] = mapped_column(UtcDateTime)
    steps: Mapped[list[OperationStep]] = relationship(
        back_populates="operation", order_by="(OperationStep.wave, OperationStep.id)"
    )


class OperationStep(Base):
    """How far an operation has come on one box. state is the operation's own word for it."""

    __tablename__ = "operation_steps"
    __table_args__ = (
        UniqueConstraint("operation_id", "box"),
        CheckConstraint("attempts >= 0", name="attempts"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    operation_id: Mapped[int] = mapped_column(ForeignKey("operations.id"))
    box: Mapped[str] = mapped_column(String(253))
    wave: Mapped[int]
    state: Mapped[str] = mapped_column(String(32))
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    changed: Mapped[datetime] = mapped_column(UtcDateTime)
    operation: Mapped[Operation] = relationship(back_populates="steps")


class Claim(Base):
    """A token with which a new box binds its key to a customer, once, before it expires.

    token_hash is the SHA-256 of the token in hexadecimal; the token itself is nowhere. used_key
    is the public key it was used for; refused counts the attempts that came too late.
    """

    __tablename__ = "claims"
    __table_args__ = (
        CheckConstraint("(used IS NULL) = (used_key IS NULL)", name="used"),
        CheckConstraint("expires > created", name="expires"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime] = mapped_column(UtcDateTime)
    used: Mapped[datetime | None] = mapped_column(UtcDateTime)
    used_key: Mapped[str | None] = mapped_column(String(60))
    refused: Mapped[int] = mapped_column(default=0)


class Configuration(Base):
    """The newest signed document that a box was given. Its serial number only grows."""

    __tablename__ = "configurations"
    __table_args__ = (CheckConstraint("serial > 0", name="serial"),)

    box: Mapped[str] = mapped_column(String(253), primary_key=True)
    serial: Mapped[int]
    digest: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Observation(Base):
    """What was last heard of a box, and what has been counted (moatvpn.fleet.observations).

    at is when it was last heard of, from itself or from its portal; answered, when it last spoke
    itself. up: whether its tunnel was up then, a portal's moatd ran; up_for: for how many seconds.
    version, policy (the hash in force, empty for none), policy_fault and key (the fingerprint of
    the public key that it proves) are what it said then. counters are the numbers of envelopes
    that moatd told last, by who told them.
    Since the moment since, the box was watched for watched_seconds, and up for up_seconds of these
    at least; of the envelopes that both ends expected, so many were lost.
    """

    __tablename__ = "observations"
    __table_args__ = (
        CheckConstraint("0 <= up_seconds AND up_seconds <= watched_seconds", name="seconds"),
        CheckConstraint("0 <= lost AND lost <= expected", name="envelopes"),
    )

    box_id: Mapped[int] = mapped_column(ForeignKey("boxes.id"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    answered: Mapped[datetime | None] = mapped_column(UtcDateTime)
    up: Mapped[bool]
    up_for: Mapped[int]
    version: Mapped[str | None] = mapped_column(String(64))
    policy: Mapped[str | None] = mapped_column(String(64))
    policy_fault: Mapped[str | None] = mapped_column(Text)
    key: Mapped[str | None] = mapped_column(String(64))
    counters: Mapped[dict[str, Any]] = mapped_column(JSON)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    watched_seconds: Mapped[int] = mapped_column(BigInteger)
    up_seconds: Mapped[int] = mapped_column(BigInteger)
    expected: Mapped[int] = mapped_column(BigInteger)
    lost: Mapped[int] = mapped_column(BigInteger)
