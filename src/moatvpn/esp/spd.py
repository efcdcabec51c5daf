"""The security policy database: which connection a raw packet belongs to (RFC 4301, 4.4.1).

Found by the longest prefix of the destination: one dictionary for each prefix length in use, so
that the cost depends on how many lengths there are and not on how many connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moatvpn.wire.selectors import TrafficSelector

_BITS = {4: 32, 6: 128}


def _prefixes(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest prefixes that cover first to last: how many bits each leaves open, and it.

    Addresses have so many bits.
    """
    while first <= last:
        aligned = (first & -first).bit_length() - 1 if first else bits
        shift = min(aligned, (last - first + 1).bit_length() - 1)
        yield shift, first >> shift
        first += 1 << shift


class Spd:
    """Connections by the networks on the peer's side."""

    def __init__(self) -> None:
        # For each version: (shift, {prefix: connection}), longest prefix first.
        self._tables: dict[int, list[tuple[int, dict[int, str]]]] = {4: [], 6: []}
        self._owned: dict[str, list[tuple[int, int, int]]] = {}

    def set(self, connection: str, remote: Iterable[TrafficSelector]) -> None:
        """Give connection the packets to remote, in place of those it had."""
        self.remove(connection)
        owned = self._owned.setdefault(connection, [])
        for ts in remote:
            version = ts.start.version
            for shift, prefix in _prefixes(int(ts.start), int(ts.end), _BITS[version]):
                self._table(version, shift)[prefix] = connection
                owned.append((version, shift, prefix))

    def _table(self, version: int, shift: int) -> dict[int, str]:
        tables = self._tables[version]
        for known, table in tables:
            if known == shift:
                return table
        table = {}
        tables.append((shift, table))
        tables.sort(key=lambda entry: entry[0])
        return table

    def remove(self, connection: str) -> None:
        """Forget connection."""
        for version, shift, prefix in self._owned.pop(connection, ()):
            table = self._table(version, shift)
            if table.get(prefix) == connection:
                del table[prefix]
        for version, tables in self._tables.items():
            self._tables[version] = [entry for entry in tables if entry[1]]

    def find(self, version: int, destination: int) -> str | None:
        """Return the connection for packets to destination, or None."""
        for shift, table in self._tables[version]:
            connection = table.get(destination >> shift)
            if connection is not None:
                return connection
        return None
