"""Settings: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

import base64
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pki import new_key

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
from moatvpn.crypto.sign import Signer
from moatvpn.errors import ConfigError
from moatvpn.esp.tfc import NO_TFC, Tfc, TfcMode
from moatvpn.wire.algorithms import CipherSuite, PostQuantum
from moatvpn.wire.selectors import TrafficSelector

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
    "post_quantum": "require",
    "aggfrag": "off",
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
    assert config.esp_suites == (CipherSuite.CHACHA20_POLY1305,)
    assert config.post_quantum is PostQuantum.REQUIRE
    assert config.aggfrag == "off"
    assert (config.child_lifetime, config.ike_lifetime, config.dpd_interval) == (600, 7200.5, 5)
    assert config.public_keys() == (SPKI,)


BY_PSK = {k: v for k, v in LEAST.items() if k != "remote_public_keys"} | {
    "authentication": "psk",
    "psk_file": "/etc/moatvpn/psk/m0001",
}
BY_CERTIFICATE = {k: v for k, v in LEAST.items() if k != "remote_public_keys"} | {
    "authentication": "certificate",
    "ca_files": ["/etc/moatvpn/ca.pem"],
}


@pytest.mark.parametrize("record", [BY_PSK, BY_CERTIFICATE])
def test_other_authentications_come_back_as_their_equal(record: dict[str, Any]) -> None:
    config = connection_from_dict(record)
    assert config.remote_public_keys == ()
    written = json.loads(json.dumps(connection_to_dict(config)))
    assert connection_from_dict(written) == config
    assert {key: written[key] for key in record} == record


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({**LEAST, "authentication": "eap"}, "authentication: is 'eap'"),
        ({**LEAST, "authentication": "psk"}, "remote_public_keys: is for authentication raw"),
        ({**LEAST, "psk_file": "/psk"}, "psk_file: is for authentication psk"),
        ({**LEAST, "ca_files": ["/ca"]}, "ca_files: is for authentication certificate"),
        ({**BY_PSK, "psk_file": None}, "psk_file: is missing"),
        ({**BY_PSK, "psk_file": "psk"}, "psk_file: is 'psk'"),
        ({**BY_PSK, "psk": "a secret itself"}, "psk: is not a setting"),
        ({**BY_CERTIFICATE, "ca_files": []}, "ca_files: is"),
        ({**BY_CERTIFICATE, "ca_files": ["ca.pem"]}, "ca_files: holds what is no absolute path"),
        ({**BY_CERTIFICATE, "ca_files": None}, "ca_files: is missing"),
        (
            {k: v for k, v in LEAST.items() if k != "remote_public_keys"},
            "remote_public_keys: is missing",
        ),
    ],
)
def test_each_authentication_has_what_it_needs_and_nothing_else(
    record: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        connection_from_dict(record)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_daemon_s_certificate_and_crls() -> None:
    record: dict[str, Any] = {"identity": "a.example", "private_key": "/k"}
    assert daemon_from_dict(record).certificate is None
    record |= {"certificate": "/own.pem", "crls": ["/a.crl", "/b.crl"]}
    config = daemon_from_dict(record)
    assert config.certificate == Path("/own.pem")
    assert config.crls == (Path("/a.crl"), Path("/b.crl"))
    for wrong in ({"certificate": "own.pem"}, {"crls": "/a.crl"}, {"crls": ["a.crl"]}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            daemon_from_dict(record | wrong)


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
        ("remote_selectors", ["10.0.0.1"]),
        ("remote_selectors", ["10.0.0.0/0.0.0.255"]),
        ("remote_selectors", ["fe80::%eth0/64"]),
        ("remote_selectors", [f"10.0.{number}.0/24" for number in range(256)]),
        ("ike_suites", ["des"]),
        ("groups", []),
        ("post_quantum", "maybe"),
        ("post_quantum", True),
        ("ppk_id", "two words"),
        ("ppk_id", "x" * 65),
        ("ppk_id", 5),
        ("ppk_required", "yes"),
        ("groups", ["x25519", "x25519"]),
        ("pfs", "yes"),
        ("child_sas", "many"),
        ("aggfrag", "on"),
        ("tfc", "always"),
        ("tfc", True),
        ("tfc_octets", 127),
        ("tfc_octets", 9001),
        ("tfc_octets", 1200.0),
        ("tfc_octets", True),
        ("tfc_rate", -1),
        ("tfc_rate", 100_001),
        ("tfc_rate", "50"),
        ("tfc_rate", False),
        ("request_addresses", 1),
        ("assigned_addresses", ["10.201.9.0/24"]),
        ("assigned_dns", "10.50.0.53"),
        ("assigned_domains", ["Corp.Example"]),
        ("remote_address", "portal.example.net"),
        ("remote_address", 5),
        ("remote_address", True),
        ("remote_address", "2001:db8::1"),
        ("remote_address", "0.0.0.0"),
        ("remote_address", "224.0.0.1"),
        ("remote_address", "255.255.255.255"),
        ("remote_address", None),  # while initiate is true
        ("initiate", 1),
        ("encapsulation", "tcp"),
        ("encapsulation", []),
        ("esp_suites", []),
        ("esp_suites", ["des"]),
        ("esp_suites", 5),
        ("esp_suites", [[]]),
        ("esp_suites", {"aes-256-gcm": 1}),
        ("esp_suites", ["aes-256-gcm", "aes-256-gcm"]),
        ("child_lifetime", 9.9),
        ("child_lifetime", True),
        ("child_lifetime", "600"),
        ("child_lifetime", float("nan")),
        ("child_lifetime", float("inf")),
        ("child_lifetime", 10**400),
        ("ike_lifetime", 604801),
        ("ike_lifetime", 19),
        ("dpd_interval", 0),
        ("colour", "red"),
        (5, "red"),
        ((1, 2), "red"),
    ],
)
def test_a_refusal_names_the_field_and_the_place(field: object, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        connection_from_dict({**ALL, field: value}, "here.json")
    assert caught.value.what == f"here.json: {field}"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, NO_TFC),
        ({"tfc": "off", "tfc_octets": 0, "tfc_rate": 0}, NO_TFC),
        ({"tfc": "pad"}, Tfc(TfcMode.PAD)),
        ({"tfc": "pad", "tfc_octets": 128}, Tfc(TfcMode.PAD, 128)),
        ({"tfc": "constant", "tfc_rate": 1}, Tfc(TfcMode.CONSTANT, 0, 1)),
        (
            {"tfc": "constant", "tfc_rate": 100_000, "tfc_octets": 9000},
            Tfc(TfcMode.CONSTANT, 9000, 100_000),
        ),
    ],
)
def test_traffic_flow_confidentiality(settings: dict[str, Any], expected: Tfc) -> None:
    config = connection_from_dict({**LEAST, **settings})
    assert config.hiding == expected
    assert connection_from_dict(connection_to_dict(config)) == config


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tfc": "constant"}, "tfc_rate: is missing"),
        ({"tfc": "constant", "tfc_octets": 1200}, "tfc_rate: is missing"),
        ({"tfc": "pad", "tfc_rate": 50}, "tfc_rate: is for tfc constant"),
        ({"tfc_rate": 50}, "tfc_rate: is for tfc constant"),
        ({"tfc_octets": 1200}, "tfc_octets: is for tfc pad and constant"),
        ({"tfc": "constant", "tfc_rate": 9, "aggfrag": "off"}, "tfc: is constant, which aggfrag"),
    ],
)
def test_no_setting_of_it_is_without_effect(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        connection_from_dict({**LEAST, **settings})


def test_pairs_of_networks_are_counted_by_family() -> None:
    four, six = [f"10.{n}.0.0/16" for n in range(4)], ["fd00::/16", "fd01::/16", "fd02::/16"]
    record = {**LEAST, "child_sas": "per-pair", "local_selectors": [*four, *six]}
    record["remote_selectors"] = ["10.128.0.0/16", "10.129.0.0/16", "fd80::/16", "fd81::/16"]
    assert connection_from_dict(record).child_sas == "per-pair"  # 4 * 2 and 3 * 2
    record["remote_selectors"].append("10.130.0.0/16")
    with pytest.raises(ConfigError, match=r"would make 18 CHILD_SAs .* 16 is the most"):
        connection_from_dict(record)


def test_a_network_has_one_way_to_be_written() -> None:
    config = connection_from_dict({**ALL, "remote_selectors": ["FD00:0201:1:0::0/64"]})
    assert config.remote_selectors == ("fd00:201:1::/64",)


Made = TypeVar("Made")


def attempt(make: Callable[[Any], Made], of: object) -> tuple[Made | None, str]:
    """Return what make makes of a thing and "", or None and how it refuses it."""
    try:
        return make(of), ""
    except ConfigError as error:
        return None, str(error)


def test_a_refusal_is_short_and_on_one_line() -> None:
    """Whatever stands in a file, the log gets a line that a person can read."""
    for record in (
        {**ALL, "name": "m" * 10_000},
        {**ALL, "remote_selectors": [["m" * 100] * 100] * 100},
        {**ALL, "remote_selectors": ["10.0.0.1/24" + "m" * 10_000]},
        {**ALL, "remote_address": "1" * 10_000},
        {**ALL, "esp_suites": ["m" * 10_000]},
        {**ALL, "child_lifetime": 10**5000},
        {**ALL, "\nfield\ud800" + "m" * 10_000: 1},
    ):
        with pytest.raises(ConfigError) as caught:
            connection_from_dict(record, "here.json")
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()


def test_the_refusal_of_ipv6_outside_says_that_it_is_about_the_wild_side() -> None:
    with pytest.raises(ConfigError, match=r"wild side.*IPv4"):
        connection_from_dict({**ALL, "remote_address": "2001:db8::1"})


@pytest.mark.parametrize("field", LEAST)
def test_what_is_needed_cannot_be_left_out(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        connection_from_dict({key: LEAST[key] for key in LEAST if key != field})


HUGE = st.builds(
    lambda sign, power: sign * 10**power, st.sampled_from([-1, 1]), st.integers(0, 4000)
)
LIKELY = st.sampled_from([*ALL, "aes-256-gcm", "auto", "udp", KEY, "10.0.0.0/8", "198.51.100.2"])
SCALAR = (
    st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=20) | LIKELY
)
# What JSON can say, and YAML beyond it: keys of any kind.
DOCUMENT = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALAR, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(ALL)) | SCALAR, DOCUMENT)
def test_any_value_is_accepted_or_refused(field: object, value: object) -> None:
    config, refusal = attempt(connection_from_dict, {**ALL, field: value})
    assert refusal.isprintable()
    if config is None:
        return
    written = connection_to_dict(config)
    assert connection_from_dict(written) == config
    # What is accepted can be sent, waited for, and stored.
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    for seconds in (config.child_lifetime, config.ike_lifetime, config.dpd_interval):
        assert 1 <= seconds <= 604800
    if config.remote_address is not None:
        socket.inet_aton(config.remote_address)
    for network in (*config.local_selectors, *config.remote_selectors):
        TrafficSelector.from_network(network)


@given(st.dictionaries(SCALAR, DOCUMENT, max_size=3))
def test_any_document_is_accepted_or_refused(document: dict[Any, Any]) -> None:
    for read in (connection_from_dict, daemon_from_dict):
        with pytest.raises(ConfigError):  # what must be there is not
            read(document)


@given(DOCUMENT.map(lambda value: json.dumps(value, default=str, skipkeys=True)) | st.text())
def test_any_text_in_a_file_is_an_object_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c.json")
        path.write_text(text, encoding="utf-8", errors="replace")
        value, refusal = attempt(load_json, path)
    assert refusal.isprintable()
    assert bool(refusal) is not isinstance(value, dict)


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
        ("control_socket", "/" + "s" * 107),
        ("private_key", "/etc/moatvpn/\0"),
        ("private_key", "/etc/\ud800"),
        ("private_key", "/etc/\nkey"),
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
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "is not JSON"),
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


@pytest.mark.parametrize("plane", ["auto", "python", "kernel"])
def test_data_planes(plane: str) -> None:
    record = {"identity": "m1.example.net", "private_key": "/key", "data_plane": plane}
    assert daemon_from_dict(record).data_plane == plane


@pytest.mark.parametrize("workers", ["auto", "on", "off"])
def test_workers(workers: str) -> None:
    least = {"identity": "m1.example.net", "private_key": "/key"}
    assert daemon_from_dict({**least, "workers": workers}).workers == workers
    assert daemon_from_dict(least).workers == "auto"
    with pytest.raises(ConfigError, match=r"workers: is 'many'\. Give one of auto, on, off"):
        daemon_from_dict({**least, "workers": "many"})


def test_ports_of_a_further_daemon() -> None:
    least = {"identity": "m1.example.net", "private_key": "/k"}
    assert daemon_from_dict(least).ports == (500, 4500)
    assert daemon_from_dict({**least, "ports": [4600, 4601]}).ports == (4600, 4601)
    usual = {**least, "ports": [500, 4500], "data_plane": "kernel"}
    assert daemon_from_dict(usual).ports == (500, 4500)
    numbers: tuple[object, ...] = ([], [1], [1, 1], [0, 1], [1, 65536], [1, 2, 3], [10**5000, 1])
    for value in (*numbers, [True, 2], [4600, "4601"], 4600, "ab", None):
        with pytest.raises(ConfigError, match="given: ports"):
            daemon_from_dict({**least, "ports": value}, "given")
    for plane in ("auto", "kernel"):
        with pytest.raises(ConfigError, match="kernel's data plane"):
            daemon_from_dict({**least, "ports": [4600, 4601], "data_plane": plane})


def test_wild_addresses_of_a_portal() -> None:
    least = {"identity": "portal.example.net", "private_key": "/k"}
    assert daemon_from_dict(least).wild_addresses == ()
    both = ["198.51.100.2", "203.0.113.2", "198.51.100.2"]
    assert daemon_from_dict({**least, "wild_addresses": both}).wild_addresses == tuple(both[:2])
    for wrong in (["2001:db8::1"], ["224.0.0.1"], "198.51.100.2", [5]):
        with pytest.raises(ConfigError, match="wild_addresses"):
            daemon_from_dict({**least, "wild_addresses": wrong})


def test_python_is_the_data_plane_by_default() -> None:
    assert (
        daemon_from_dict({"identity": "m1.example.net", "private_key": "/k"}).data_plane == "python"
    )
    with pytest.raises(ConfigError, match=r"data_plane: is 'fpga'\. Give one of auto, python, ker"):
        daemon_from_dict({"identity": "m1.example.net", "private_key": "/k", "data_plane": "fpga"})


def test_a_ppk_has_a_name_and_a_file() -> None:
    config = connection_from_dict({**LEAST, "ppk_id": "p1", "ppk_file": "/etc/moatvpn/ppk"})
    assert (config.ppk_id, config.ppk_file) == ("p1", Path("/etc/moatvpn/ppk"))
    assert config.ppk_required
    assert connection_from_dict(connection_to_dict(config)) == config
    for key, value in (("ppk_id", "p1"), ("ppk_file", "/etc/moatvpn/ppk")):
        with pytest.raises(ConfigError, match="ppk_"):
            connection_from_dict({**LEAST, key: value})
    with pytest.raises(ConfigError, match="ppk_file"):
        connection_from_dict({**LEAST, "ppk_id": "p1", "ppk_file": "relative"})


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384"])
def test_raw_keys_of_these_kinds_are_taken(kind: str) -> None:
    signer = Signer(new_key(kind))
    assert public_key_from_text(signer.public_text) == signer.public_key
    for wrong in (signer.public_key[:-1], signer.public_key + b"\0", signer.public_key[1:]):
        with pytest.raises(ValueError, match="not a SubjectPublicKeyInfo"):
            public_key_from_text(base64.b64encode(wrong).decode())


@pytest.mark.parametrize("kind", ["p521", "k1", "rsa2048"])
def test_raw_keys_of_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="not a SubjectPublicKeyInfo"):
        public_key_from_text(Signer(new_key(kind)).public_text)


GATEWAY = {"address": "198.51.100.3", "identity": "p2.example.net", "public_keys": []}


def test_gateways_that_we_may_be_sent_to() -> None:
    record = LEAST | {"redirect_gateways": [GATEWAY | {"public_keys": [KEY]}]}
    config = connection_from_dict(record)
    assert config.redirect_gateways[0].identity == "p2.example.net"
    assert connection_from_dict(json.loads(json.dumps(connection_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("gateways", "told"),
    [
        ("p2", "is no list of objects"),
        (["p2"], "is no list of objects"),
        ([GATEWAY], r"redirect_gateways\[0\]: public_keys"),
        ([{"address": "198.51.100.3", "port": 500}], "port: is not a setting"),
    ],
)
def test_gateways_that_are_none(gateways: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        connection_from_dict(LEAST | {"redirect_gateways": gateways})
