"""The filters of signed peer sets: moatvpn.peers, carried over to Ansible."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

if find_spec("moatvpn") is None:
    # Run from a checkout, with an Ansible whose environment moatvpn is not installed in.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.peers import BESIDES, digest_of


def moat_peers_digest(connections: Any) -> str:
    """Return the hash of connections' records that a signed set of them is compared by."""
    return digest_of(_records("moat_peers_digest", connections))


def moat_peers_besides(connections: Any) -> list[dict[str, Any]]:
    """Return what of connections' records a signature does not cover, for those that have it."""
    kept = ("authentication", *BESIDES)
    found = (
        {name: each[name] for name in ("name", *kept) if name in each}
        for each in _records("moat_peers_besides", connections)
    )
    return [each for each in found if len(each) > 1]


def _records(name: str, connections: Any) -> list[dict[str, Any]]:
    records = list(connections) if isinstance(connections, Iterable) else [connections]
    if isinstance(connections, str) or not all(isinstance(each, dict) for each in records):
        raise AnsibleFilterError(f"{name}: give a list of connections' records")
    return records


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"moat_peers_besides": moat_peers_besides, "moat_peers_digest": moat_peers_digest}
