"""Connections and a log for the tests of the daemon."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from moatvpn.config import ED25519_SPKI_PREFIX, ConnectionConfig, connection_from_dict

Make = Callable[..., ConnectionConfig]


@pytest.fixture
def make_connection() -> Make:
    """Make a connection called c1, c2 and so on, which has nothing in common with the others."""

    def make(number: int = 1, **changes: Any) -> ConnectionConfig:
        record = {
            "name": f"c{number}",
            "remote_identity": f"m{number}.moats.example.net",
            "remote_public_keys": [
                base64.b64encode(ED25519_SPKI_PREFIX + bytes([number]) * 32).decode()
            ],
            "local_selectors": ["0.0.0.0/0", "::/0"],
            "remote_selectors": [f"10.201.{number}.0/24", f"fd00:201:{number}::/64"],
        }
        return connection_from_dict({**record, **changes})

    return make


class LogRecorder:
    """A log that keeps its lines as (level, text, connection)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str | None]] = []
        self.level = "info"

    def __call__(self, level: str, text: str, connection: str | None = None) -> None:
        self.lines.append((level, text, connection))

    def set_level(self, level: str) -> None:
        self.level = level


@pytest.fixture
def log() -> LogRecorder:
    return LogRecorder()
