"""wireguard-go, whose control sockets have one directory for the whole machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from boxes import MOAT, PORTAL, Namespace, run, wait_for

from .street import MOAT_WILD, Street, launch

_PORT = "51820"
_SOCKETS = Path("/var/run/wireguard")


def _interface(place: Namespace) -> str:
    # Not the same on both sides, nor in two runs at once: the control socket is called after it.
    return f"wg{place.namespace.rpartition('-')[2][0]}{os.getpid()}"


def start(street: Street) -> None:
    """Start both wireguard-gos with keys made for the run."""
    keys = [run("wg", "genkey").stdout.strip() for _ in street.ends]
    names = [_interface(place) for place in street.ends]
    for place, name, key in zip(street.ends, names, keys, strict=True):
        launch(place, "wireguard-go", "--foreground", name)
        wait_for((_SOCKETS / f"{name}.sock").exists, "wireguard-go", 10)
        path = place.directory / "private.key"
        path.touch(mode=0o600)
        path.write_text(key)
        place.run("wg", "set", name, "private-key", str(path), "listen-port", _PORT)
        place.ip("link", "set", name, "up", "mtu", "1420")
    publics = [
        place.run("wg", "show", name, "public-key").stdout.strip()
        for place, name in zip(street.ends, names, strict=True)
    ]
    for place, name, peer, address, network in (
        (street.moat, names[0], publics[1], PORTAL.wild, PORTAL.networks[0]),
        (street.portal, names[1], publics[0], MOAT_WILD, MOAT.networks[0]),
    ):
        place.run(
            *("wg", "set", name, "peer", peer, "allowed-ips", network),
            *("endpoint", f"{address}:{_PORT}"),
        )
    street.lead_into(*names)


def tidy(street: Street) -> None:
    """Remove the control sockets, which a program that was killed leaves behind."""
    for place in street.ends:
        with suppress(OSError):
            (_SOCKETS / f"{_interface(place)}.sock").unlink(missing_ok=True)
