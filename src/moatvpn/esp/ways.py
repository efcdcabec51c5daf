"""Which of a connection's CHILD_SAs packets leave on (RFC 7296, 2.8), whoever carries them."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from moatvpn.esp.child import ChildSa


class Way(Protocol):
    """One CHILD_SA of a data plane's own.

    serial counts installations on this box. waiting: it is to be used as soon as the peer shows
    that it has it.
    """

    child: ChildSa
    serial: int
    waiting: bool


W = TypeVar("W", bound=Way)


class Ways(Generic[W]):
    """The CHILD_SAs in use for sending, one of each line.

    ways has the one installed last first, for a packet to find its own.
    """

    __slots__ = ("ways",)

    def __init__(self) -> None:
        self.ways: tuple[W, ...] = ()

    def leader(self) -> W | None:
        """Return the one of the lowest line, which stands for the connection, or None."""
        return min(self.ways, key=lambda way: way.child.line, default=None)

    def uses(self, way: W) -> bool:
        """Return whether packets leave on way."""
        return any(used is way for used in self.ways)

    def go_over_to(self, way: W) -> bool:
        """Send on way from now on, in place of the one of its line; return whether we do.

        We don't where one installed after it is in use: sending goes only forwards.
        """
        line = way.child.line
        if any(used.child.line == line and used.serial > way.serial for used in self.ways):
            return False
        way.waiting = False
        others = [used for used in self.ways if used.child.line != line]
        self.ways = tuple(sorted([way, *others], key=lambda used: -used.serial))
        return True

    def leave(self, way: W) -> None:
        """Send on way no more."""
        self.ways = tuple(used for used in self.ways if used is not way)
