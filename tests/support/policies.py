"""A policy to test with, and how one is written, compiled and signed."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from moatvpn.crypto.seal import Seal, generate_seal, load_seal
from moatvpn.policy.compile import compile_policy
from moatvpn.policy.language import Policy, read_policy
from moatvpn.policy.rules import Compiled, Customer
from moatvpn.policy.signed import seal_policy

PASSPHRASE = b"correct horse battery staple"
CUSTOMER = Customer(
    "c0001",
    "default",
    "moat1.example.net",
    (ipaddress.ip_network("10.201.1.0/24"), ipaddress.ip_network("fd00:c:1::/64")),
)


def source(**changes: Any) -> dict[str, Any]:
    """Return a policy as its YAML would be read, with changes at the top."""
    return {
        "name": "telecommuters",
        "version": 7,
        "groups": {"engineers": ["c0001", "c0002"]},
        "destinations": {"meetings": ["198.51.100.0/25", "2001:db8:77::/48"]},
        "services": {"web": ["tcp/80", "tcp/443", "udp/443"]},
        "rules": [
            {
                "name": "no-mail",
                "who": "everybody",
                "where": "anywhere",
                "what": "tcp/25",
                "action": "deny",
            },
            {
                "name": "meetings",
                "who": {"groups": "engineers"},
                "where": ["meetings"],
                "what": ["web", "udp/3478-3481"],
                "action": "allow",
                "way": "direct",
            },
        ],
        "examples": {
            "must-pass": [
                {"who": "everybody", "to": "203.0.113.7", "what": "tcp/443", "way": "tunnel"},
                {
                    "who": {"groups": "engineers"},
                    "to": "198.51.100.7",
                    "what": "tcp/443",
                    "way": "direct",
                },
            ],
            "must-block": [{"who": "everybody", "to": "198.51.100.7", "what": "tcp/25"}],
        },
    } | changes


def read(content: dict[str, Any]) -> Policy:
    """Return the policy that content, written as YAML, is."""
    return read_policy(json.dumps(content, indent=1), "policy.yml")  # JSON is YAML, too


def compiled(customer: Customer = CUSTOMER, **changes: Any) -> Compiled:
    """Return the policy of source(), compiled for customer."""
    return compile_policy(read(source(**changes)), customer)


def new_seal() -> Seal:
    """Return a signing key nobody has seen."""
    return load_seal(generate_seal(PASSPHRASE), PASSPHRASE)


def signed(seal: Seal, customer: Customer = CUSTOMER, **changes: Any) -> bytes:
    """Return the signed file of the policy of source()."""
    return seal_policy(compiled(customer, **changes), seal)
