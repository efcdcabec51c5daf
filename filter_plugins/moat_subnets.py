"""Filters about subnets: moatvpn.subnets, carried over to Ansible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

if find_spec("moatvpn") is None:
    # Run from a checkout, with an Ansible whose environment moatvpn is not installed in.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn import subnets


def moat_allocate_subnet(pool: Any, prefix_length: Any, taken: Any = ()) -> str:
    """Return the lowest subnet of prefix_length in pool that overlaps none of taken."""
    network = _network("moat_allocate_subnet", pool)
    if not isinstance(prefix_length, int) or isinstance(prefix_length, bool):
        raise AnsibleFilterError(
            f"moat_allocate_subnet: prefix_length is {type(prefix_length).__name__}, not an integer"
        )
    used = _networks("moat_allocate_subnet", taken)
    try:
        return str(subnets.SubnetPool(network, used).allocate(prefix_length))
    except ValueError as error:
        raise AnsibleFilterError(f"moat_allocate_subnet: {error}") from error


def moat_overlaps(networks: Any) -> list[str]:
    """Return the first two of networks that share an address, an empty list where none do."""
    pair = subnets.first_overlap(_networks("moat_overlaps", networks))
    return [] if pair is None else [str(each) for each in pair]


def moat_contains(pool: Any, network: Any) -> bool:
    """Tell whether network lies in pool."""
    return subnets.contains(_network("moat_contains", pool), _network("moat_contains", network))


def moat_router_address(network: Any) -> str:
    """Return the first host address of network, with its prefix length."""
    try:
        return str(subnets.router_address(_network("moat_router_address", network)))
    except ValueError as error:
        raise AnsibleFilterError(f"moat_router_address: {error}") from error


def moat_lease_range(network: Any) -> list[str]:
    """Return the first and the last address of network that are given out as leases."""
    try:
        return [str(each) for each in subnets.lease_range(_network("moat_lease_range", network))]
    except ValueError as error:
        raise AnsibleFilterError(f"moat_lease_range: {error}") from error


def moat_network_of(address: Any) -> str:
    """Return the network that an address with its prefix length lies in."""
    if not isinstance(address, str):
        raise AnsibleFilterError("moat_network_of: give an address as a string")
    try:
        return str(subnets.parse_interface(address).network)
    except ValueError as error:
        raise AnsibleFilterError(f"moat_network_of: {error}") from error


def _network(name: str, value: Any) -> subnets.Network:
    if not isinstance(value, str):
        raise AnsibleFilterError(f"{name}: {type(value).__name__} is no string with a network")
    try:
        return subnets.parse_network(value)
    except ValueError as error:
        raise AnsibleFilterError(f"{name}: {error}") from error


def _networks(name: str, values: Any) -> list[subnets.Network]:
    if not isinstance(values, list | tuple):
        raise AnsibleFilterError(f"{name}: {type(values).__name__} is no list of networks")
    return [_network(name, value) for value in values]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "moat_allocate_subnet": moat_allocate_subnet,
            "moat_overlaps": moat_overlaps,
            "moat_contains": moat_contains,
            "moat_router_address": moat_router_address,
            "moat_lease_range": moat_lease_range,
            "moat_network_of": moat_network_of,
        }
