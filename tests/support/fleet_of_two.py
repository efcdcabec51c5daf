"""The customer database of a pair of boxes: one portal, and one customer whose moat is served."""

from __future__ import annotations

from boxes import MOAT, PORTAL

CUSTOMER = "c0001"
PORTAL_TEXTS = {
    "portal": PORTAL.identity,
    "wild_address": f"{PORTAL.wild}/24",
    "wild_gateway": "192.0.2.254",
    "corporate_address": f"{PORTAL.inside}/24",
    "corporate_address6": f"{PORTAL.inside6}/64",
    "corporate_gateway": "10.50.0.10",
    "corporate_gateway6": "fd00:50::10",
    "pool": "10.201.0.0/16",
    "pool6": "fd00:201::/32",
    "tunnel_address": "10.201.0.1/32",
    "tunnel_address6": "fd00:201::1/128",
}
CUSTOMER_TEXTS = {
    "customer": CUSTOMER,
    "name": "Ada Example",
    "isp": "Example Cable",
    "portal": PORTAL.identity,
    "moat": MOAT.identity,
    "private_subnet": MOAT.networks[0],
    "private_subnet6": MOAT.networks[1],
    "status": "active",
}
