"""A stamp of the database: another one after every change, whoever made it and by what means.

What is kept outside of the database (a cache) is kept with the stamp that it was read under. Read
the stamp first: what is then read is never older than it, so that equal stamps mean that nothing
has changed. It does not rest on the audit, which a restored backup or a mended table would fool.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sqlalchemy import text

from moatvpn.fleet.database import Database

# Of an SQLite file's header (sqlite.org/fileformat2.html, 1.3): where it says how changes are
# written, by a rollback journal or (2) a write-ahead log, and where it counts them.
_FORMAT = slice(18, 20)
_CHANGES = slice(24, 28)
_ROLLBACK_JOURNAL = b"\x01\x01"


def stamp(database: Database) -> str | None:
    """Return the database's stamp, in hexadecimal; None where it has none that can be trusted."""
    path = database.path
    found = _of_postgresql(database) if path is None else _of_file(path)
    if found is None:
        return None
    return hashlib.sha256(f"{_code()} {database.name} {found}".encode()).hexdigest()


def _of_file(path: Path) -> str | None:
    # A journal is a change that is being written, or one whose writer died.
    journal = path.with_name(f"{path.name}-journal")
    try:
        # Not while SQLite has the file open in a transaction: closing it would end its locks.
        with path.open("rb") as file:
            header = file.read(_CHANGES.stop)
            status = os.fstat(file.fileno())
    except OSError:
        return None  # whoever opens the database says what is wrong
    if journal.exists() or header[_FORMAT] != _ROLLBACK_JOURNAL:
        return None
    where = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return f"{header[_CHANGES].hex()} {where}"


def _of_postgresql(database: Database) -> str:
    # Which transactions this one sees says what it sees, within one life of the server.
    query = "SELECT pg_current_snapshot()::text, pg_postmaster_start_time()::text"
    with database.read() as session:
        return str(tuple(session.execute(text(query)).one()))


def _code() -> str:
    """Return a digest of the code that makes something of the database: another makes another."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
