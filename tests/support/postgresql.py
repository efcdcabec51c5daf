"""A PostgreSQL server of the tests' own: in a directory of its own, on a Unix socket alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine

_LIBRARY = Path("/usr/lib/postgresql")
# Seconds that a loaded machine may take to start it.
_PATIENCE = 60.0


@contextmanager
def postgresql() -> Iterator[URL]:
    """Yield the URL of a running server's database postgres; stop and remove it at the end.

    The server refuses to run as root, so it then runs as the user postgres of Debian's package.
    """
    # Not below pytest's own directory, which is closed to others.
    directory = Path(tempfile.mkdtemp(prefix="moat-postgresql-"))
    user = "postgres" if os.geteuid() == 0 else None
    try:
        if user is not None:
            shutil.chown(directory, user)
        owner = user or pwd.getpwuid(os.geteuid()).pw_name
        url = URL.create(
            "postgresql+psycopg", owner, database="postgres", query={"host": str(directory)}
        )
        programs = max(_LIBRARY.iterdir(), key=lambda path: int(path.name)) / "bin"
        data = directory / "data"
        options = (
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
        _run([programs / "initdb", *options, "--pgdata", data], directory, user)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "32MB",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (directory / "log").open("w") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *words],
                cwd=directory,
                user=user,
                stdout=log,
                stderr=log,
            )
        try:
            _await(url, server, directory / "log")
            yield url
        finally:
            # SIGQUIT: at once, since nothing is to be kept.
            server.send_signal(3)
            server.wait(timeout=_PATIENCE)
    finally:
        shutil.rmtree(directory)


def _run(words: list[str | Path], directory: Path, user: str | None) -> None:
    subprocess.run(words, cwd=directory, user=user, check=True, capture_output=True)


def _await(url: URL, server: subprocess.Popen[bytes], log: Path) -> None:
    engine: Engine = create_engine(url)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with engine.connect():
                break
        except Exception as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no PostgreSQL: {log.read_text()}") from error
            time.sleep(0.02)
    engine.dispose()
