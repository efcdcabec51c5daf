"""The security policy database: which connection a raw packet belongs to (RFC 4301, 4.4.1).

Found by the longest prefix of the destination: one dictionary for each prefix length in use, so
that the cost depends on how many lengths there are and not on how many connections. Where several
connections want the same prefix, one has it at a time: of those that are ready the one of the
lowest metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moatvpn.wire.selectors import TrafficSelector

_BITS = {4: 32, 6: 128}

# A prefix: the version, how many bits it leaves open, and the bits before those.
_Prefix = tuple[int, int, int]


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
        self._owned: dict[str, list[_Prefix]] = {}
        # Who wants a prefix, the latest first, where they are several.
        self._shared: dict[_Prefix, list[str]] = {}
        self._metrics: dict[str, int] = {}  # those that are not 0
        self._idle: set[str] = set()

    def set(self, connection: str, remote: Iterable[TrafficSelector]) -> None:
        """Give connection the packets to remote, in place of those it had."""
        self._disown(connection)
        owned = self._owned.setdefault(connection, [])
        for ts in remote:
            version = ts.start.version
            for shift, prefix in _prefixes(int(ts.start), int(ts.end), _BITS[version]):
                table, key = self._table(version, shift), (version, shift, prefix)
                present = table.get(prefix, connection)
                if present != connection:
                    self._shared.setdefault(key, [present]).insert(0, connection)
                    table[prefix] = min(self._shared[key], key=self._rank)
                else:
                    table[prefix] = connection
                owned.append(key)

    def prefer(self, connection: str, metric: int) -> None:
        """Give connection its metric, which is 0 as long as none is given."""
        self._metrics.pop(connection, None)
        if metric:
            self._metrics[connection] = metric
        self._rank_anew(connection)

    def ready(self, connection: str, is_ready: bool) -> None:
        """Take in whether connection can carry packets. One that can goes before one that cannot.

        What nobody else wants stays its own, so that its packets go nowhere else.
        """
        if is_ready:
            self._idle.discard(connection)
        else:
            self._idle.add(connection)
        self._rank_anew(connection)

    def _rank(self, connection: str) -> tuple[bool, int]:
        return connection in self._idle, self._metrics.get(connection, 0)

    def _rank_anew(self, connection: str) -> None:
        if not self._shared:
            return
        for key in self._owned.get(connection, ()):
            wanted = self._shared.get(key)
            if wanted is not None:
                version, shift, prefix = key
                self._table(version, shift)[prefix] = min(wanted, key=self._rank)

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
        self._disown(connection)
        self._metrics.pop(connection, None)
        self._idle.discard(connection)

    def _disown(self, connection: str) -> None:
        for key in self._owned.pop(connection, ()):
            version, shift, prefix = key
            table = self._table(version, shift)
            wanted = self._shared.get(key, [])
            if connection in wanted:
                wanted.remove(connection)
                table[prefix] = min(wanted, key=self._rank)
                if len(wanted) == 1:
                    del self._shared[key]
            elif table.get(prefix) == connection:
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
