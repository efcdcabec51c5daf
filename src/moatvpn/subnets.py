"""Which subnet belongs to whom: parsing, overlap, and allocation out of a pool.

Standard library only, so that the customer database and the Ansible filters share it. Every
function raises ValueError, with a sentence that names the value at fault.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def parse_network(text: str, version: int | None = None) -> Network:
    """Return the network that text, such as 10.1.2.0/24, writes.

    A prefix length must be given, and no bit beyond it may be set: a network written loosely is
    more often a mistake than a short form. version, 4 or 6, refuses the other family.
    """
    address = _split(text)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP network ({error})") from error
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(f"{text!r} has host bits set (its network is {network})")
    _check_version(text, network.version, version)
    return network


def parse_interface(text: str, version: int | None = None) -> Interface:
    """Return the address with its network that text, such as 10.1.2.1/24, writes.

    It must be an address that a host can hold: not the network's own address nor, in IPv4, its
    broadcast address, where the prefix leaves room for those (RFC 3021 exempts a /31).
    """
    _split(text)
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP address with a prefix length ({error})") from error
    _check_version(text, interface.version, version)
    network = interface.network
    if network.prefixlen < network.max_prefixlen - 1 and (
        interface.ip == network.network_address
        or (interface.version == 4 and interface.ip == network.broadcast_address)
    ):
        raise ValueError(f"{text!r} is the network's or the broadcast address, not a host's")
    return interface


def _split(text: str) -> str:
    """Return what stands before the prefix length, which must be there, as a number."""
    address, _, length = text.partition("/")
    # A mask (/255.255.255.0) and an interface's zone (%eth0) mean nothing in a plan of addresses.
    if not length.isascii() or not length.isdigit() or "%" in address:
        raise ValueError(f"{text!r} is not ADDRESS/PREFIX-LENGTH")
    return address


def _check_version(text: str, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise ValueError(f"{text!r} is IPv{found}, not IPv{wanted}")


def overlaps(one: Network, other: Network) -> bool:
    """Tell whether the networks share an address; those of two families never do."""
    return (
        one.version == other.version
        and _first(one) <= _last(other)
        and (_first(other) <= _last(one))
    )


def contains(outer: Network, inner: Network) -> bool:
    """Tell whether every address of inner is one of outer's."""
    return outer.version == inner.version and (
        _first(outer) <= _first(inner) and _last(inner) <= _last(outer)
    )


def first_overlap(networks: Iterable[Network]) -> tuple[Network, Network] | None:
    """Return a pair of networks that share an address, None where no two do.

    The cost is that of sorting. The pair is the first in order of address, so that one input
    always gives one answer.
    """
    widest: Network | None = None
    for network in sorted(networks, key=lambda each: (each.version, _first(each), each.prefixlen)):
        # Two networks are disjoint or nested, so the last one that was no part of another is
        # the only one before it that this one can lie in.
        if widest is not None and overlaps(widest, network):
            return widest, network
        widest = network
    return None


def router_address(subnet: Network) -> Interface:
    """Return the first host address of subnet with its prefix length: the router's own.

    Raises ValueError for a subnet that has no room for a router and a host beside it.
    """
    if subnet.prefixlen > subnet.max_prefixlen - 2:
        raise ValueError(f"{subnet} is too small for a router and its hosts")
    own = int(subnet.network_address) + 1, subnet.prefixlen
    if isinstance(subnet, ipaddress.IPv4Network):
        return ipaddress.IPv4Interface(own)
    return ipaddress.IPv6Interface(own)


