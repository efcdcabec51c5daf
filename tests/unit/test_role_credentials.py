"""What the roles are told of secrets and CAs: what it makes of connections, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from moatvpn.config import connection_from_dict
from moatvpn.credentials import with_credentials
from moatvpn.errors import ConfigError

BOX = "/etc/moatvpn/credentials"


def connection(name: str) -> dict[str, Any]:
    """Return a record as the inventory gives it, by raw public keys."""
    return {
        "name": name,
        "remote_identity": f"{name}.example.net",
        "remote_public_keys": ["MCowBQYDK2VwAyEA" + "A" * 43 + "="],
        "local_selectors": ["10.201.1.0/24"],
        "remote_selectors": ["0.0.0.0/0"],
    }


TWO = [connection("c1"), connection("c2")]


def made(entries: Any, connections: Any = TWO) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the settings by name, as moatd reads them, and the files: src, dest, for whom."""
    result = with_credentials(connections, entries, BOX)
    assert [each["name"] for each in result["connections"]] == [c["name"] for c in connections]
    read = {each["name"]: connection_from_dict(each) for each in result["connections"]}
    files = {file["dest"]: [file["src"], *file["connections"]] for file in result["files"]}
    return read, files


def test_without_entries_nothing_changes() -> None:
    assert with_credentials(TWO, {}, BOX) == {"connections": TWO, "files": []}
    assert with_credentials(TWO, {"gone": {"psk": "/a"}}, BOX)["files"] == []


def test_a_secret_of_one_connection_is_brought_for_that_one() -> None:
    read, files = made({"c1": {"psk": "/secrets/c1"}})
    assert files == {f"{BOX}/c1.psk": ["/secrets/c1", "c1"]}
    assert (read["c1"].authentication, str(read["c1"].psk_file)) == ("psk", f"{BOX}/c1.psk")
    assert read["c2"].authentication == "raw-public-key"


def test_a_ppk_goes_beside_any_method() -> None:
    ppk = {"ppk": "/p", "ppk_id": "c2", "ppk_required": False}
    read, files = made({"c1": {"psk": "/s", "ppk": "/q", "ppk_id": "c1"}, "c2": ppk})
    assert set(files) == {f"{BOX}/c1.psk", f"{BOX}/c1.ppk", f"{BOX}/c2.ppk"}
    assert (read["c1"].ppk_id, read["c1"].authentication) == ("c1", "psk")
    assert (read["c2"].ppk_required, read["c2"].authentication) == (False, "raw-public-key")


def test_cas_are_shared() -> None:
    read, files = made({"*": {"ca": ["/pki/old.pem", "/pki/new.pem"]}, "c2": {"psk": "/s"}})
    assert files[f"{BOX}/ca-new.pem"] == ["/pki/new.pem", "c1"]
    assert [str(path) for path in read["c1"].ca_files] == [
        f"{BOX}/ca-{n}.pem" for n in ("old", "new")
    ]
    assert read["c2"].authentication == "psk"
    assert made({"*": {"ca": ["/pki/ca.pem"]}})[1] == {
        f"{BOX}/ca-ca.pem": ["/pki/ca.pem", "c1", "c2"]
    }


def test_what_is_on_the_box_is_not_brought() -> None:
    entries = {"c1": {"psk_file": "/run/keys/c1"}, "c2": {"ca_files": ["/etc/ssl/ca.pem"]}}
    read, files = made(entries)
    assert files == {}
    assert str(read["c1"].psk_file) == "/run/keys/c1"
    assert read["c2"].authentication == "certificate"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "Give a record by a connection's name"),
        ({"c1": "secret"}, "Give a record by a connection's name"),
        ({"c1": {"secret": "x"}}, "secret"),
        ({"c1": {"psk": 7}}, "psk"),
        ({"c1": {"psk": "secrets/c1"}}, "a whole path on the controller"),
        ({"c1": {"ca": ["ca.pem"]}}, "whole paths on the controller"),
        ({"c1": {"psk": "/a\nb"}}, "psk"),
        ({"c1": {"psk": "/a", "psk_file": "/b"}}, "on the controller or on the box"),
        ({"c1": {"psk": "/a", "ca": ["/b"]}}, "Give one of them"),
        ({"*": {"psk": "/a"}}, "a secret of its own"),
        ({"c1": {"ppk": "/a", "ppk_id": "x"}, "c2": {"psk": "/a"}}, "a secret of its own"),
        ({"c1": {"ca": ["/a/ca.pem"]}, "c2": {"ca": ["/b/ca.pem"]}}, "Give them different names"),
        ({"c1": {"ca": ["/a/.."]}}, "is no name of a file"),
        ({"c1": {"ca": ["/a b"]}}, "is no name of a file"),
    ],
)
def test_what_cannot_be_is_refused(entries: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_credentials(TWO, entries, BOX)
    assert words in str(caught.value)


@pytest.mark.parametrize("connections", ["c1", [connection("../c1")], [{}, "c1"]])
def test_connections_that_are_none_are_refused(connections: Any) -> None:
    with pytest.raises(ConfigError, match="connections"):
        with_credentials(connections, {}, BOX)
