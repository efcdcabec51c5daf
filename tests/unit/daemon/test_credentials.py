"""The files of secrets, certificates, CAs and CRLs that settings name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pki import DAY, NOW, Authority, Issued

from moatvpn.config import ConnectionConfig, DaemonConfig
from moatvpn.crypto.trust import CertificateError
from moatvpn.daemon.credentials import (
    LEAST_PSK,
    Credentials,
    check_connection_files,
    check_daemon_files,
    read_psk,
)
from moatvpn.errors import OperatorError

NAME = "portal.example.net"
CA = Authority()
ISSUED = CA.issue(NAME)


def private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_secret_is_the_file_but_for_the_newline_at_its_end(tmp_path: Path, ending: bytes) -> None:
    secret = b"\0 sixteen octets\n and more "
    assert read_psk(private(tmp_path / "psk", secret + ending)) == secret


@pytest.mark.parametrize("length", [0, 1, LEAST_PSK - 1, 1025])
def test_a_secret_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = private(tmp_path / "psk", b"s" * length)
    with pytest.raises(OperatorError, match=f"has {length} octets, not 16 to 1024") as caught:
        read_psk(path)
    assert "sss" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "psk", b"s" * 32, mode)
    with pytest.raises(OperatorError, match="lets others have it"):
        read_psk(path)


def test_a_secret_that_is_not_there_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="openssl rand"):
        read_psk(tmp_path / "psk")


class Box:
    """The files of one box, and what it logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self.config = DaemonConfig(
            identity=NAME,
            private_key=private(directory / "key.pem", ISSUED.key_pem()),
            certificate=self.write("own.pem", ISSUED.pem),
        )

    def write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        new = self.directory / (name + ".new")
        new.write_bytes(content)
        new.replace(path)
        return path

    def credentials(self, **changes: Any) -> Credentials:
        def log(level: str, text: str, connection: str | None = None) -> None:
            self.lines.append(text)

        return Credentials(replace(self.config, **changes), ISSUED.signer, lambda: NOW, log)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def connection() -> Callable[..., ConnectionConfig]:
    def make(**changes: Any) -> ConnectionConfig:
        networks = {"local_selectors": ("0.0.0.0/0",), "remote_selectors": ("10.201.1.0/24",)}
        return ConnectionConfig(name="c1", remote_identity="m1.example.net", **networks, **changes)

    return make


def test_connections_that_name_one_ca_share_it(box: Box, connection: Any) -> None:
    credentials = box.credentials()
    path = box.write("ca.pem", CA.pem)
    config = connection(authentication="certificate", ca_files=(path,))
    first, second = credentials.secrets(config), credentials.secrets(config)
    assert first.anchors is second.anchors
    other = Authority("Another one")
    box.write("ca.pem", other.pem)
    assert credentials.secrets(config) != first
    both = connection(authentication="certificate", ca_files=(path, box.write("b.pem", CA.pem)))
    anchors = credentials.secrets(both).anchors
    assert anchors is not None
    assert len(anchors.authorities) == 2


def test_a_changed_secret_is_another_one(box: Box, connection: Any) -> None:
    credentials = box.credentials()
    path = private(box.directory / "psk", b"s" * 32)
    config = connection(authentication="psk", psk_file=path)
    first = credentials.secrets(config)
    assert first == credentials.secrets(config)
    private(path, b"t" * 32)
    assert credentials.secrets(config) != first
    assert "sss" not in repr(first)


def test_a_box_without_a_certificate_takes_no_connection_that_wants_one(
    box: Box, connection: Any
) -> None:
    credentials = box.credentials(certificate=None)
    config = connection(authentication="certificate", ca_files=(box.write("ca.pem", CA.pem),))
    with pytest.raises(OperatorError, match="none of its own"):
        credentials.secrets(config)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (CA.issue(NAME).pem, "not of our private key"),
        (CA.issue("other.example.net", key=ISSUED.key).pem, "has no subjectAltName DNS:portal"),
        (b"", "holds no certificates"),
    ],
)
def test_a_certificate_that_is_not_ours_is_refused(box: Box, own: bytes, why: str) -> None:
    box.write("own.pem", own)
    with pytest.raises(OperatorError, match=why):
        box.credentials()
    with pytest.raises(OperatorError, match=why):
        check_daemon_files(box.config)


def revoked(credentials: Credentials, issued: Issued) -> bool:
    try:
        CA.anchors.verify(issued.der, NOW, credentials.revocations())
    except CertificateError:
        return True
    return False


def test_a_crl_is_in_force_as_soon_as_its_file_is_there(box: Box) -> None:
    path = box.write("ca.crl", CA.crl())
    credentials = box.credentials(crls=(path,))
    moat = CA.issue("m1.example.net")
    assert not revoked(credentials, moat)
    box.write("ca.crl", CA.crl(moat, after=NOW - DAY / 2))
    assert revoked(credentials, moat)


def test_a_broken_crl_leaves_the_one_before_in_force_and_is_told_once(box: Box) -> None:
    moat = CA.issue("m1.example.net")
    path = box.write("ca.crl", CA.crl(moat))
    credentials = box.credentials(crls=(path,))
    for breaking in (lambda: box.write("ca.crl", b"broken"), path.unlink):
        breaking()
        for _ in range(3):
            assert revoked(credentials, moat)
    assert len(box.lines) == 1
    box.write("ca.crl", CA.crl())
    assert not revoked(credentials, moat)
    path.unlink()
    assert not revoked(credentials, moat)
    assert len(box.lines) == 2


def test_an_overdue_crl_stays_in_force_and_is_told_once(box: Box) -> None:
    moat = CA.issue("m1.example.net")
    path = box.write("ca.crl", CA.crl(moat, after=NOW - 3 * DAY, until=NOW - DAY))
    credentials = box.credentials(crls=(path,))
    assert revoked(credentials, moat)
    assert revoked(credentials, moat)
    (line,) = box.lines
    assert "a newer one is due" in line


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"after": NOW + 1, "until": NOW + DAY}, "is not valid yet by our clock"),
        ({"until": NOW - 1}, "has expired by our clock"),
        ({"until": NOW + 5 * DAY}, "expires in 5.0 days"),
        ({"until": NOW + 15 * DAY}, None),
    ],
)
def test_our_own_certificate_is_watched(box: Box, changes: Any, why: str | None) -> None:
    box.write("own.pem", CA.issue(NAME, key=ISSUED.key, **changes).pem)
    box.credentials()
    assert len(box.lines) == (why is not None)
    assert why is None or why in box.lines[0]


def test_a_crl_that_is_broken_at_the_start_stops_moatd(box: Box) -> None:
    with pytest.raises(OperatorError, match="is not a CRL"):
        box.credentials(crls=(box.write("ca.crl", b"broken"),))


def test_files_are_checked_on_demand(box: Box, connection: Any) -> None:
    check_daemon_files(replace(box.config, crls=(box.write("ca.crl", CA.crl()),)))
    check_connection_files(connection(ca_files=(box.write("ca.pem", CA.pem),)))
    check_connection_files(connection(psk_file=private(box.directory / "psk", os.urandom(32))))
    for config in (
        connection(ca_files=(box.write("ca.pem", ISSUED.pem),)),
        connection(psk_file=box.directory / "nowhere"),
    ):
        with pytest.raises(OperatorError):
            check_connection_files(config)
