"""moat-enrolled: serves what an operator has published to the moats that ask for it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from moatvpn.cli.policy_files import read_octets, write_whole
from moatvpn.crypto.self_signed import self_signed
from moatvpn.daemon.keyfile import create_private
from moatvpn.daemon.notify import Notifier
from moatvpn.enrol.desk import Desk
from moatvpn.enrol.journal import Journal
from moatvpn.enrol.published import read_published
from moatvpn.enrol.service import PORT, Service, server_context
from moatvpn.errors import OperatorError

REFUSED = 1
# RFC 5280, 4.1.2.5: a certificate that has no end. It is pinned by its hash, and no clock counts.
_BEGIN, _END = datetime(2020, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_REPORT = 600.0  # seconds between two lines of counters


class Source:
    """The published file at path, read again when another one has come in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self.desk: Desk | None = None
        self.published = read_published(read_octets(path), str(path))
        self._seen = self._stamp()

    def refresh(self) -> None:
        """Have the desk serve the file of now; one that is not whole is told of, and left out."""
        stamp = self._stamp()
        if stamp == self._seen or self.desk is None:
            return
        self._seen = stamp
        try:
            self.desk.published = read_published(read_octets(self._path), str(self._path))
        except OperatorError as error:
            _say(f"still serving what was published before: {error}")

    def _stamp(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = self._path.stat()
            return found.st_ino, found.st_mtime_ns
        return None


def _say(text: str) -> None:
    print(f"moat-enrolled: {text}", file=sys.stderr, flush=True)


def _keygen(arguments: argparse.Namespace) -> int:
    key, certificate = self_signed("moat-enrolled", _BEGIN, _END)
    changed = create_private(arguments.private_key, lambda: key)
    if changed:
        write_whole(arguments.certificate, certificate)
    print(json.dumps({"changed": changed}))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    source = Source(arguments.published)
    context, digest = server_context(arguments.certificate, arguments.private_key)
    journal = Journal(arguments.state / "journal", time.time)
    desk = source.desk = Desk(source.published, journal, digest, os.urandom)
    service = Service(desk, context, os.urandom, refresh=source.refresh)
    try:
        asyncio.run(_run(service, desk, arguments.listen, arguments.port))
    finally:
        desk.close()
    return 0


async def _run(service: Service, desk: Desk, addresses: list[str], port: int) -> None:
    server = await service.listen(addresses, port)
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    Notifier(os.environ).send("READY=1")
    _say(f"ready on TCP port {server.sockets[0].getsockname()[1]}")
    told: dict[str, int] = {}
    while not end.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), _REPORT)
        now = {str(name): number for name, number in sorted(desk.counters.items())}
        if now != told:
            _say(f"counters: {json.dumps(now)}")
            told = now
    server.close()


def parser() -> argparse.ArgumentParser:
    """Return the parser of moat-enrolled's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--certificate", type=Path, required=True, help="PEM")
    common.add_argument("--private-key", type=Path, required=True, help="PEM, mode 0600")
    top = argparse.ArgumentParser(
        prog="moat-enrolled",
        description="Serves moats that enrol.",
        epilog="Exit status: 0 done, 1 refused, 2 wrong usage.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    about = "make the service's key and certificate, once"
    making = commands.add_parser("keygen", help=about, description=about, parents=[common])
    making.set_defaults(run=_keygen)
    about = "serve until told to end"
    serving = commands.add_parser("serve", help=about, description=about, parents=[common])
    serving.add_argument("--published", type=Path, required=True, help="the operator's file")
    serving.add_argument("--state", type=Path, required=True, help="the journal's directory")
    serving.add_argument("--listen", nargs="+", required=True, metavar="ADDRESS")
    serving.add_argument("--port", type=int, default=PORT)
    serving.set_defaults(run=_serve)
    return top


def main(words: list[str] | None = None) -> int:
    """Run moat-enrolled; return its exit status: 0, 1 refused, 2 usage."""
    arguments = parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except OperatorError as error:
        _say(str(error))
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
