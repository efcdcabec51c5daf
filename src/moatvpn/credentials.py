"""By what each connection of a box proves itself, as the roles are told: settings, and files.

An entry is of one connection by its name, or of all that have none of their own ("*"). It names
files on the controller, which the roles bring to the box, or files that are on the box already:

    psk, psk_file            a pre-shared key; the connection goes by that.
    ca, ca_files             the CAs that vouch for the peer; it goes by certificates.
    ppk, ppk_file            a postquantum pre-shared key, with its ppk_id, beside any of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from moatvpn.config_fields import Record, short
from moatvpn.errors import ConfigError

ALL = "*"
_KNOWN = ("psk", "psk_file", "ca", "ca_files", "ppk", "ppk_file", "ppk_id", "ppk_required")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]+")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")

# A file to bring: its path on the controller, and the name that it gets on the box.
_Source = tuple[str, str]


def with_credentials(
    connections: Any, entries: Any, directory: str, where: str = "moatvpn_credentials"
) -> dict[str, list[Any]]:
    """Return connections as they are with their entries, and the files that they need.

    connections are records of moatvpn.config.ConnectionConfig; directory is the files' on the box.
    The result has connections and files, each of these with src (on the controller), dest (on the
    box), secret (whether it is one) and connections, the names of those that it is for. An entry of
    no connection is left out.
    Raises ConfigError, whose what begins with where.
    """
    if not isinstance(connections, list) or not all(isinstance(c, dict) for c in connections):
        raise ConfigError("connections", f"is {short(connections)}", "Give a list of records")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ConfigError(where, f"is {short(entries)}", "Give a record by a connection's name")
    changed, files = [], dict[str, dict[str, Any]]()
    for connection in connections:
        name = _plain(str(connection.get("name")), "connections: name")
        key = name if name in entries else ALL
        if key not in entries:
            changed.append(connection)
            continue
        entry = Record(f"{where}[{key}]", entries[key], _KNOWN)
        changed.append({**connection, **_settings(entry, name, directory)})
        for src, base in _sources(entry, name):
            dest = f"{directory}/{base}"
            new = {"src": src, "dest": dest, "secret": base in _secrets(name), "connections": []}
            file = files.setdefault(dest, new)
            if file["src"] != src:
                why = f"{src} and {file['src']} would be one file on the box"
                raise ConfigError(where, why, "Give them different names")
            file["connections"].append(name)
    _check_shared(files.values(), where)
    return {"connections": changed, "files": list(files.values())}


def _settings(entry: Record, name: str, directory: str) -> dict[str, Any]:
    """Return what an entry changes of a connection's record."""
    for brought, there in (("psk", "psk_file"), ("ca", "ca_files"), ("ppk", "ppk_file")):
        if brought in entry.record and there in entry.record:
            why = f"is there beside {there}"
            raise entry.error(brought, why, "Give the file on the controller or on the box")
    given = dict(entry.record)
    for key, base in zip(("psk", "ppk"), _secrets(name), strict=True):
        if given.pop(key, None) is not None:
            given[f"{key}_file"] = f"{directory}/{base}"
    if given.pop("ca", None) is not None:
        bases = (base for _, base in _sources(entry, name) if base not in _secrets(name))
        given["ca_files"] = [f"{directory}/{base}" for base in bases]
    if "psk_file" in given and "ca_files" in given:
        raise entry.error("psk_file", "is there beside CAs", "Give one of them")
    for method, key in (("psk", "psk_file"), ("certificate", "ca_files")):
        if key in given:
            # Raw public keys, which the database has of every box, go for nothing then.
            given |= {"authentication": method, "remote_public_keys": []}
    return given


def _secrets(name: str) -> tuple[str, str]:
    """Return what a connection's secrets are called on the box."""
    return f"{name}.psk", f"{name}.ppk"


def _sources(entry: Record, name: str) -> Iterator[_Source]:
    """Yield what is to be brought for a connection."""
    for key, base in zip(("psk", "ppk"), _secrets(name), strict=True):
        if key in entry.record:
            yield entry.text(key, _PATH, "a whole path on the controller"), base
    if "ca" in entry.record:
        for path in entry.texts("ca"):
            if not _PATH.fullmatch(path):
                raise entry.error("ca", f"has {short(path)}", "Give whole paths on the controller")
            yield path, f"ca-{_plain(path.rpartition('/')[2], f'{entry.where}: ca')}"


def _plain(name: str, where: str) -> str:
    """Return name; raise ConfigError where it is no plain name of a file."""
    if not _FILE.fullmatch(name):
        why = f"{short(name)} is no name of a file"
        raise ConfigError(where, why, "Use letters, digits, '.', '_' and '-'")
    return name


def _check_shared(files: Any, where: str) -> None:
    """Raise ConfigError where two connections would have the same secret."""
    owners: dict[str, str] = {}
    for file in files:
        if not file["secret"]:
            continue
        (name,) = set(file["connections"])
        other = owners.setdefault(file["src"], file["dest"])
        if other != file["dest"]:
            why = f"gives {file['src']} to {name}, and it is another's too"
            raise ConfigError(where, why, "Give each connection a secret of its own")
