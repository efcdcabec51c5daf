"""moatctl set: exactly the connections of a file, and all others undisturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from connection_records import Moatd, record

from moatvpn.cli import connection_set
from moatvpn.cli.client import DaemonUnreachableError
from moatvpn.cli.moatctl import main
from moatvpn.config import connection_from_dict, connection_to_dict
from moatvpn.errors import OperatorError


@pytest.fixture
def moatd(monkeypatch: pytest.MonkeyPatch) -> Moatd:
    made = Moatd()
    monkeypatch.setattr(connection_set, "change", made.change)
    return made


Give = Callable[..., Any]


@pytest.fixture
def give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Give:
    """Give a box a set of connections; return what moatctl answers, or its error's line."""
    (tmp_path / "connections.d").mkdir()

    def give(*records: dict[str, Any], status: int = 0, words: tuple[str, ...] = (), **more: Any):  # type: ignore[no-untyped-def]
        path = tmp_path / "set.json"
        path.write_text(json.dumps({"connections": list(records), **more}))
        places = ["--connections", str(tmp_path / "connections.d")]
        assert main(["set", str(path), *words, *places, "--json"]) == status
        out, err = capsys.readouterr()
        return json.loads(out) if status == 0 else err

    return give


def stored(directory: Path) -> dict[str, Any]:
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted((directory / "connections.d").iterdir())
    }


def in_full(*records: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: connection_to_dict(connection_from_dict(each)) for each in records}


def test_only_what_differs_is_touched(give: Give, moatd: Moatd, tmp_path: Path) -> None:
    first = give(record(1), record(2), record(3))
    assert first["added"] == ["c1", "c2", "c3"]
    assert first["changed"]
    assert first["running"] is True
    moatd.asked.clear()
    # 2 goes, 3 takes its network, 4 is new.
    third = record(3, remote_selectors=["10.201.2.0/24"])
    result = give(record(1), third, record(4))
    assert moatd.asked == [("delete", "c2"), ("replace", "c3"), ("replace", "c4")]
    assert (result["deleted"], result["replaced"], result["added"]) == (["c2"], ["c3"], ["c4"])
    assert result["unchanged"] == 1
    assert result["before"] == in_full(record(2), record(3))
    assert result["after"] == in_full(third, record(4))
    assert stored(tmp_path) == in_full(record(1), third, record(4))
    moatd.asked.clear()
    again = give(record(1), third, record(4))
    assert (again["changed"], again["running"], moatd.asked) == (False, None, [])


def test_a_dry_run_says_the_same_and_changes_nothing(
    give: Give, moatd: Moatd, tmp_path: Path
) -> None:
    give(record(1))
    moatd.asked.clear()
    dry = give(record(2), words=("--dry-run",))
    assert stored(tmp_path) == in_full(record(1))
    assert moatd.asked == []
    assert dry == {**give(record(2)), "running": None}


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (record(2, colour=1), "colour"),
        (record(2, name="c1"), "name of two"),
        (record(2, remote_identity="m1.moats.example.net"), "remote_identity of two"),
        (record(2, name="../c"), "name"),
    ],
)
def test_one_wrong_record_and_nothing_is_applied(
    give: Give, moatd: Moatd, tmp_path: Path, second: dict[str, Any], match: str
) -> None:
    assert match in give(record(1), second, status=1)
    assert (moatd.asked, stored(tmp_path)) == ([], {})


@pytest.mark.parametrize("wrong", [{"connections": 1}, {"reread": "c1"}, {"colour": 1}])
def test_what_is_no_set(give: Give, moatd: Moatd, wrong: dict[str, Any]) -> None:
    give(status=1, **wrong)
    assert moatd.asked == []


@pytest.mark.parametrize(("error", "status"), [(OperatorError, 1), (DaemonUnreachableError, 3)])
def test_the_rest_is_done_next_time(
    give: Give, moatd: Moatd, tmp_path: Path, error: type[OperatorError], status: int
) -> None:
    moatd.refuses["c2"] = error
    said = give(record(1), record(2), record(3), status=status)
    assert "connection c2: is refused; 1 of 3 changes were made" in said
    assert stored(tmp_path) == in_full(record(1))
    moatd.refuses.clear()
    moatd.asked.clear()
    assert give(record(1), record(2), record(3))["added"] == ["c2", "c3"]
    assert moatd.asked == [("replace", "c2"), ("replace", "c3")]


def test_files_are_read_again(give: Give, moatd: Moatd) -> None:
    give(record(1), record(2))
    for changes in (True, False):
        moatd.asked.clear()
        moatd.changes = changes
        result = give(record(1), record(2), reread=["c2"])
        assert moatd.asked == [("replace", "c2")]
        assert (result["changed"], result["replaced"]) == (changes, [])


def test_a_file_that_is_broken_is_put_right(give: Give, moatd: Moatd, tmp_path: Path) -> None:
    (tmp_path / "connections.d" / "c1.json").write_text("{")
    result = give(record(1))
    assert result["replaced"] == ["c1"]
    assert result["before"] == {"c1": None}
    assert stored(tmp_path) == in_full(record(1))


def test_of_very_many_only_the_names_are_told(
    give: Give, moatd: Moatd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_set, "MOST_SHOWN", 1)
    result = give(record(1), record(2))
    assert (result["added"], result["after"]) == (["c1", "c2"], {})
