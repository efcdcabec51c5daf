"""Playbooks run on some boxes, and their answers, of which none is trusted."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from playbook_stub import PlaybookStub

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import Database, database_url
from moatvpn.fleet.playbooks import (
    ANSWERS,
    MOST_OCTETS,
    answer_path,
    answers_directory,
    read_answers,
    run_playbook,
)

FIRST, SECOND, THIRD = (f"m000{number}.moats.example.net" for number in (1, 2, 3))


def test_a_run_is_told_its_boxes_and_variables(playbook: PlaybookStub, sqlite_url: str) -> None:
    database = Database(database_url(sqlite_url))
    playbook.ends_with(2)
    playbook.answers_with(FIRST, {"version": "1"})
    with answers_directory() as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        given = {"step": "{{ no template }}", ANSWERS: str(directory)}
        assert run_playbook(database, playbook.path, [FIRST, SECOND], given) == 2
        assert playbook.boxes() == [FIRST, SECOND]
        assert playbook.run["variables"] == given
        assert playbook.run["database"] == database.url_text
        answers = read_answers(directory, [FIRST, SECOND])
    assert answers.found == {FIRST: {"version": "1"}}
    assert answers.refused == {}
    assert not directory.exists()


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "\udcff", "[" * 100_000, "1" * 5000])
def test_a_broken_answer_spoils_no_other(tmp_path: Path, text: str) -> None:
    answer_path(tmp_path, FIRST).write_text('{"up": true}')
    answer_path(tmp_path, SECOND).write_bytes(text.encode("utf-8", "surrogateescape"))
    answers = read_answers(tmp_path, [FIRST, SECOND, THIRD])
    assert answers.found == {FIRST: {"up": True}}
    assert list(answers.refused) == [SECOND]


def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    with answer_path(tmp_path, FIRST).open("wb") as file:
        file.truncate(MOST_OCTETS + 1)
    assert "are the most" in read_answers(tmp_path, [FIRST]).refused[FIRST]


def test_what_is_missing_is_said_before_a_run(playbook: PlaybookStub, sqlite_url: str) -> None:
    playbook.path.unlink()
    with pytest.raises(OperatorError, match="is not there"):
        run_playbook(Database(database_url(sqlite_url)), playbook.path, [FIRST])
    assert playbook.boxes() == []
