"""What a cache keeps of the inventory is served while it is true, and not a moment longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.inventory import Inventory, build_inventory
from moatvpn.fleet.inventory_cache import next_key_change, pack, unpack

Texts = dict[str, str]
Key = Callable[[int], str]
PORTAL = "portal1.example.net"
SECOND = timedelta(seconds=1)
INVENTORY = Inventory(hosts={"a": {"b": ["c"]}}, groups={"moats": ["a"]})


def kept(now: datetime, until: datetime | None = None) -> Any:
    """Return what a file of JSON gives back."""
    return json.loads(json.dumps(pack(INVENTORY, "stamp", now, until)))


def test_it_is_what_was_kept(now: datetime) -> None:
    assert unpack(kept(now), "stamp", now) == INVENTORY
    assert unpack(kept(now, now + SECOND), "stamp", now) == INVENTORY


def test_another_state_of_the_database(now: datetime) -> None:
    assert unpack(kept(now), "another", now) is None


def test_a_key_that_ends_or_begins_ends_it(now: datetime) -> None:
    until = now + timedelta(days=2)
    assert unpack(kept(now, until), "stamp", until - SECOND) == INVENTORY
    assert unpack(kept(now, until), "stamp", until) is None


def test_a_clock_that_was_put_back(now: datetime) -> None:
    """Between then and now, a key may have begun or ended."""
    assert unpack(kept(now), "stamp", now - SECOND) is None


@pytest.mark.parametrize("rubbish", [None, "text", [], {}, {"stamp": "stamp"}, 7])
def test_what_is_none_of_ours(rubbish: Any, now: datetime) -> None:
    assert unpack(rubbish, "stamp", now) is None


def test_what_is_damaged(now: datetime) -> None:
    for change in ({"from": "yesterday"}, {"until": 7}, {"inventory": "["}, {"inventory": "[1]"}):
        assert unpack(kept(now) | change, "stamp", now) is None


def test_when_keys_change(database: Database, portal_texts: Texts, key: Key, now: datetime) -> None:
    def at(moment: datetime) -> tuple[datetime | None, tuple[str, ...]]:
        with database.read() as session:
            build_inventory(session, moment)
            valid = [row.key for row in keys.list_keys(session) if row.valid(moment)]
            return next_key_change(session, moment), tuple(valid)

    begins, ends = now + timedelta(days=1), now + timedelta(days=2)
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        keys.record_key(session, PORTAL, key(1), now, not_after=ends)
        keys.record_key(session, PORTAL, key(2), now, beside=True, not_before=begins)
    assert at(now) == (begins, (key(1),))
    assert at(begins - SECOND) == (begins, (key(1),))
    assert at(begins) == (ends, (key(1), key(2)))
    assert at(ends - SECOND) == (ends, (key(1), key(2)))
    assert at(ends) == (None, (key(2),))
