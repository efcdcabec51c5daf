"""The tables of attacks name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "least"), [("security.md", 30), ("enrolment.md", 10)])
def test_every_test_that_is_named_exists(page: str, least: int) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    files = [
        path for folder in ("tests", "molecule") for path in ROOT.glob(f"{folder}/**/test_*.py")
    ]
    defined = {
        name
        for path in files
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > least
    assert named <= defined
