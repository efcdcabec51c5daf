"""Whether the peer of a connection lives (RFC 7296, 2.4), and keepalives for the NAT between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moatvpn.ike.context import Context
from moatvpn.ike.mobike import LivenessTask
from moatvpn.ike.part import Part
from moatvpn.ike.scheduler import Deadline
from moatvpn.wire.endpoint import KEEPALIVE

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection

KEEPALIVE_SECONDS = 20.0  # without a packet to the peer, from behind a NAT (RFC 3948, 4)
UNANSWERED_SECONDS = 2.0  # traffic out and none in for this long: ask whether the peer lives
# The least part of dpd_interval. Moats that an outage has brought into step fall out of it again.
LIVENESS_PART = 0.8


class Liveness(Part):
    """When something last came from a peer and went to it, and what is asked or sent when."""

    __slots__ = (
        "_context",
        "_keepalive",
        "_last_inbound",
        "_last_outbound",
        "_unanswered",
        "_watch",
    )

    def __init__(self, context: Context, connection: Connection, now: float) -> None:
        super().__init__(connection)
        self._context = context
        self._watch: Deadline | None = None
        self._unanswered: Deadline | None = None
        self._keepalive: Deadline | None = None
        self._last_outbound = now
        self._last_inbound = now

    def began(self, now: float) -> None:
        """Watch the peer of a fresh IKE SA."""
        self._last_inbound = now
        self._watch_from(now)

    def end(self) -> None:
        """Neither ask nor send anything any more."""
        for timer in (self._watch, self._unanswered, self._keepalive):
            if timer is not None:
                timer.cancel()

    def inbound(self, now: float) -> None:
        """Something authentic came from the peer."""
        self._last_inbound = now
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None
        sa = self._sa
        if sa is not None:
            sa.peer_lives(now)

    def outbound(self, now: float) -> None:
        """A packet went to the peer; if nothing comes back, ask soon."""
        self._last_outbound = now
        if self._unanswered is None and self._sa is not None:
            self._unanswered = self._context.scheduler.at(now + UNANSWERED_SECONDS, self._no_answer)

    def keep_mapping(self, now: float) -> None:
        """Send keepalives from now on if there is a NAT on our side, and else none."""
        if self._keepalive is not None:
            self._keepalive.cancel()
        sa = self._sa
        if sa is not None and sa.behind_nat:
            self._keepalive = self._context.scheduler.at(now + KEEPALIVE_SECONDS, self._keep_alive)

    def _keep_alive(self, now: float) -> None:
        """Keep the NAT in front of us from forgetting us, if nothing else has."""
        sa = self._sa
        if sa is None or not sa.behind_nat:
            return
        idle_since = max(self._last_outbound, sa.sent_at)
        if idle_since + KEEPALIVE_SECONDS <= now:
            sa.send(KEEPALIVE)
            idle_since = now
        due = idle_since + KEEPALIVE_SECONDS
        self._keepalive = self._context.scheduler.at(due, self._keep_alive)

    def _no_answer(self, now: float) -> None:
        self._unanswered = None
        if self._sa is not None:
            self.check(now)

    def _watch_from(self, since: float) -> None:
        """Ask the peer whether it lives, if nothing of it comes from that time on."""
        if self._watch is not None:
            self._watch.cancel()
        part = LIVENESS_PART + (1 - LIVENESS_PART) * self._context.fraction()
        when = since + part * self._connection.config.dpd_interval
        self._watch = self._context.scheduler.at(when, self._look)

    def _look(self, now: float) -> None:
        if self._sa is None:
            return
        if self._last_inbound + LIVENESS_PART * self._connection.config.dpd_interval <= now:
            self.check(now)
            self._watch_from(now)
        else:
            self._watch_from(self._last_inbound)

    def check(self, now: float) -> None:
        """Ask the peer whether it lives, unless some request waits for it already."""
        connection = self._connection
        if connection.config.initiate and connection.addresses.own_changed(now):
            return
        sa = connection.sa
        if sa is not None and sa.pending is None:
            sa.start(LivenessTask(connection, sa), now)
