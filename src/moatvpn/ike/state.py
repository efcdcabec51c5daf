"""The states of an IKE SA and the moves between them.

INIT_SENT     we sent IKE_SA_INIT and wait for its answer      (initiator)
INTERMEDIATE  we sent IKE_INTERMEDIATE and wait for its answer (initiator)
AUTH_SENT     we sent IKE_AUTH and wait for its answer         (initiator)
HALF_OPEN     we answered IKE_SA_INIT and wait for IKE_AUTH    (responder)
ESTABLISHED   both sides are authenticated
REPLACED      a rekey has made its successor, or it came without a CHILD_SA; it only deletes itself
CLOSED        gone; nothing leaves this state
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A state of an IKE SA. The value is its public name."""

    INIT_SENT = "init-sent"
    INTERMEDIATE = "intermediate"
    AUTH_SENT = "auth-sent"
    HALF_OPEN = "half-open"
    ESTABLISHED = "established"
    REPLACED = "replaced"
    CLOSED = "closed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.INIT_SENT: frozenset({State.INTERMEDIATE, State.AUTH_SENT, State.CLOSED}),
    State.INTERMEDIATE: frozenset({State.AUTH_SENT, State.CLOSED}),
    State.AUTH_SENT: frozenset({State.ESTABLISHED, State.CLOSED}),
    State.HALF_OPEN: frozenset({State.ESTABLISHED, State.REPLACED, State.CLOSED}),
    State.ESTABLISHED: frozenset({State.REPLACED, State.CLOSED}),
    State.REPLACED: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
