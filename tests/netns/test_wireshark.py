"""Wireshark reads a tunnel with the keys that the loudly named switch writes, and not without."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, new_box, wait_for
from pair import Pair

SWITCH = "insecure_write_keys_for_wireshark"
DECODE = ("-o", "esp.enable_encryption_decode:TRUE")


@contextmanager
def captured(pair: Pair, file: Path) -> Iterator[None]:
    """Capture what crosses the wild side while the block runs."""
    words = (
        "tcpdump",
        "-n",
        "--immediate-mode",
        "-U",
        "-Z",
        "root",
        "-i",
        "wild0",
        "-w",
        str(file),
        "ip",
    )
    with pair.portal.popen(*words, stderr=subprocess.PIPE) as capture:
        try:
            assert capture.stderr is not None
            while b"listening on" not in (line := capture.stderr.readline()):
                assert line, "tcpdump ended"
            yield
        finally:
            capture.send_signal(signal.SIGINT)
            capture.wait(10)


def read(file: Path, keys: Path, field: str) -> set[str]:
    """Return the values of a field that tshark finds in a capture with the keys of a directory."""
    words = ["tshark", "-r", str(file), *DECODE, "-T", "fields", "-e", field]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(keys)}
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    return {value for line in done.stdout.split() for value in line.split(",")}


@pytest.mark.parametrize("suite", ["aes-256-gcm", "aes-256-cbc-hmac-sha2-256"])
def test_wireshark_reads_the_tunnel(tmp_path: Path, suite: str) -> None:
    keys, none, file = tmp_path / "keys", tmp_path / "none", tmp_path / "wild.pcap"
    for directory in (keys, none):
        directory.mkdir(mode=0o700)
    with (
        new_box(tmp_path, "m", MOAT.identity) as moat,
        new_box(tmp_path, "p", PORTAL.identity) as portal,
    ):
        settings = json.loads((moat.directory / "moatd.json").read_text())
        (moat.directory / "moatd.json").write_text(json.dumps({**settings, SWITCH: str(keys)}))
        pair = Pair(moat, portal, "auto")
        for record in (pair.to_portal, pair.to_moat):
            record |= {"esp_suites": [suite], "ike_suites": [suite]}
            # Wireshark 4.0 deciphers AGGFRAG payloads, but does not know what is in them.
            record["aggfrag"] = "off"
        with captured(pair, file):
            pair.start()
            moat.moatctl("rekey", "portal1", "child")
            wait_for(pair.pings, "a ping after the rekey", 5)
        assert moat.moatctl("status").stdout.startswith("INSECURE: ")
        assert "INSECURE" not in portal.moatctl("status").stdout
    assert "INSECURE: the keys of all traffic are written to" in moat.log.read_text()
    for table in ("ikev2_decryption_table", "esp_sa"):
        assert stat.S_IMODE((keys / table).stat().st_mode) == 0o600
    assert read(file, keys, "isakmp.id.data.fqdn") >= {MOAT.identity, PORTAL.identity}
    assert read(file, keys, "icmp.type") >= {"8", "0"}
    assert read(file, none, "isakmp.id.data.fqdn") == set()
    assert read(file, none, "icmp.type") == set()


def test_a_directory_that_others_can_read_stops_moatd(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    keys.chmod(0o755)
    with new_box(tmp_path, "m", MOAT.identity) as moat:
        settings = json.loads((moat.directory / "moatd.json").read_text())
        (moat.directory / "moatd.json").write_text(json.dumps({**settings, SWITCH: str(keys)}))
        with pytest.raises(AssertionError):
            moat.start()
        assert "has mode 0755, which lets others in" in moat.log.read_text()
    assert list(keys.iterdir()) == []
