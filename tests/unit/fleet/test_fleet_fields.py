"""Single values and whole records: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatvpn.fleet import fields
from moatvpn.fleet.records import as_texts, parse_customer, parse_portal

Texts = dict[str, str]


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("customer", "C 1", "word"),
        ("customer", "../x", "word"),
        ("name", "a\nb", "cannot be printed"),
        ("name", "a\x1b[31mb", "cannot be printed"),
        ("name", "n" * 201, "201 characters"),
        ("isp", "", "is missing"),
        ("status", "gone", "ordered, shipped, active, suspended, revoked"),
        ("moat", "moat", "fully-qualified"),
        ("moat", "M1.example.net", "lower case"),
        ("moat", "m_1.example.net", "fully-qualified"),
        ("moat", "-m.example.net", "fully-qualified"),
        ("moat", "192.0.2.1", "ends in a number"),
        ("moat", f"{'a' * 64}.example.net", "fully-qualified"),
        ("serial", "a;b", "serial number"),
        ("wild_mac", "02:00:5e:10:00", "MAC"),
        ("wild_mac", "03:00:5e:10:00:01", "group"),
        ("wild_mac", "00:00:00:00:00:00", "no port"),
        ("wild_interface", "moat0", "taken"),
        ("wild_interface", "0123456789abcdef", "interface's name"),
        ("wild_mode", "pppoe", "dhcp, static"),
        ("private_subnet", "10.201.1.1/24", "host bits"),
        ("private_subnet", "10.201.1.0/31", "too small"),
        ("private_subnet", "fd00::/64", "not IPv4"),
        ("private_subnet", "224.0.0.0/24", "reserved"),
        ("private_subnet6", "fd00:201:1::/56", "not a /64"),
        ("private_subnet6", "fe80::/64", "reserved"),
        ("kidnet", "maybe", "neither yes nor no"),
        ("kidnet", "yes", "is missing"),
        ("wild_address", "192.0.2.9/24", "dhcp"),
        ("private_interface", "wild0", "wild side's"),
        ("backup_portal", "portal1.example.net", "primary"),
    ],
)
def test_a_wrong_field_is_named(
    customer: Callable[..., Texts], field: str, text: str, why: str
) -> None:
    record, faults = parse_customer(customer(1) | {field: text})
    assert record is None
    (fault,) = faults
    assert fault.field == ("kidnet_subnet" if text == "yes" else field)
    assert why in fault.why
    assert fault.remedy


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"wild_mode": "static", "wild_address": "192.0.2.9/24"}, "wild_gateway"),
        (
            {
                "wild_mode": "static",
                "wild_address": "192.0.2.9/24",
                "wild_gateway": "192.0.3.1",
            },
            "wild_gateway",
        ),
        (
            {
                "wild_mode": "static",
                "wild_address": "192.0.2.9/24",
                "wild_gateway": "192.0.2.9",
            },
            "wild_gateway",
        ),
        (
            {
                "wild_mode": "static",
                "wild_address": "10.201.1.9/24",
                "wild_gateway": "10.201.1.1",
                "private_subnet": "10.201.1.0/24",
            },
            "private_subnet",
        ),
        (
            {
                "kidnet": "yes",
                "kidnet_subnet": "10.201.0.0/20",
                "private_subnet": "10.201.1.0/24",
            },
            "kidnet_subnet",
        ),
        ({"wild_mac": "02-00-00-00-00-0A", "private_mac": "02:00:00:00:00:0a"}, "private_mac"),
    ],
)
def test_fields_that_do_not_go_together(
    customer: Callable[..., Texts], changes: Texts, field: str
) -> None:
    _, faults = parse_customer(customer(1) | changes)
    assert [fault.field for fault in faults] == [field]


def test_every_wrong_field_is_told_at_once(customer: Callable[..., Texts]) -> None:
    _, faults = parse_customer(customer(1, moat="x", status="y", wild_mac="z"))
    assert [fault.field for fault in faults] == ["status", "moat", "wild_mac"]


def test_a_record_survives_as_texts(customer: Callable[..., Texts]) -> None:
    record, _ = parse_customer(
        customer(1)
        | {
            "wild_mac": "02-00-5E-10-00-01",
            "wild_mode": "static",
            "wild_address": "192.0.2.9/24",
            "wild_gateway": "192.0.2.1",
            "kidnet": "on",
            "kidnet_subnet": "192.168.77.0/24",
            "private_subnet6": "fd00:0201:0001:0::/64",
        }
    )
    assert record is not None
    assert record.wild_mac == "02:00:5e:10:00:01"
    assert record.private_subnet6 == "fd00:201:1::/64"
    assert parse_customer(as_texts(record)) == (record, [])


@given(st.dictionaries(st.sampled_from(["moat", "wild_mac", "private_subnet"]), st.text()))
def test_any_text_is_accepted_or_a_fault(texts: Texts) -> None:
    base = {"customer": "c1", "name": "n", "isp": "i", "portal": "p.example", "moat": "m.example"}
    record, faults = parse_customer(base | texts)
    assert (record is None) == bool(faults)
    assert all("\n" not in fault.line("x") for fault in faults)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("wild_gateway", "198.51.101.1"),
        ("corporate_gateway6", "fd00:51::1"),
        ("corporate_interface", "wild0"),
        ("pool", "10.50.0.0/16"),
        ("pool6", "fd00:50::/32"),
        ("tunnel_address", "10.202.0.1/32"),
        ("tunnel_address6", "fd00:201::/64"),
        ("private_prefix", "8"),
    ],
)
def test_a_portal_that_contradicts_itself(portal_texts: Texts, field: str, text: str) -> None:
    record, faults = parse_portal(portal_texts | {field: text})
    assert record is None
    assert field in {fault.field for fault in faults}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_moments(text: str, expected: datetime) -> None:
    assert fields.moment(text) == expected


@pytest.mark.parametrize(
    "text", ["31.1.2026", "2026-13-01", "2026-01-31T10:00", "0001-01-01T00:00+23:00"]
)
def test_moments_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|time zone"):
        fields.moment(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Example Cable", "example_cable"), ("Câble & Fils", "cable_fils"), ("—", "other")],
)
def test_slugs(text: str, expected: str) -> None:
    assert fields.slug(text) == expected


def test_a_key_has_one_way_to_write_it(key: Callable[[int], str]) -> None:
    canonical = key(4)
    # The last letter before the padding has two bits that mean nothing.
    assert canonical.endswith("AQ=")
    assert fields.public_key(canonical[:-2] + "R=") == canonical
