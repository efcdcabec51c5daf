"""The parts of a connection know it without keeping it.

A reference back would leave both to the garbage collector, of which moatd has almost none.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from moatvpn.errors import MoatError

if TYPE_CHECKING:
    from moatvpn.ike.connection import Connection
    from moatvpn.ike.ike_sa import IkeSa


class Part:
    """Part of a connection, which owns it."""

    __slots__ = ("_owner",)

    def __init__(self, connection: Connection) -> None:
        self._owner = weakref.ref(connection)

    @property
    def _connection(self) -> Connection:
        """Return the connection. It is there for whoever it calls, and while it has an IKE SA."""
        connection = self._owner()
        if connection is None:
            raise MoatError("part of a connection outlives it")
        return connection

    @property
    def _sa(self) -> IkeSa | None:
        """Return the connection's IKE SA; None, too, where the connection is no more."""
        connection = self._owner()
        return connection.sa if connection is not None else None
