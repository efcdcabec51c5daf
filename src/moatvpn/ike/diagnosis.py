"""What lately failed, for the log and for `moatctl status`: bounded, whoever causes it.

Who fails to prove who it is may be anybody. So there is one record a connection, some of those
who belong to none, and so many lines a minute in the log; the rest is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moatvpn.ike.failure import Failure

MOST_STRANGERS = 16
LINES_A_MINUTE = 30
AGAIN_SECONDS = 60.0  # the same failure is said again only after so long
_LONGEST_IDENTITY = 64


@dataclass(slots=True)
class FailureRecord:
    """The last failure, and how often in a row it was that one. when is the daemon's clock's.

    peer is the address at the other end, and identity what it called itself, which may be false.
    """

    failure: Failure
    peer: str
    identity: str
    when: float
    said_at: float
    count: int = 1


class Diagnosis:
    """Keeps the failures of strangers, and says every failure in the log, within bounds.

    notice writes a line about a connection (or None) at a level.
    """

    def __init__(self, notice: Callable[[str | None, str, str], None]) -> None:
        self._notice = notice
        self._strangers: dict[tuple[str, str], FailureRecord] = {}
        self._minute = 0.0
        self._lines = 0

    def of_connection(
        self,
        before: FailureRecord | None,
        name: str,
        failure: Failure,
        peer: tuple[str, str],
        now: float,
    ) -> FailureRecord:
        """Return the record of a connection's failure; before is the one that it had.

        peer is the address at the other end, and the identity of the one there.
        """
        record = self._merged(before, failure, peer, now)
        if record.said_at == now:
            self._say(name, f"{failure} ({peer[0]})", now)
        return record

    def of_stranger(self, failure: Failure, peer: tuple[str, str], now: float) -> None:
        """Record the failure of one who belongs to no connection. peer is as in of_connection."""
        host, claimed = peer
        identity = "".join(c if c.isprintable() else "?" for c in claimed[:_LONGEST_IDENTITY])
        record = self._merged(
            self._strangers.pop((host, identity), None), failure, (host, identity), now
        )
        self._strangers[host, identity] = record  # as the latest
        if len(self._strangers) > MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]
        if record.said_at == now:
            self._say(None, f"{failure} ({host}, which calls itself {identity!r})", now)

    def strangers(self) -> list[FailureRecord]:
        """Return the records of strangers, the latest first."""
        return list(reversed(self._strangers.values()))

    @staticmethod
    def _merged(
        before: FailureRecord | None, failure: Failure, peer: tuple[str, str], now: float
    ) -> FailureRecord:
        host, identity = peer
        if before is None or before.failure != failure:
            return FailureRecord(failure, host, identity, now, now)
        before.peer, before.when, before.count = host, now, before.count + 1
        if now - before.said_at >= AGAIN_SECONDS:
            before.said_at = now
        return before

    def _say(self, name: str | None, text: str, now: float) -> None:
        if now - self._minute >= 60.0:
            self._minute, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_A_MINUTE:
            self._notice(name, "warning", text)
        elif self._lines == LINES_A_MINUTE + 1:
            self._notice(None, "warning", "more failures than the log takes; see moatctl status")
