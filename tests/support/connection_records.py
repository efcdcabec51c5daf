"""Connections of a portal, as records, and what stands in moatd's place for moatctl."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from moatvpn.config import ED25519_SPKI_PREFIX
from moatvpn.errors import OperatorError


def record(number: int, **changes: Any) -> dict[str, Any]:
    key = base64.b64encode(ED25519_SPKI_PREFIX + number.to_bytes(32)).decode()
    return {
        "name": f"c{number}",
        "remote_identity": f"m{number}.moats.example.net",
        "remote_public_keys": [key],
        "local_selectors": ["0.0.0.0/0"],
        "remote_selectors": [f"10.201.{number}.0/24"],
        **changes,
    }


class Moatd:
    """What it was asked, in order; it refuses the names in refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuses: dict[str, type[OperatorError]] = {}
        self.changes = True

    def change(self, path: Path, request: dict[str, Any]) -> tuple[bool, bool]:
        name = request.get("name") or request["connection"]["name"]
        if name in self.refuses:
            raise self.refuses[name](f"connection {name}", "is refused", "Do otherwise")
        self.asked.append((request["command"], name))
        return True, self.changes
