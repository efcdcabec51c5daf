"""OpenVPN 2.6 between two, over UDP, with TLS and certificates that are made for the run."""

from __future__ import annotations

import time
from pathlib import Path

import pki
from boxes import MOAT, PORTAL

from .street import MOAT_WILD, Street, launch

_INSIDE = ("10.8.0.2", "10.8.0.1")  # the tunnel's own addresses, the moat's first
_PORT = "1194"


def start(street: Street) -> None:
    """Start both OpenVPNs; the moat's is the TLS client."""
    after, until = time.time() - pki.DAY, time.time() + pki.DAY
    authority = pki.Authority(kind="p256", after=after, until=until)
    for place, own, ours, role in (
        (street.portal, PORTAL.wild, _INSIDE[::-1], ("--tls-server", "--dh", "none")),
        (street.moat, MOAT_WILD, _INSIDE, ("--tls-client", "--remote", PORTAL.wild)),
    ):
        issued = authority.issue(place.identity, kind="p256", after=after, until=until)
        files = _write(place.directory, authority, issued)
        launch(
            place,
            *("openvpn", "--dev", "tun0", "--dev-type", "tun", "--ifconfig", *ours),
            *("--proto", "udp4", "--local", own, "--port", _PORT, *role, *files),
            *("--data-ciphers", "AES-256-GCM", "--disable-dco", "--verb", "1"),
            *("--persist-key", "--connect-retry", "1", "--route-nopull"),
            *("--route", _behind(own), "255.255.255.0"),
        )


def _behind(own: str) -> str:
    """Return the address of the network behind the peer of the side with this address."""
    network = PORTAL.networks[0] if own == MOAT_WILD else MOAT.networks[0]
    return network.split("/")[0]


def _write(directory: Path, authority: pki.Authority, issued: pki.Issued) -> tuple[str, ...]:
    """Write credentials; return the options that name them."""
    options = []
    for name, content in (
        ("ca", authority.pem),
        ("cert", issued.pem),
        ("key", issued.key_pem()),
    ):
        path = directory / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        options += [f"--{name}", str(path)]
    return tuple(options)
