"""Which connections of the directory moatd takes in at its start, before it serves anybody.

The files are what moatctl has put there. Here they are held against what cannot be changed on the
way: the keys that were revoked, and, where the operator signs, the peer set in force.
"""

from __future__ import annotations

from pathlib import Path

from moatvpn.config import ConnectionConfig, DaemonConfig, connection_from_dict, load_json
from moatvpn.errors import ConfigError
from moatvpn.peers import FILE, besides, read_peers
from moatvpn.revoked import read_revoked, without_revoked
from moatvpn.signed import read_public_keys


def connection_files(directory: Path) -> list[Path]:
    """Return the connections' files in directory by name; raise ConfigError where it is none."""
    try:
        return sorted(p for p in directory.iterdir() if p.suffix == ".json" and p.name[0] != ".")
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise ConfigError(str(directory), why, "Make it, readable for moatd's user") from error


def read_connection(path: Path) -> ConnectionConfig:
    """Return the connection in the file at path; raise ConfigError naming what is wrong."""
    config = connection_from_dict(load_json(path), str(path))
    if config.name != path.stem:
        why = f"is {config.name!r}"
        raise ConfigError(f"{path}: name", why, f"Call the file {config.name}.json")
    return config


class Admission:
    """Who is let in. Raises OperatorError where nobody can tell, which lets in nobody."""

    def __init__(self, config: DaemonConfig) -> None:
        directory = config.connections
        self._revoked = read_revoked(directory)
        self._signed: dict[str, ConnectionConfig] | None = None
        if config.operator_keys is not None:
            keys = read_public_keys(config.operator_keys)
            peers = read_peers(directory, keys, config.identity)
            self._signed = {} if peers is None else peers.connections()

    def read(self, path: Path) -> ConnectionConfig:
        """Return the connection in the file at path, without keys that were revoked.

        Raises ConfigError where no key is left, where it is not as it was signed, and for a file
        that is none.
        """
        config = read_connection(path)
        if self._signed is not None:
            signed = self._signed.get(config.name)
            if signed is None:
                why = f"is not in {FILE}, which the operator has signed"
                raise ConfigError(str(path), why, "Have the operator sign it")
            if without_revoked(besides(config, signed), self._revoked) != without_revoked(
                config, self._revoked
            ):
                why = f"is not what the operator has signed in {FILE}"
                raise ConfigError(str(path), why, "Give the signed set again")
        left = without_revoked(config, self._revoked)
        if left is None:
            raise ConfigError(str(path), "has only keys that were revoked", "Give another box's")
        return left
