"""The further VPNs of a home: what is refused, and what each has for its own."""

from __future__ import annotations

from typing import Any

import pytest

from moatvpn.config import connection_from_dict
from moatvpn.errors import ConfigError
from moatvpn.lockdown.matrix import DIRECT_MARK
from moatvpn.vpns import MOST_VPNS, first_vpn, further_vpns

CONNECTION = {
    "name": "portal2",
    "remote_identity": "portal2.example.net",
    "authentication": "psk",
    "psk_file": "/etc/moatvpn/psk",
    "local_selectors": ["10.202.1.0/24"],
    "remote_selectors": ["0.0.0.0/0"],
}


def vpn(**changes: Any) -> dict[str, Any]:
    return {
        "name": "work",
        "private_interface": "home1",
        "private_address": "10.202.1.1/24",
        "private_subnet": "10.202.1.0/24",
        "identity": "b1.moats.example.net",
    } | changes


def test_the_first_has_what_no_further_one_has() -> None:
    first = first_vpn({"private_interface": "home0"})
    assert (first["private_interface"], first["tunnel"], first["mark"]) == (
        "home0",
        "moat0",
        DIRECT_MARK,
    )
    assert first["table"] not in [each["table"] for each in further_vpns([vpn()])]


def test_each_has_its_own_names_and_numbers() -> None:
    six = {"private_address6": "fd00:202::1/64", "private_subnet6": "fd00:202::/64"}
    other = vpn(name="other", private_interface="home2", identity="c1.example.net", **six)
    first, second = further_vpns([vpn(connections=[CONNECTION], resolvers=["10.9.9.9"]), other])
    assert (first["tunnel"], first["table"], first["ports"]) == ("moat1", 4501, [4600, 4601])
    assert (second["tunnel"], second["table"], second["ports"]) == ("moat2", 4502, [4602, 4603])
    assert (first["user"], second["user"]) == ("moatvpn-work", "moatvpn-other")
    assert (first["private_subnet6"], second["private_subnet6"]) == ("", "fd00:202::/64")
    assert first["resolvers"] == ["10.9.9.9"]
    assert connection_from_dict(first["connections"][0]) == connection_from_dict(CONNECTION)
    assert further_vpns([]) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", value) for value in (None, "", "Work", "a-b", "private", "kid", "a" * 13, "1")),
        ("private_interface", "a b"),
        ("private_address", None),
        ("private_address", "10.203.1.1/24"),
        ("private_address", "10.202.1.1/25"),
        ("private_address", "fd00:202::1/64"),
        ("private_address6", 5),
        ("identity", "b1"),
        ("connections", {}),
        ("connections", [5]),
        ("connections", [{"name": "portal2"}]),
        ("port", 4600),
    ],
)
def test_a_refused_field_is_named(field: str, value: Any) -> None:
    record = vpn(**{field: value})
    if field == "private_address6":
        record["private_subnet6"] = "fd00:202::/64"
    with pytest.raises(ConfigError) as caught:
        further_vpns([record])
    assert caught.value.what.startswith(f"moat_vpns[0]: {field}")


@pytest.mark.parametrize("field", ["name", "private_interface", "identity"])
def test_none_has_what_is_another_ones(field: str) -> None:
    other = vpn(name="other", private_interface="home2", identity="c1.example.net")
    with pytest.raises(ConfigError, match="twice") as caught:
        further_vpns([vpn(), other | {field: vpn()[field]}])
    assert caught.value.what == f"moat_vpns: {field}"


@pytest.mark.parametrize("records", [None, {}, "work", [1], [vpn()] * (MOST_VPNS + 1)])
def test_a_list_of_records_is_asked_for(records: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        further_vpns(records)
    assert caught.value.what == "moat_vpns"
