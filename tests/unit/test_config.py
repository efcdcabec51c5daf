"""Settings: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.config import (
    ED25519_SPKI_PREFIX,
    ConnectionConfig,
    DaemonConfig,
    connection_from_dict,
    connection_to_dict,
    daemon_from_dict,
    load_json,
    public_key_from_text,
)
from moatvpn.errors import ConfigError
from moatvpn.esp.child import EspSuite

SPKI = ED25519_SPKI_PREFIX + bytes(range(32))
KEY = base64.b64encode(SPKI).decode()
LEAST: dict[str, Any] = {
    "name": "m0001",
    "remote_identity": "m0001.moats.example.net",
    "remote_public_keys": [KEY],
    "local_selectors": ["0.0.0.0/0", "::/0"],
    "remote_selectors": ["10.201.1.0/24", "fd00:201:1::/64"],
}
ALL: dict[str, Any] = {
    **LEAST,
    "remote_address": "198.51.100.2",
    "initiate": True,
    "encapsulation": "udp",
    "esp_suites": ["chacha20-poly1305"],
    "child_lifetime": 600,
    "ike_lifetime": 7200.5,
    "dpd_interval": 5,
}


def test_defaults() -> None:
    assert connection_from_dict(LEAST) == ConnectionConfig(
        name="m0001",
        remote_identity="m0001.moats.example.net",
        remote_public_keys=(KEY,),
        local_selectors=("0.0.0.0/0", "::/0"),
        remote_selectors=("10.201.1.0/24", "fd00:201:1::/64"),
    )


@pytest.mark.parametrize("record", [LEAST, ALL])
def test_a_record_comes_back_as_its_equal(record: dict[str, Any]) -> None:
    config = connection_from_dict(record)
    written = json.loads(json.dumps(connection_to_dict(config)))
    assert connection_from_dict(written) == config
    assert {key: written[key] for key in record} == record


def test_every_setting_is_taken() -> None:
    config = connection_from_dict(ALL)
    assert config.initiate is True
    assert config.esp_suites == (EspSuite.CHACHA20_POLY1305,)
    assert (config.child_lifetime, config.ike_lifetime, config.dpd_interval) == (600, 7200.5, 5)
    assert config.public_keys() == (SPKI,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "M1"),
        ("name", ""),
        ("name", "a" * 64),
        ("name", "../m1"),
        ("name", "-m1"),
        ("name", "m1\n"),
        ("name", None),
        ("remote_identity", "m1"),
        ("remote_identity", "M1.example.net"),
        ("remote_identity", "m1.-x.net"),
        ("remote_identity", "a." * 130 + "net"),
        ("remote_public_keys", []),
        ("remote_public_keys", KEY),
        ("remote_public_keys", ["?"]),
        ("remote_public_keys", [base64.b64encode(SPKI[:-1]).decode()]),
        ("remote_public_keys", [KEY, base64.b64encode(b"\x31" + SPKI[1:]).decode()]),
        ("local_selectors", []),
        ("local_selectors", ["10.0.0.1/24"]),
        ("local_selectors", [f"10.{n}.0.0/16" for n in range(256)]),
        ("remote_selectors", "10.0.0.0/24"),
        ("remote_selectors", [10]),
        ("remote_address", "portal.example.net"),
        ("remote_address", None),  # while initiate is true
        ("initiate", 1),
        ("encapsulation", "tcp"),
        ("encapsulation", []),
        ("esp_suites", []),
        ("esp_suites", ["des"]),
        ("esp_suites", 5),
        ("esp_suites", [[]]),
        ("child_lifetime", 9.9),
        ("child_lifetime", True),
        ("child_lifetime", "600"),
        ("ike_lifetime", 19),
        ("dpd_interval", 0),
        ("colour", "red"),
    ],
)
def test_a_refusal_names_the_field_and_the_place(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        connection_from_dict({**ALL, field: value}, "here.json")
    assert caught.value.what == f"here.json: {field}"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", LEAST)
def test_what_is_needed_cannot_be_left_out(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        connection_from_dict({key: LEAST[key] for key in LEAST if key != field})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(ALL)), JSON)
def test_any_value_is_accepted_or_refused(field: str, value: object) -> None:
    try:
        config = connection_from_dict({**ALL, field: value})
    except ConfigError:
        return
    assert connection_from_dict(connection_to_dict(config)) == config


def test_public_key_text() -> None:
    assert public_key_from_text(KEY) == SPKI
    with pytest.raises(ValueError, match="not base64"):
        public_key_from_text("=")


def test_daemon_defaults_and_all() -> None:
    least = {"identity": "portal.example.net", "private_key": "/etc/moatvpn/identity.key"}
    key = Path("/etc/moatvpn/identity.key")
    assert daemon_from_dict(least) == DaemonConfig("portal.example.net", key)
    more = {
        "tunnel_interface": "moat1",
        "connections": "/c",
        "control_socket": "/s",
        "log_level": "debug",
    }
    full = DaemonConfig("portal.example.net", key, "moat1", Path("/c"), Path("/s"), "debug")
    assert daemon_from_dict({**least, **more}) == full


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identity", "portal"),
        ("private_key", "identity.key"),
        ("private_key", None),
        ("tunnel_interface", "a-name-that-is-too-long"),
        ("tunnel_interface", "moat0/.."),
        ("connections", "connections.d"),
        ("control_socket", 5),
        ("log_level", "loud"),
        ("port", 500),
    ],
)
def test_a_refused_setting_of_the_daemon(field: str, value: object) -> None:
    least = {"identity": "portal.example.net", "private_key": "/etc/moatvpn/identity.key"}
    with pytest.raises(ConfigError) as caught:
        daemon_from_dict({**least, field: value}, "moatd.json")
    assert caught.value.what == f"moatd.json: {field}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "holds no JSON object"),
    ],
)
def test_files(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        load_json(path)
    assert caught.value.what == str(path)
    path.write_text('{"a": 1}')
    assert load_json(path) == {"a": 1}
