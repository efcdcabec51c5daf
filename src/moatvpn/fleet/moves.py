"""Customers who move between portals: which boxes have what, at each stage of a move.

Every stage leaves the customer with a way both ways, and is safe to repeat:

    accept     the new portal has the connection, and routes the private subnets into it
    attach     the moat calls the new portal, too, and goes on sending by the old one
    switch     the moat sends by the new one; what comes from either is taken
    hand-on    whoever the corporate side sends to hands on to the new one
    release    the customer is the new portal's; the moat calls that alone
    drop       the old portal has no connection to it any more

A customer keeps the private subnets. The portal in whose pool they lie is still the way to them
for the corporate side's routers, so that it hands on what comes for them, for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatvpn.fleet.journal import Operation, OperationStep
from moatvpn.fleet.models import Moat, Portal
from moatvpn.fleet.rollout import CLOSED
from moatvpn.subnets import Network, contains, parse_interface, parse_network

KIND = "move"
ACCEPT, ATTACH, SWITCH, HAND_ON, RELEASE, DROP = STAGES = (
    "accept",
    "attach",
    "switch",
    "hand-on",
    "release",
    "drop",
)  # fmt: skip
# The metrics of the moat's connections, the old portal's and the new one's, where it has them. The
# new one's does not change while both are there: no two connections ever have the same.
_METRICS: Mapping[str, tuple[int | None, int | None]] = {
    ACCEPT: (0, None),
    ATTACH: (0, 1),
    SWITCH: (2, 1),
    HAND_ON: (2, 1),
    RELEASE: (None, 0),
    DROP: (None, 0),
}


@dataclass(frozen=True, slots=True)
class Move:
    """A move that is not done: between which portals, by identity, and its stage."""

    old: str
    new: str
    stage: str


def open_moves(session: Session) -> dict[str, Move]:
    """Return the moves that are not done, by the moat's identity."""
    query = (
        select(OperationStep.box, OperationStep.state, OperationStep.data)
        .join(OperationStep.operation)
        .where(Operation.kind == KIND, OperationStep.state.not_in(CLOSED))
    )
    return {
        box: Move(data["from"], data["to"], stage) for box, stage, data in session.execute(query)
    }


@dataclass(frozen=True, slots=True)
class Attachment:
    """Which portals have a connection to a moat, and which ones it calls, with what metric.

    way is the portal that the corporate side is to reach the moat by.
    """

    accepting: tuple[Portal, ...]
    calling: tuple[tuple[Portal, int], ...]
    way: Portal


def attachment(moat: Moat, move: Move | None, portals: Mapping[int, Portal]) -> Attachment:
    """Return a moat's portals; move is what is under way. Portals are by their ids."""
    own = portals[moat.portal_id]
    if move is None:
        return Attachment((own,), ((own, 0),), own)
    named = {portal.identity: portal for portal in portals.values()}
    old, new = named[move.old], named[move.new]
    metrics = zip((old, new), _METRICS[move.stage], strict=True)
    handed_on = STAGES.index(move.stage) >= STAGES.index(HAND_ON)
    return Attachment(
        accepting=(new,) if move.stage == DROP else (old, new),
        calling=tuple((portal, metric) for portal, metric in metrics if metric is not None),
        way=new if handed_on else old,
    )


@dataclass
class MovedRoutes:
    """The routes beside the pools' that portals need, by portal's id, as roles/portal has them.

    here: of subnets that its tunnel leads to. away: of subnets of its pool that another portal has.
    """

    here: dict[int, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    away: dict[int, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, subnets: Iterable[Network], attached: Attachment, portals: Iterable[Portal]
    ) -> None:
        """Take in a moat by its private subnets: most need none, lying in their portal's pool."""
        for subnet in subnets:
            if len(attached.accepting) == 1 and _in_pool(attached.way, subnet):
                continue
            owner, destination = owner_of(subnet, portals), {"destination": str(subnet)}
            if owner is not None and owner is not attached.way:
                via = {"via": corporate_host(attached.way, subnet.version)}
                self.away[owner.id].append(destination | via)
            for portal in attached.accepting:
                if portal is not owner:
                    self.here[portal.id].append(destination)

    def variables(self, portal: Portal) -> dict[str, Any]:
        """Return the variables of a portal: none where it has no such routes."""
        both = {
            "portal_moved_here": self.here.get(portal.id),
            "portal_moved_away": self.away.get(portal.id),
        }
        return {name: routes for name, routes in both.items() if routes}


def owner_of(network: Network, portals: Iterable[Portal]) -> Portal | None:
    """Return the portal whose pool has the network, None where none has."""
    return next((portal for portal in portals if _in_pool(portal, network)), None)


def _in_pool(portal: Portal, network: Network) -> bool:
    return contains(_network(portal.pool if network.version == 4 else portal.pool6), network)


@lru_cache(maxsize=256)
def _network(text: str) -> Network:
    return parse_network(text)


def corporate_host(portal: Portal, version: int) -> str:
    """Return a portal's address on the corporate network."""
    text = portal.corporate_address if version == 4 else portal.corporate_address6
    return str(parse_interface(text).ip)