def lease_range(subnet: Network) -> tuple[IPAddress, IPAddress]:
    """Return the first and the last address of subnet that a server gives out by itself.

    In IPv4 the first quarter is left to addresses that people choose, the router's own among
    them. In IPv6 it is 65,536 addresses at most, the second such part of the subnet where there
    is one. Raises ValueError for a subnet that has no room for a router and a host beside it.
    """
    router = router_address(subnet).ip
    if subnet.version == 4:
        first = subnet.network_address + max(subnet.num_addresses // 4, 2)
        return first, subnet.network_address + (subnet.num_addresses - 2)
    size = min(subnet.num_addresses // 2, 0x10000)
    return router + (size - 1), router + (2 * size - 2)


class OverlapError(ValueError):
    """A subnet that cannot be given because other, which is taken, shares addresses with it."""

    def __init__(self, subnet: Network, other: Network) -> None:
        super().__init__(f"{subnet} overlaps {other}")
        self.subnet = subnet
        self.other = other


class SubnetPool:
    """A network out of which subnets are given, never two that overlap.

    claim() takes a certain subnet, allocate() the lowest free one. Both cost the logarithm of
    the number of subnets taken (and, for the list's sake, one memory move); allocate() resumes
    where it last stopped, so that giving out all of a pool looks at each subnet once.
    """

    def __init__(self, network: Network, taken: Iterable[Network] = ()) -> None:
        """Start with the subnets in taken given away; those elsewhere do not matter here.

        taken may hold subnets that overlap each other: what is given out avoids them all.
        """
        self.network = network
        # Disjoint and ascending: the first address of each, and beside it the subnet.
        self._firsts: list[int] = []
        self._taken: list[Network] = []
        # For each prefix length, the first address that may still begin a free subnet.
        self._resume: dict[int, int] = {}
        for subnet in sorted(
            (each for each in taken if overlaps(each, network)),
            key=lambda each: (_first(each), each.prefixlen),
        ):
            if not self._taken or not overlaps(self._taken[-1], subnet):
                self._firsts.append(_first(subnet))
                self._taken.append(subnet)

    def check(self, subnet: Network) -> None:
        """Raise ValueError where subnet is outside the pool, OverlapError where it is not free."""
        if not contains(self.network, subnet):
            raise ValueError(f"{subnet} does not lie in the pool {self.network}")
        blocker = self._blocker(_first(subnet), _last(subnet))
        if blocker is not None:
            raise OverlapError(subnet, blocker)

    def claim(self, subnet: Network) -> None:
        """Take subnet, or raise as check() does."""
        self.check(subnet)
        self._take(subnet)

    def allocate(self, prefix_length: int) -> Network:
        """Take and return the lowest free subnet of prefix_length; ValueError where none is."""
        if not self.network.prefixlen <= prefix_length <= self.network.max_prefixlen:
            raise ValueError(f"no subnet of /{prefix_length} fits in the pool {self.network}")
        size = 1 << (self.network.max_prefixlen - prefix_length)
        first = self._resume.get(prefix_length, _first(self.network))
        while first + size - 1 <= _last(self.network):
            blocker = self._blocker(first, first + size - 1)
            if blocker is None:
                subnet = _network(self.network, first, prefix_length)
                self._take(subnet)
                self._resume[prefix_length] = first + size
                return subnet
            # On to the first aligned address behind what blocks, which lies at first or above.
            first = (_last(blocker) // size + 1) * size
        raise ValueError(f"the pool {self.network} has no free subnet of /{prefix_length} left")

    def _blocker(self, first: int, last: int) -> Network | None:
        """Return the highest taken subnet that shares an address with first..last."""
        index = bisect_right(self._firsts, last) - 1
        return self._taken[index] if index >= 0 and _last(self._taken[index]) >= first else None

    def _take(self, subnet: Network) -> None:
        index = bisect_right(self._firsts, _first(subnet))
        self._firsts.insert(index, _first(subnet))
        self._taken.insert(index, subnet)


def _network(pool: Network, first: int, prefix_length: int) -> Network:
    if pool.version == 4:
        return ipaddress.IPv4Network((first, prefix_length))
    return ipaddress.IPv6Network((first, prefix_length))


def _first(network: Network) -> int:
    return int(network.network_address)


def _last(network: Network) -> int:
    return int(network.broadcast_address)
