"""Playbooks, run on some boxes of the inventory, and what the boxes answered.

A playbook hands answers over as files in a private directory, one a box, which a task delegated
to the controller writes (playbooks/tasks/answer.yml). A box without a file has failed, or was out
of reach. What is in a file is what the box says of itself: nothing to be trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moatvpn.errors import OperatorError
from moatvpn.fleet.database import ENVIRONMENT, Database

# The variable that names the directory of answers to a playbook.
ANSWERS = "moat_answers"
# A portal's answer has a line for each of thousands of customers.
MOST_OCTETS = 32 << 20


def check_playbook(playbook: Path) -> None:
    """Raise OperatorError where Ansible or the playbook is missing: before anything is begun."""
    _program()
    if not playbook.is_file():
        raise OperatorError(str(playbook), "is not there", "Run this where site.yml is")


def run_playbook(
    database: Database,
    playbook: Path,
    boxes: Iterable[str],
    variables: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run the playbook on boxes alone, its output to standard error; return its exit status.

    The inventory is database's. variables override all others; they pass in a file that is our
    user's alone. environment adds to ours. Raises OperatorError as check_playbook does.
    """
    check_playbook(playbook)
    with tempfile.TemporaryDirectory(prefix="moat-run-") as directory:
        limit, extra = Path(directory, "limit"), Path(directory, "variables.json")
        limit.write_text("".join(f"{box}\n" for box in boxes))
        extra.write_text(json.dumps(dict(variables or {})))
        command = [_program(), str(playbook), "--limit", f"@{limit}", "--extra-vars", f"@{extra}"]
        whole = {**os.environ, **(environment or {}), ENVIRONMENT: database.url_text}
        # Standard output is for what the command itself tells, which may be JSON.
        return subprocess.run(command, env=whole, stdout=2, check=False).returncode


@dataclass(frozen=True, slots=True)
class Answers:
    """What boxes answered. found: an object each; refused: why an answer is none.

    A box that is in neither has not answered.
    """

    found: Mapping[str, dict[str, Any]]
    refused: Mapping[str, str]


@contextmanager
def answers_directory() -> Iterator[Path]:
    """Yield a directory for answers, our user's alone, which is gone afterwards.

    Give it to run_playbook as the variable ANSWERS, and to read_answers then.
    """
    with tempfile.TemporaryDirectory(prefix="moat-answers-") as directory:
        yield Path(directory)


def answer_of(answers: Answers, box: str) -> tuple[dict[str, Any], str | None]:
    """Return what a box answered, and what was wrong with it or with the box."""
    if box in answers.refused:
        return {}, f"its answer {answers.refused[box]}"
    if box not in answers.found:
        return {}, "it was not reached, or failed: see what the playbook printed"
    answer = answers.found[box]
    error = answer.get("error")
    return answer, None if error is None else str(error)[:1000]


def read_answers(directory: Path, boxes: Iterable[str]) -> Answers:
    """Return what boxes answered; one that is broken spoils no other."""
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for box in boxes:
        path = answer_path(directory, box)
        if not path.exists():
            continue
        answer = _object(path)
        if isinstance(answer, dict):
            found[box] = answer
        else:
            refused[box] = answer
    return Answers(found, refused)


def answer_path(directory: Path, box: str) -> Path:
    """Return the file of a box's answer."""
    # Of one length: an identity may be as long as a file's name, without any ending.
    return directory / f"{hashlib.sha256(box.encode()).hexdigest()}.json"


def _object(path: Path) -> dict[str, Any] | str:
    """Return the JSON object in a file, or why it is none."""
    size = path.stat().st_size
    if size > MOST_OCTETS:
        return f"has {size:,} octets, and {MOST_OCTETS:,} are the most"
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else "is no JSON object"


def _program() -> str:
    beside = Path(sys.executable).with_name("ansible-playbook")
    program = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if program is None:
        raise OperatorError("ansible-playbook", "is not installed", "Run `make setup`")
    return program
