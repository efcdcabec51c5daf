"""A moat's root file system is read-only in use, for root too; moat-rw opens it for one command."""

from __future__ import annotations

from base64 import b64encode

import lab
import pytest
from testinfra.host import Host

CLOSED = ("/", "/etc", "/etc/systemd/system", "/usr/local/bin", "/opt", "/srv")
OPEN = ("/var/lib", "/tmp", "/etc/moatvpn", "/root", "/home")  # noqa: S108 (the moat's)

# Prints each process for which the root file system is open, whatever mounts of its own it has.
OPEN_FOR = """
from pathlib import Path
for process in Path("/proc").glob("[0-9]*"):
    try:
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        name = (process / "comm").read_text().strip()
    except OSError:
        continue
    root = [fields[5].split(",") for fields in mounts if fields[4] == "/"]
    if root and "ro" not in root[-1]:
        print(name)
"""

# The hour, in seconds.
SOON = b64encode(b"[Timer]\nOnActiveSec=\nOnActiveSec=5s\n").decode()


@pytest.fixture
def moat() -> Host:
    return lab.host("moat")


def refused(moat: Host, place: str) -> bool:
    done = moat.run("touch %s", f"{place}/probe")
    return done.rc == 1 and "Read-only file system" in done.stderr


def open_for() -> list[str]:
    return lab.send_python("moat", OPEN_FOR).split()


def test_no_process_writes_the_root_file_system(moat: Host) -> None:
    assert [place for place in CLOSED if not refused(moat, place)] == []
    assert open_for() == []
    for place in OPEN:
        moat.run_expect([0], "touch %s && rm %s", f"{place}/probe", f"{place}/probe")


def test_a_command_that_may_write_leaves_nothing_open(moat: Host) -> None:
    write = "touch /usr/probe && rm /usr/probe && touch /run/written && sleep 60"
    with lab.service(moat, "writer", "/usr/local/sbin/moat-rw", "/bin/sh", "-c", write):
        lab.wait_for(lambda: moat.file("/run/written").exists, "the command to write", 10)
        assert refused(moat, "/usr")
        assert set(open_for()) == {"sh", "sleep"}
        moat.run_expect([0], "systemctl kill --signal=KILL writer")
    moat.run_expect([0], "rm /run/written")
    assert refused(moat, "/usr")
    assert open_for() == []


def test_a_run_that_fails_leaves_it_open_for_an_hour_at_most(moat: Host) -> None:
    """What site.yml does first; a run that fails never comes to what it does last."""
    settings = "/run/systemd/system/moat-root.timer.d/soon.conf"
    assert "OnActiveSec=1h" in moat.check_output("systemctl cat moat-root.timer")
    write = "mkdir -p %s && echo %s | base64 --decode > %s"
    moat.run_expect([0], write, settings.rpartition("/")[0], SOON, settings)
    moat.run_expect([0], "systemctl daemon-reload && systemctl restart moat-root.timer")
    try:
        moat.run_expect([0], "systemctl stop moat-root.service")
        moat.run_expect([0], "touch /usr/probe && rm /usr/probe")
        # A service with mounts of its own that starts meanwhile has a root of its own, too.
        own = "systemd-run --quiet --collect --unit=own --property=PrivateTmp=yes -- sleep 600"
        moat.run_expect([0], own)
        assert "sleep" in open_for()
        lab.wait_for(lambda: refused(moat, "/usr") and not open_for(), "all is closed", 20)
    finally:
        moat.run_expect([0, 5], "systemctl stop own")
        moat.run_expect([0], "rm -r %s && systemctl daemon-reload", settings.rpartition("/")[0])
        moat.run_expect([0], "systemctl start moat-root && systemctl stop moat-root.timer")
