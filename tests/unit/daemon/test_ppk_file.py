"""The file of a postquantum pre-shared key."""

from __future__ import annotations

from pathlib import Path

import pytest

from moatvpn.daemon.credentials import LEAST_PPK, read_ppk
from moatvpn.errors import OperatorError

SECRET = b"s" * LEAST_PPK


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=mode)
    path.write_bytes(content)
    return path


def test_octets_without_the_newline(tmp_path: Path) -> None:
    assert read_ppk(write(tmp_path / "a", SECRET)) == SECRET
    assert read_ppk(write(tmp_path / "b", SECRET + b"\n")) == SECRET
    assert read_ppk(write(tmp_path / "c", b"\0" + SECRET)) == b"\0" + SECRET


@pytest.mark.parametrize(
    ("content", "mode"),
    [(SECRET[:-1], 0o600), (b"", 0o600), (SECRET * 100, 0o600), (SECRET, 0o640), (SECRET, 0o604)],
)
def test_what_is_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    path = write(tmp_path / "ppk", content)
    path.chmod(mode)
    with pytest.raises(OperatorError, match="postquantum") as refused:
        read_ppk(path)
    assert content.decode() not in str(refused.value) or not content


def test_none_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        read_ppk(tmp_path / "none")
