"""The private key's file: made once, whole, for its owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from moatvpn.config import ED25519_SPKI_PREFIX
from moatvpn.daemon.keyfile import create_key_file, read_signer
from moatvpn.errors import OperatorError


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    assert create_key_file(path)
    first = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not create_key_file(path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]
    assert read_signer(path).public_key.startswith(ED25519_SPKI_PREFIX)


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "elsewhere")
    assert not create_key_file(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be made"):
        create_key_file(tmp_path / "no" / "identity.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_key_that_others_may_have_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(OperatorError, match=f"has mode {mode:04o}"):
        read_signer(path)


def test_what_is_no_key_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with pytest.raises(OperatorError, match=r"identity\.key: cannot be read .*identity create"):
        read_signer(path)
    path.touch(mode=0o600)
    with pytest.raises(OperatorError, match=r"private key .*identity\.key: is not"):
        read_signer(path)
