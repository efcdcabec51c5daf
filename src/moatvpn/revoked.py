"""Keys that are never to be believed again: a file beside a box's connections, which only grows.

Whatever else a box is told, by whom, and in which order: a connection has none of these keys. So it
makes no difference whether a set of connections from before a revocation comes after it, and the
file needs no date and no number.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from moatvpn.config import ConnectionConfig, public_key_from_text
from moatvpn.errors import ConfigError

FILE = "revoked.keys"


def read_revoked(directory: Path) -> frozenset[str]:
    """Return the revoked keys of a directory of connections, texts as ConnectionConfig has them.

    Raises ConfigError for a file that cannot be read, or has a line that is no key: then nobody
    knows who is not to be let in.
    """
    path = directory / FILE
    try:
        keys = path.read_text(encoding="ascii").split()
        for key in keys:
            public_key_from_text(key)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        remedy = "Have one key a line in it (base64 of SubjectPublicKeyInfo), or restore it"
        raise ConfigError(
            str(path), f"does not tell whose keys are revoked ({error})", remedy
        ) from error
    return frozenset(keys)


def without_revoked(config: ConnectionConfig, revoked: Collection[str]) -> ConnectionConfig | None:
    """Return the connection with no revoked key of the peer's; None where no key is left."""
    if not any(key in revoked for key in config.remote_public_keys):
        return config
    left = tuple(key for key in config.remote_public_keys if key not in revoked)
    return replace(config, remote_public_keys=left) if left else None
