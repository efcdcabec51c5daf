"""A program in ansible-playbook's place, for the commands of moat-fleet that run one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from moatvpn.fleet.playbooks import answer_path

_PROGRAM = """\
#!{python}
import json, os, pathlib, shutil, sys
here = pathlib.Path({directory!r})
_, playbook, _, limit, _, extra = sys.argv
with (here / "limits").open("a") as file:
    file.write(pathlib.Path(limit[1:]).read_text())
given = json.loads(pathlib.Path(extra[1:]).read_text())
(here / "run.json").write_text(json.dumps({{
    "playbook": playbook,
    "database": os.environ["MOAT_DATABASE"],
    "variables": given,
    "modes": [oct(os.stat(path[1:]).st_mode) for path in (limit, extra)],
}}))
if "moat_answers" in given:
    shutil.copytree(here / "answers", given["moat_answers"], dirs_exist_ok=True)
sys.exit(int((here / "status").read_text()))
"""


class PlaybookStub:
    """Notes what it is run with, hands over prepared answers, and ends as it is told.

    Put it in the place of the real one by monkeypatching sys.executable with python.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "site.yml"
        self.path.write_text("---\n")
        self.answers = directory / "answers"
        self.answers.mkdir()
        self.python = directory / "bin" / "python"
        program = self.python.with_name("ansible-playbook")
        program.parent.mkdir()
        program.write_text(_PROGRAM.format(python=sys.executable, directory=str(directory)))
        program.chmod(0o755)
        self.ends_with(0)

    def ends_with(self, status: int) -> None:
        (self._directory / "status").write_text(str(status))

    def answers_with(self, box: str, answer: Any) -> None:
        """Have the box answer with this text, or object, from the next run on."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        answer_path(self.answers, box).write_text(text)

    def boxes(self) -> list[str]:
        """Return the boxes it was limited to since it was asked last."""
        path = self._directory / "limits"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def run(self) -> dict[str, Any]:
        """What the last run was given."""
        found: dict[str, Any] = json.loads((self._directory / "run.json").read_text())
        return found
