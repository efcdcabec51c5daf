"""Two moatds, as the tests run them."""

from __future__ import annotations

import json
from pathlib import Path

from boxes import Box
from pair import Pair

from .street import Street

_PATIENCE = 60.0  # seconds: a box that is too busy to answer at once is not dead


class _Pair(Pair):
    """Two boxes on a network that is there already."""

    def link(self) -> None:
        """Lay nothing."""


def box(namespace: str, directory: Path, identity: str) -> Box:
    """Return a namespace with a moatd that logs what it does by default."""
    made = Box(namespace, directory, identity)
    path = directory / "moatd.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "log_level": "info"}))
    return made


def _boxes(street: Street) -> tuple[Box, Box]:
    moat, portal = street.ends
    if not isinstance(moat, Box) or not isinstance(portal, Box):
        raise TypeError("moatd runs in a Box")
    return moat, portal


def start(street: Street, encapsulation: str) -> None:
    """Start both moatds, the portal's first."""
    pair = _Pair(*_boxes(street), encapsulation)
    for record in (pair.to_portal, pair.to_moat):
        record["dpd_interval"] = _PATIENCE
    street.lead_into("moat0", "moat0")
    pair.start()


def check(street: Street, encapsulation: str) -> None:
    """Fail where envelopes go another way than asked for."""
    way = _boxes(street)[0].connection("portal1")["encapsulation"]
    wanted = "udp" if encapsulation == "udp" else "esp"
    if way != wanted:
        raise RuntimeError(f"envelopes go by {way}, not by {wanted}")
