"""scripts/build-wheels: a box's wheels come from the source alone, and are fetched once."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for an interpreter whose pip reaches an index: it notes what is asked of it.
PYTHON = """#!/bin/bash
echo "$*" >>{log}
case "$*" in
*" download "*) mkdir "${{@: -1}}"; touch "${{@: -1}}/need.whl" ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(PYTHON.format(log=tmp_path / "log", python=sys.executable))
    path.chmod(0o755)
    return path


def build(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "build-wheels"), *map(str, words)]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)


def modules(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in (root / "moatvpn").rglob("*.py")}


def test_the_wheels(python: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "kept" / "first", tmp_path / "kept" / "second"
    for wheels in (first, first, second):
        done = build(python, wheels, "3.11", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for wheels in (first, second):
        need, own = sorted(wheels.iterdir(), reverse=True)
        assert need.name == "need.whl"
        with zipfile.ZipFile(own) as archive:
            packed = {name for name in archive.namelist() if name.endswith(".py")}
        assert packed == modules(ROOT / "src")
    asked = (tmp_path / "log").read_text().splitlines()
    assert [" download " in line for line in asked] == [True, False, False]
    assert "--require-hashes --only-binary :all:" in asked[0]
    assert "--platform=manylinux_2_28_x86_64 --platform=manylinux2014_x86_64" in asked[0]
    # What is built is a copy, and nothing is left of it.
    assert not any(line.endswith((" .", str(ROOT))) for line in asked)
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept[:1] == ["first"]
    assert kept[1].startswith("needs-")
    assert kept[2:] == ["second"]


def test_what_fails_leaves_nothing(python: Path, tmp_path: Path) -> None:
    python.write_text("#!/bin/sh\necho no index >&2\nexit 1\n")
    done = build(python, tmp_path / "kept" / "first", "3.11", "manylinux_2_28_x86_64")
    assert (done.returncode, done.stderr) == (1, "no index\n")
    assert list((tmp_path / "kept").iterdir()) == []


def test_usage() -> None:
    done = build(sys.executable)
    assert done.returncode == 2
    assert "usage:" in done.stderr
