"""Addresses of the wild side as values."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from moatvpn.wire.endpoint import Endpoint


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.0.2.1", "255.255.255.255", "2001:db8::1", "::ffff:192.0.2.1"]
)
def test_host_octets(host: str) -> None:
    assert Endpoint(host, 500).host_octets == ip_address(host).packed


@pytest.mark.parametrize("host", ["", "192.0.2", "192.0.2.256", "192.0.2.-1", "a.b.c.d", "name"])
def test_what_is_no_address_has_no_octets(host: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        _ = Endpoint(host, 500).host_octets
