"""Routes of a box that come and go at run time: what the kernel has, against what is wanted."""

from __future__ import annotations

import ipaddress
import json


def wanted_routes(given):
    """Return the routes given, each as (destination, device, router or None), in one way to write.

    Raises ValueError for what is no network, no router, or one of the other family.
    """
    routes = set()
    for each in given:
        network = ipaddress.ip_network(each["destination"])
        router = ipaddress.ip_address(each["via"]) if each.get("via") else None
        if router is not None and router.version != network.version:
            raise ValueError(f"{router} is no router to {network}")
        routes.add((str(network), each["device"], None if router is None else str(router)))
    return routes


def kernel_routes(listing):
    """Return the routes in what `ip -json route show` has said, as wanted_routes does.

    A destination without a prefix length is one address, as ip writes it.
    """
    found = set()
    for each in json.loads(listing or "[]"):
        network = str(ipaddress.ip_network(each["dst"])) if each["dst"] != "default" else "default"
        found.add((network, each["dev"], each.get("gateway")))
    return found


def batch(wanted, present, marks):
    """Return what `ip -batch` is to do so that present becomes wanted; marks say whose they are.

    What is wanted comes first, so that a destination is never without its route. One that has
    another way now is replaced by that.
    """
    lines = []
    for destination, device, router in sorted(wanted - present, key=str):
        way = f"via {router} dev {device}" if router else f"dev {device}"
        lines.append(f"route replace {destination} {way} {marks}")
    kept = {destination for destination, _, _ in wanted}
    for destination, device, _ in sorted(present - wanted, key=str):
        if destination not in kept:
            lines.append(f"route delete {destination} dev {device} {marks}")
    return lines
