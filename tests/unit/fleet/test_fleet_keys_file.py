"""The keys of many boxes at once: each is recorded, or left out with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from fleet_words import with_options
from typer.testing import Result

from moatvpn.fleet import keys, store
from moatvpn.fleet.database import Database
from moatvpn.fleet.faults import FaultsError
from moatvpn.fleet.keys_file import read_keys, record_keys

Texts = dict[str, str]
Make = Callable[..., Texts]
Key = Callable[[int], str]
PORTAL = "portal1.example.net"
BOXES = [f"m{number:04}.moats.example.net" for number in range(1, 5)]


@pytest.fixture
def four(database: Database, portal_texts: Texts, customer: Make, now: datetime) -> Database:
    with database.write() as session:
        store.add_portal(session, portal_texts, now)
        rows: list[tuple[int | None, Texts]] = [(None, customer(n)) for n in range(1, 5)]
        store.add_customers(session, rows, "four", now)
    return database


def recorded(database: Database) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with database.read() as session:
        for row in keys.list_keys(session):
            found.setdefault(row.box.identity, []).append(row.key)
    return found


def test_all_of_them_and_then_nothing_new(four: Database, key: Key, now: datetime) -> None:
    wanted = [(PORTAL, key(9)), *((box, key(n)) for n, box in enumerate(BOXES))]
    with four.write() as session:
        outcome = record_keys(session, wanted, now)
    assert (outcome.changed, outcome.refused) == ([PORTAL, *BOXES], {})
    assert recorded(four) == {box: [text] for box, text in wanted}
    with four.write() as session:
        outcome = record_keys(session, wanted, now)
    assert (outcome.changed, outcome.refused) == ([], {})


def test_one_that_is_refused_is_no_harm_to_others(four: Database, key: Key, now: datetime) -> None:
    """The same refusals as one by one, and what is no key, whoever comes first."""
    with four.write() as session:
        keys.record_key(session, BOXES[0], key(1), now)
        store.set_customer(session, "c0002", {"status": "revoked"}, now)
        wanted = [
            ("nobody.example.net", key(7)),
            (BOXES[0], key(2)),  # has another
            (BOXES[1], key(3)),  # revoked
            (BOXES[2], key(1)),  # the first one's: a copy
            (PORTAL, "rubbish"),
            (BOXES[3], key(4)),
        ]
        outcome = record_keys(session, wanted, now)
    assert outcome.changed == [BOXES[3]]
    said = {
        "nobody.example.net": "no moat or portal of that name",
        BOXES[0]: "has another valid public key",
        BOXES[1]: "is revoked",
        BOXES[2]: f"already {BOXES[0]}'s",
        PORTAL: "public key of portal1.example.net",
    }
    assert outcome.refused.keys() == said.keys()
    for identity, words in said.items():
        assert words in outcome.refused[identity]
    assert recorded(four) == {BOXES[0]: [key(1)], BOXES[3]: [key(4)]}


def test_two_boxes_with_one_key(four: Database, key: Key, now: datetime) -> None:
    """Two disks of one image: the second is refused, as it is when it comes in a later run."""
    with four.write() as session:
        outcome = record_keys(session, [(BOXES[0], key(1)), (BOXES[1], key(1))], now)
    assert outcome.changed == [BOXES[0]]
    assert f"already {BOXES[0]}'s" in outcome.refused[BOXES[1]]


def test_two_keys_for_one_box(four: Database, key: Key, now: datetime) -> None:
    with four.write() as session:
        outcome = record_keys(session, [(BOXES[0], key(1)), (BOXES[0], key(2))], now)
    assert outcome.changed == []
    assert list(outcome.refused) == [BOXES[0]]
    assert recorded(four) == {}


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "7",
        "{}",
        '{"identity": "a.b", "public_key": 7}',
        '{"identity": "a.b", "public_key": "c", "more": 1}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_none_names_itself(line: str) -> None:
    good = '{"identity": "a.b", "public_key": "c"}'
    assert read_keys([good, "\n", good], "here") == [("a.b", "c")] * 2
    with pytest.raises(FaultsError) as error:
        read_keys([good, line], "here")
    assert [fault.row for fault in error.value.faults] == [2]


def test_the_command(
    fleet: Callable[..., Result], tmp_path: Path, portal_texts: Texts, key: Key
) -> None:
    assert fleet("init").exit_code == 0
    assert fleet("portal", "add", *with_options(portal_texts, "portal")).exit_code == 0
    file = tmp_path / "keys.jsonl"

    def run(*rows: tuple[str, str], words: tuple[str, ...] = ("--json",)) -> Result:
        lines = [json.dumps({"identity": box, "public_key": text}) for box, text in rows]
        file.write_text("\n".join(lines))
        return fleet("key", "record-many", str(file), *words)

    done = run((PORTAL, key(1)))
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"changed": [PORTAL], "refused": {}})
    done = run((PORTAL, key(1)))
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"changed": [], "refused": {}})
    done = run((PORTAL, key(1)), (BOXES[0], key(2)), words=())
    assert done.exit_code == 3
    assert f"{BOXES[0]}: refused: " in done.stdout
    file.write_text("rubbish")
    done = fleet("key", "record-many", str(file))
    assert done.exit_code == 1
    assert "row 1" in done.stderr
