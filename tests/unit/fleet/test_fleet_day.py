"""moat-fleet in a day's work: suspend, resume, revoke, history, filters, export."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_words import with_options
from typer.testing import Result

Fleet = Callable[..., Result]
Texts = dict[str, str]


def output(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def stocked(
    fleet: Fleet, portal_texts: Texts, portal2_texts: Texts, customer: Callable[..., Texts]
) -> Fleet:
    """Two portals, and three customers, the last of them at the second portal."""
    assert fleet("init").exit_code == 0
    for texts in (portal_texts, portal2_texts):
        assert fleet("portal", "add", *with_options(texts, "portal")).exit_code == 0
    for number, portal in ((1, portal_texts), (2, portal_texts), (3, portal2_texts)):
        texts = customer(number, portal=portal["portal"], status="active", isp=f"ISP {number}")
        assert fleet("customer", "add", *with_options(texts, "customer")).exit_code == 0
    return fleet


def statuses(fleet: Fleet) -> list[str]:
    return [each["status"] for each in output(fleet("customer", "list", "--json"))]


def test_suspend_and_resume(stocked: Fleet) -> None:
    assert output(stocked("customer", "suspend", "c0001", "c0003", "--json"))["changed"] == [
        "c0001",
        "c0003",
    ]
    assert statuses(stocked) == ["suspended", "active", "suspended"]
    assert output(stocked("customer", "suspend", "c0001", "--json"))["changed"] == []
    assert "c0001: active" in stocked("customer", "resume", "c0001", "c0003").stdout
    assert statuses(stocked) == ["active"] * 3


def test_all_that_are_named_or_none(stocked: Fleet) -> None:
    result = stocked("customer", "suspend", "c0001", "c0009")
    assert result.exit_code == 1
    assert "c0009" in result.stderr
    assert statuses(stocked) == ["active"] * 3


def test_a_revoked_customer_is_not_resumed(stocked: Fleet, key: Callable[[int], str]) -> None:
    moat = "m0001.moats.example.net"
    assert stocked("key", "record", moat, key(1)).exit_code == 0
    assert output(stocked("customer", "revoke", "c0001", "--yes", "--no-push", "--json"))[
        "changed"
    ] == ["c0001"]
    assert [each["valid"] for each in output(stocked("key", "list", "--json"))] == [False]
    result = stocked("customer", "resume", "c0001", "c0002")
    assert result.exit_code == 1
    assert "is revoked, not suspended" in result.stderr
    assert statuses(stocked) == ["revoked", "active", "active"]


def test_revoke_asks_first(stocked: Fleet) -> None:
    result = stocked("customer", "revoke", "c0001")
    assert result.exit_code == 1
    assert "--yes" in result.stderr
    result = stocked("customer", "set", "c0001", "--status", "revoked")
    assert result.exit_code == 1
    assert "customer revoke" in result.stderr
    assert statuses(stocked) == ["active"] * 3


def test_a_second_key_beside_the_first(stocked: Fleet, key: Callable[[int], str]) -> None:
    record = ("key", "record", "m0001.moats.example.net")
    assert stocked(*record, key(1)).exit_code == 0
    assert "--beside" in stocked(*record, key(2)).stderr
    assert stocked(*record, key(2), "--beside", "--replace").exit_code == 2
    for words, valid in ((("--beside",), [True, True]), (("--replace",), [False, True])):
        assert output(stocked(*record, key(2), *words, "--json"))["changed"] is True
        assert [each["valid"] for each in output(stocked("key", "list", "--json"))] == valid
        assert output(stocked(*record, key(2), *words, "--json"))["changed"] is False


def test_history_says_who_changed_what(stocked: Fleet) -> None:
    stocked("customer", "suspend", "c0001")
    added, suspended = output(stocked("history", "c0001", "--json"))
    assert (added["what"], added["before"]) == ("add", None)
    assert (suspended["what"], suspended["before"], suspended["after"]) == (
        "set",
        {"status": "active"},
        {"status": "suspended"},
    )
    assert suspended["who"] == added["who"] != ""
    shown = stocked("history", "c0001").stdout
    assert "status: active -> suspended" in shown
    assert len(output(stocked("history", "--json"))) == 6


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--portal", "portal2.example.net"), ["c0003"]),
        (("--isp", "ISP 2"), ["c0002"]),
        (("--portal", "portal1.example.net", "--isp", "ISP 3"), []),
        (("--status", "revoked"), []),
    ],
)
def test_filters(stocked: Fleet, words: tuple[str, ...], found: list[str]) -> None:
    rows = output(stocked("customer", "list", *words, "--json"))
    assert [row["customer"] for row in rows] == found


def test_a_portal_that_is_not_there_is_no_empty_list(stocked: Fleet) -> None:
    result = stocked("customer", "list", "--portal", "portal9.example.net")
    assert result.exit_code == 1
    assert "portal9.example.net" in result.stderr


def test_what_is_exported_is_imported_again(
    stocked: Fleet, portal_texts: Texts, portal2_texts: Texts, tmp_path: Path
) -> None:
    path = tmp_path / "customers.csv"
    path.write_text("an older one")
    assert output(stocked("customer", "export", "--csv", str(path), "--json"))["customers"] == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.glob(".customers.csv*")] == []
    other = ("--database", f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert stocked(*other, "init").exit_code == 0
    for texts in (portal_texts, portal2_texts):
        added = stocked(*other, "portal", "add", *with_options(texts, "portal"))
        assert added.exit_code == 0
    assert stocked(*other, "customer", "import", "--csv", str(path)).exit_code == 0
    everything = ("customer", "list", "--json")
    assert output(stocked(*other, *everything)) == output(stocked(*everything)) != []


def test_an_export_that_cannot_be_written(stocked: Fleet, tmp_path: Path) -> None:
    result = stocked("customer", "export", "--csv", str(tmp_path / "no" / "customers.csv"))
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
