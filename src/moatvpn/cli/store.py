"""The directory of connections that moatd reads at its start: one NAME.json each."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moatvpn import peers
from moatvpn.config import (
    ConnectionConfig,
    connection_from_dict,
    connection_to_dict,
    load_json,
)
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.revoked import FILE, read_revoked, without_revoked

_MODE = 0o644  # moatd's user reads the files, which hold nothing secret


class Store:
    """One directory of connections. Changes are prepared, and take effect whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> Path:
        """Return where the connection of that name is, or would be.

        Raises ConfigError for what is no plain name, which would lead out of the directory.
        """
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"connection {name!r}", "is not a name", "Give a connection's name")
        return self._directory / f"{name}.json"

    def has(self, name: str) -> bool:
        """Return whether there is a file for that name, sound or not."""
        return self.path(name).exists()

    def names(self) -> list[str]:
        """Return the names that there are files for, sound or not, in order."""
        return sorted(
            path.stem for path in self._directory.glob("*.json") if not path.name.startswith(".")
        )

    def revoked(self) -> frozenset[str]:
        """Return the keys that no connection may have; raise ConfigError where nobody knows."""
        return read_revoked(self._directory)

    def check_unsigned(self) -> None:
        """Raise ConfigError where the connections are those of a signed set."""
        path = self._directory / peers.FILE
        if path.exists():
            remedy = "Use `moatctl set --signed`, or remove that file where nobody signs any more"
            raise ConfigError(str(path), "says which connections there are to be", remedy)

    def admit(self, config: ConnectionConfig) -> None:
        """Raise ConfigError where the connection has a revoked key, or would have to be signed."""
        self.check_unsigned()
        if without_revoked(config, self.revoked()) != config:
            where = f"connection {config.name}: remote_public_keys"
            raise ConfigError(where, "has a key that was revoked", "Give the key of another box")

    def record(self, name: str) -> dict[str, Any] | None:
        """Return what is in a connection's file, None where that is no JSON object."""
        try:
            return load_json(self.path(name))
        except ConfigError:
            return None

    def holds(self, config: ConnectionConfig) -> bool:
        """Return whether config is here already, as it is."""
        path = self.path(config.name)
        try:
            return connection_from_dict(load_json(path), str(path)) == config
        except ConfigError:
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other moatctls from changing the directory meanwhile.

        Raises OperatorError where the directory cannot be opened, and for whatever else the
        system refuses within the block.
        """
        fd = -1
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
            os.fsync(fd)
        except OSError as error:
            raise OperatorError(
                f"connections in {self._directory}",
                f"cannot be changed ({error.strerror})",
                "Run as root, or name another directory with --connections",
            ) from error
        finally:
            if fd >= 0:
                os.close(fd)

    @contextmanager
    def writing(self, config: ConnectionConfig) -> Iterator[None]:
        """Write config's file; it takes effect only once the block has ended well."""
        text = json.dumps(connection_to_dict(config), indent=2) + "\n"
        with self._replacing(self.path(config.name), text):
            yield

    def revoke(self, keys: Iterable[str]) -> None:
        """Write down which keys are revoked; give all of them."""
        with self._replacing(self._directory / FILE, "".join(f"{key}\n" for key in sorted(keys))):
            pass

    def sign(self, text: str) -> None:
        """Put the file of a signed set in force."""
        with self._replacing(self._directory / peers.FILE, text):
            pass

    @contextmanager
    def _replacing(self, path: Path, text: str) -> Iterator[None]:
        """Put text in the place of the file at path once the block has ended well."""
        temporary = path.with_name(f".{path.stem}.new")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, _MODE)
                file.write(text)
                file.flush()
                os.fsync(fd)
            yield
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def remove(self, name: str) -> None:
        """Remove a connection's file, whatever moatd says to it."""
        self.path(name).unlink()

    @contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Remove a connection's file; it is back where the block has not ended well."""
        aside = self._directory / f".{name}.old"
        path = self.path(name)
        path.rename(aside)
        try:
            yield
        except BaseException:
            aside.rename(path)
            raise
        aside.unlink()
