"""The tables of keys for Wireshark: their lines, their rights, and their end."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from moatvpn.crypto.keymat import IkeKeys
from moatvpn.crypto.prf import Prf
from moatvpn.daemon import keylog
from moatvpn.daemon.keylog import KeyLog
from moatvpn.errors import OperatorError
from moatvpn.esp.child import ChildSa
from moatvpn.wire.algorithms import CipherSuite

UNNAMED = {CipherSuite.CHACHA20_POLY1305}  # Wireshark 4.0 does not decrypt it


def ike_keys(suite: CipherSuite) -> IkeKeys:
    one, other = bytes(suite.material_length), b"\xff" * suite.material_length
    return IkeKeys(Prf.HMAC_SHA2_256, suite, b"d", one, other, b"i", b"r")


def child(suite: CipherSuite) -> ChildSa:
    one, other = bytes(suite.material_length), b"\xff" * suite.material_length
    return ChildSa("c1", 0x11, 0x22, suite, True, one, other, (), (), False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    return made


@pytest.mark.parametrize("suite", CipherSuite)
def test_a_line_for_each_sa(directory: Path, log: Any, suite: CipherSuite) -> None:
    written = KeyLog(directory, log)
    written.ike(b"initiate", b"response", ike_keys(suite))
    written.child(child(suite))
    ike = (directory / "ikev2_decryption_table").read_text().splitlines()
    esp = (directory / "esp_sa").read_text().splitlines()
    if suite in UNNAMED:
        assert all(line.startswith("#") and "00000000" not in line for line in (*ike, *esp))
        return
    (line,) = ike
    fields = line.split(",")
    assert fields[:2] == [b"initiate".hex(), b"response".hex()]
    assert fields[2] + fields[5] == bytes(suite.material_length).hex()
    assert fields[3] + fields[6] == "ff" * suite.material_length
    assert [line.split(",")[3] for line in esp] == ['"0x00000011"', '"0x00000022"']
    assert all(line.count(",") == 7 for line in (*ike, *esp))


def test_the_tables_are_for_their_owner_alone_and_told_of(directory: Path, log: Any) -> None:
    written = KeyLog(directory, log)
    written.child(child(CipherSuite.AES_256_GCM))
    assert stat.S_IMODE((directory / "esp_sa").stat().st_mode) == 0o600
    assert log.lines[0][0] == "warning"
    assert "INSECURE" in log.lines[0][1]
    assert "00000000" not in str(log.lines)


def test_a_table_ends_where_it_is_full_and_says_so_once(
    directory: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keylog, "MOST_OCTETS", 100)
    written = KeyLog(directory, log)
    for _ in range(20):
        written.child(child(CipherSuite.AES_256_GCM))
    assert (directory / "esp_sa").stat().st_size < 1000
    assert [line[1] for line in log.lines[1:]] == [
        "keys for Wireshark: esp_sa is full; no more of them"
    ]


def test_a_link_is_not_followed(directory: Path, log: Any, tmp_path: Path) -> None:
    (directory / "esp_sa").symlink_to(tmp_path / "elsewhere")
    KeyLog(directory, log).child(child(CipherSuite.AES_256_GCM))
    assert not (tmp_path / "elsewhere").exists()
    assert "cannot be written" in log.lines[-1][1]


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_others_must_not_get_in(directory: Path, log: Any, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(OperatorError, match="lets others in"):
        KeyLog(directory, log)


def test_a_directory_that_is_not_there(log: Any, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot be opened .* mode 0700"):
        KeyLog(tmp_path / "nowhere", log)
