"""An operator, a moat and an enrolment service to test with."""

from __future__ import annotations

import asyncio
import datetime
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boxes import MOAT, PORTAL
from policies import new_seal

from moatvpn.config import ConnectionConfig
from moatvpn.crypto.seal import Seal
from moatvpn.crypto.self_signed import self_signed
from moatvpn.crypto.sign import Signer, generate_private_key, load_private_key
from moatvpn.enrol.claims import Open, new_token, token_hash
from moatvpn.enrol.desk import Desk
from moatvpn.enrol.documents import (
    Configuration,
    Voucher,
    seal_configuration,
    seal_voucher,
)
from moatvpn.enrol.journal import Journal
from moatvpn.enrol.published import Entry, Published, publish, read_published
from moatvpn.enrol.service import Bounds, Service, server_context

NOW = 1_800_000_000.0
DAY = 86400.0
BEGIN, END = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 9999))


def new_signer() -> Signer:
    """Return a key pair that a box has made."""
    return load_private_key(generate_private_key())


def connection(key: str, **changes: Any) -> ConnectionConfig:
    """Return a moat's connection to a portal that has this key."""
    return ConnectionConfig(
        **{
            "name": "portal",
            "remote_identity": PORTAL.identity,
            "remote_public_keys": (key,),
            "local_selectors": MOAT.networks,
            "remote_selectors": ("0.0.0.0/0", "::/0"),
            "remote_address": PORTAL.wild,
            "initiate": True,
        }
        | changes
    )


PORTAL_KEY = new_signer().public_text


def configuration(serial: int = 1, **changes: Any) -> Configuration:
    """Return the settings of MOAT."""
    return Configuration(
        **{
            "identity": MOAT.identity,
            "serial": serial,
            "connections": (connection(PORTAL_KEY),),
            "servers": ("127.0.0.1",),
        }
        | changes
    )


@dataclass
class Operator:
    """Who signs and publishes: one moat, its claim, and whatever a test puts in its place."""

    seal: Seal = field(default_factory=new_seal)
    token: str = field(default_factory=lambda: new_token(os.urandom))
    expires: float = NOW + DAY
    used_key: str | None = None
    keys: tuple[str, ...] = ()
    handovers: tuple[bytes, ...] = ()
    serial: int = 1
    voucher_serial: int = 1
    settings: Configuration | None = None
    others: tuple[Entry, ...] = ()

    def published(self, certificate: str) -> Published:
        """Return what a service with that certificate is given."""
        claim = Open(token_hash(self.token), MOAT.identity, self.expires, self.used_key)
        settings = self.settings or configuration(self.serial)
        entry = Entry(
            MOAT.identity,
            self.keys,
            (claim,),
            seal_configuration(settings, self.seal),
            settings.serial,
        )
        voucher = seal_voucher(Voucher(certificate, self.voucher_serial), self.seal)
        return read_published(publish(voucher, self.handovers, (entry, *self.others)), "published")


def desk(operator: Operator, directory: Path, certificate: str = "ab" * 32) -> Desk:
    """Return a desk that keeps its journal in directory."""
    journal = Journal(directory / "journal", lambda: NOW)
    return Desk(operator.published(certificate), journal, certificate, os.urandom)


@dataclass
class Running:
    """A service that listens on this machine."""

    desk: Desk
    port: int
    certificate: str

    @property
    def server(self) -> tuple[str, int]:
        """Return where it listens."""
        return "127.0.0.1", self.port


@contextmanager
def running(
    operator: Operator, directory: Path, bounds: Bounds | None = None, now: float = NOW
) -> Iterator[Running]:
    """Run a service on a free port of 127.0.0.1; what it is published is the operator's."""
    pem, certificate = directory / "tls.key", directory / "tls.pem"
    if not pem.exists():
        for path, content in zip((pem, certificate), self_signed("enrol", BEGIN, END), strict=True):
            path.write_bytes(content)
    context, digest = server_context(certificate, pem)
    served = desk(operator, directory, digest)
    service = Service(served, context, os.urandom, bounds=bounds, wall_clock=lambda: now)
    started = threading.Event()
    box: dict[str, Any] = {}

    async def serve() -> None:
        server = await service.listen(["127.0.0.1"], 0)
        box["port"] = server.sockets[0].getsockname()[1]
        box["loop"], box["end"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await box["end"].wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield Running(served, box["port"], digest)
    finally:
        box["loop"].call_soon_threadsafe(box["end"].set)
        thread.join(10)
        served.close()
        assert not thread.is_alive()
