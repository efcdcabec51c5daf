"""A portal whose operator signs: a real moatd lets in whom the set in force names, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, other_public_key
from pair import Pair

from moatvpn.crypto.seal import Seal, generate_seal, load_seal
from moatvpn.peers import make_peers, seal_peers


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A moat that calls, and a portal that does not run yet."""
    with (
        new_box(tmp_path, "m", MOAT.identity) as moat,
        new_box(tmp_path, "p", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, "auto")
        moat.apply("add", pair.to_portal)
        moat.start()
        yield pair


def signs(portal: Box) -> Seal:
    """Have a portal believe an operator's signature alone; return the operator's key."""
    seal = load_seal(generate_seal(b"a passphrase"), b"a passphrase")
    path = portal.directory / "moatd.json"
    keys = portal.directory / "operator.pub"
    keys.write_text(seal.public_text + "\n")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"operator_keys": str(keys)}))
    return seal


def give(portal: Box, seal: Seal, serial: int, *records: dict[str, Any]) -> dict[str, Any]:
    path = portal.directory / "set"
    peers = replace(make_peers(PORTAL.identity, records, {}), serial=serial)
    path.write_bytes(seal_peers(peers, seal))
    places = ("--connections", str(portal.connections))
    config = ("--config", str(portal.directory / "moatd.json"))
    return portal.ctl("set", str(path), "--signed", *places, *config)


def names(portal: Box) -> set[str]:
    return {row["name"] for row in portal.ctl("status")["connections"]}


def test_whom_the_set_names_is_in_and_nobody_else(pair: Pair) -> None:
    portal, seal = pair.portal, signs(pair.portal)
    (portal.connections / "m0001.json").write_text(json.dumps(pair.to_moat))
    portal.start()
    assert names(portal) == set()
    # The file is as the set has it, which moatd did not know of when it began.
    assert give(portal, seal, 1, pair.to_moat)["added"] == []
    pair.wait_until_up()
    # Another customer comes: the tunnel that is up does not notice.
    other = pair.to_moat | {"name": "m0002", "remote_identity": "m2.moats.example.net"}
    other |= {"remote_public_keys": [other_public_key()], "remote_selectors": ["10.201.2.0/24"]}
    up = portal.connection("m0001")["spi_in"]
    assert give(portal, seal, 2, pair.to_moat, other)["added"] == ["m0002"]
    assert portal.connection("m0001")["spi_in"] == up
    # One whom nobody has signed does not come in by the disk.
    portal.kill()
    third = other | {"name": "m0003", "remote_identity": "m3.moats.example.net"}
    third |= {"remote_selectors": ["10.201.3.0/24"]}
    (portal.connections / "m0003.json").write_text(json.dumps(third))
    portal.start()
    assert names(portal) == {"m0001", "m0002"}
    assert "m0003.json: is not in peers.signed" in portal.log.read_text()
    pair.wait_until_up(30)
