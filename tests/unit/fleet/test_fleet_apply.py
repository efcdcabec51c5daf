"""moat-fleet plan and apply: whom a change concerns, and what counts as applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fleet_words import with_options
from playbook_stub import PlaybookStub
from typer.testing import Result

from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.locks import lock

Fleet = Callable[..., Result]
Texts = dict[str, str]
PORTAL = "portal1.example.net"
FIRST, SECOND = "m0001.moats.example.net", "m0002.moats.example.net"


@pytest.fixture
def stocked(
    fleet: Fleet,
    portal_texts: Texts,
    customer: Callable[..., Texts],
    key: Callable[[int], str],
) -> Fleet:
    assert fleet("init").exit_code == 0
    given = [("portal", portal_texts)]
    given += [("customer", customer(number, status="active")) for number in (1, 2)]
    for kind, texts in given:
        assert fleet(kind, "add", *with_options(texts, kind)).exit_code == 0
    for number, box in enumerate((PORTAL, FIRST, SECOND)):
        assert fleet("key", "record", box, key(number)).exit_code == 0
    return fleet


def planned(fleet: Fleet) -> list[str]:
    result = fleet("plan", "--json")
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return [row["box"] for row in rows]


def applied(fleet: Fleet, playbook: PlaybookStub) -> Result:
    return fleet("apply", "--yes", "--playbook", str(playbook.path))


def test_a_change_concerns_the_moat_and_its_portal(
    stocked: Fleet, playbook: PlaybookStub, url: str
) -> None:
    assert planned(stocked) == [PORTAL, FIRST, SECOND]
    assert applied(stocked, playbook).exit_code == 0
    assert playbook.boxes() == [PORTAL, FIRST, SECOND]
    assert playbook.run["database"] == database_url(url).render_as_string(hide_password=False)
    assert planned(stocked) == []
    assert "nothing to do" in applied(stocked, playbook).stdout
    assert playbook.boxes() == []
    stocked("customer", "set", "c0002", "--private-subnet", "10.201.77.0/24")
    assert planned(stocked) == [PORTAL, SECOND]
    assert applied(stocked, playbook).exit_code == 0
    assert playbook.boxes() == [PORTAL, SECOND]
    # What is in the database, and on no box, concerns none.
    stocked("customer", "set", "c0001", "--contact", "ada@example.net")
    assert planned(stocked) == []


def test_a_customer_who_is_suspended_concerns_the_portal(
    stocked: Fleet, playbook: PlaybookStub
) -> None:
    applied(stocked, playbook)
    stocked("customer", "suspend", "c0001")
    assert planned(stocked) == [PORTAL]
    applied(stocked, playbook)
    stocked("customer", "resume", "c0001")
    assert planned(stocked) == [PORTAL]


def test_a_run_that_failed_counts_for_nothing(stocked: Fleet, playbook: PlaybookStub) -> None:
    playbook.ends_with(2)
    result = applied(stocked, playbook)
    assert result.exit_code == 3
    assert "ended with 2" in result.stdout
    assert planned(stocked) == [PORTAL, FIRST, SECOND]


def test_apply_asks_first(stocked: Fleet, playbook: PlaybookStub) -> None:
    result = stocked("apply", "--playbook", str(playbook.path))
    assert result.exit_code == 1
    assert "--yes" in result.stderr
    assert playbook.boxes() == []


def test_one_operator_at_a_time(stocked: Fleet, playbook: PlaybookStub, url: str) -> None:
    database = Database(database_url(url), "bob")
    with lock(database, "apply", "bob elsewhere", lifetime=timedelta(minutes=1)):
        result = applied(stocked, playbook)
    database.close()
    assert result.exit_code == 1
    assert "bob elsewhere" in result.stderr
    assert playbook.boxes() == []


def test_a_playbook_that_is_not_there(stocked: Fleet, playbook: PlaybookStub) -> None:
    playbook.path.unlink()
    result = applied(stocked, playbook)
    assert result.exit_code == 1
    assert "site.yml" in result.stderr
