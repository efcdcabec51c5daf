"""moat-enrolled as a process of its own: its key, what it serves, and how it ends."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys

import pytest
from boxes import wait_for
from enrolling import NOW, Operator, new_signer

from moatvpn.cli import moat_enrolled
from moatvpn.crypto.seal import sha256_hex
from moatvpn.enrol.client import Trust, ask
from moatvpn.enrol.messages import Claim, Configure
from moatvpn.enrol.published import publish
from moatvpn.enrol.reasons import EnrolError


@pytest.fixture
def files(tmp_path):
    pair = ["--certificate", str(tmp_path / "tls.pem"), "--private-key", str(tmp_path / "tls.key")]
    assert moat_enrolled.main(["keygen", *pair]) == 0
    return pair


def write(operator, tmp_path):
    pem = (tmp_path / "tls.pem").read_text()
    found = operator.published(sha256_hex(ssl.PEM_cert_to_DER_cert(pem)))
    new = tmp_path / "published.new"
    new.write_bytes(publish(found.voucher, found.handovers, found.entries.values()))
    new.replace(tmp_path / "published")


def test_the_key_is_made_once_and_is_its_owners(files, tmp_path, capsys):
    before = (tmp_path / "tls.key").read_bytes(), (tmp_path / "tls.pem").read_bytes()
    assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600
    assert moat_enrolled.main(["keygen", *files]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"changed": False}
    assert ((tmp_path / "tls.key").read_bytes(), (tmp_path / "tls.pem").read_bytes()) == before


def test_it_serves_what_is_published_and_takes_in_what_comes_next(files, tmp_path):
    operator, signer = Operator(expires=NOW * 2), new_signer()
    write(operator, tmp_path)
    trust = Trust((operator.seal.public_text,))
    words = [*files, "--published", str(tmp_path / "published"), "--state", str(tmp_path),
             "--listen", "127.0.0.1", "--port", "0"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "moatvpn.cli.moat_enrolled", "serve", *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = process.stderr.readline()
        server = "127.0.0.1", int(ready.rsplit(maxsplit=1)[-1])
        ask(server, Claim(operator.token, signer.public_text), signer, trust)
        asked = Configure("m1.moats.example.net", signer.public_text, 1)
        assert ask(server, asked, signer, trust)[0].configuration is None
        operator.serial = 2
        write(operator, tmp_path)
        assert ask(server, asked, signer, trust)[0].configuration
        # What is not whole is not served: what was is.
        (tmp_path / "published").write_bytes(b"{}")
        assert ask(server, asked, signer, trust)[0].configuration
        stranger = new_signer()
        other = Configure("m1.moats.example.net", stranger.public_text, 1)
        with pytest.raises(EnrolError):
            ask(server, other, stranger, trust)
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert "still serving what was published before" in said
    assert '"configured": 3' in said
    assert operator.token not in said
    wait_for(lambda: (tmp_path / "journal").stat().st_size, "the claim is kept", 1)


def test_what_is_missing_is_said(files, tmp_path, capsys):
    words = [*files, "--published", str(tmp_path / "none"), "--state", str(tmp_path),
             "--listen", "127.0.0.1"]  # fmt: skip
    assert moat_enrolled.main(["serve", *words]) == 1
    assert "cannot be read" in capsys.readouterr().err
