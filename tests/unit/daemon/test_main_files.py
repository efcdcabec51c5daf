"""What moatd reads at its start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.daemon.admission import connection_files, read_connection
from moatvpn.daemon.main import main
from moatvpn.errors import ConfigError

Make = Callable[..., ConnectionConfig]


def test_files_of_the_directory(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", ".a.json.new", "notes.txt", ".hidden.json"):
        (tmp_path / name).touch()
    assert [path.name for path in connection_files(tmp_path)] == ["a.json", "b.json"]
    with pytest.raises(ConfigError, match="cannot be read"):
        connection_files(tmp_path / "no")


def test_a_file_is_called_as_its_connection(tmp_path: Path, make_connection: Make) -> None:
    config = make_connection(1)
    text = json.dumps(connection_to_dict(config))
    right, wrong = tmp_path / "c1.json", tmp_path / "c2.json"
    right.write_text(text)
    wrong.write_text(text)
    assert read_connection(right) == config
    with pytest.raises(ConfigError, match=r"c2\.json: name: is 'c1'\. Call the file c1\.json"):
        read_connection(wrong)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"identity": "a.example"}', "private_key: is None. Give an absolute path"),
        (
            '{"identity": "a.example", "private_key": "/nonexistent/key"}',
            "private key /nonexistent/key: cannot be read",
        ),
    ],
)
def test_a_start_that_fails_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: str | None, told: str
) -> None:
    path = tmp_path / "moatd.json"
    if settings is not None:
        path.write_text(settings)
    assert main(["--config", str(path)]) == 1
    line = capfd.readouterr().err
    assert line.startswith("<3>")
    assert told in line
    assert line.count("\n") == 1
