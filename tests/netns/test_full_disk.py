"""A disk that is full stops no tunnel: what cannot be written is lost, counted, and tried again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, Box, new_box, run, wait_for
from pair import Pair


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        run("umount", "--lazy", str(disk))


def fill(path: Path) -> None:
    """Make a file longer until no octet is free, not even in its last page."""
    with path.open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\n" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - it ends the loop


def renewed(moat: Box, spi: str, before: str) -> Callable[[], bool]:
    return lambda: moat.connection("portal1")[spi] != before


def test_a_tunnel_carries_on_and_is_renewed_on_a_full_disk(small_disk: Path) -> None:
    with (
        new_box(small_disk, "m", MOAT.identity) as moat,
        new_box(small_disk, "p", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, "auto")
        pair.start()
        for path in (small_disk / "waste", moat.log, portal.log):
            fill(path)
        before = moat.connection("portal1")
        for sa, spi in (("child", "spi_out"), ("ike", "ike_spi_i")):
            moat.ctl("rekey", "portal1", sa)
            wait_for(renewed(moat, spi, before[spi]), f"fresh keys of the {sa} SA", 10)
        assert pair.pings()
        for box in (moat, portal):
            # The log is on this disk as well.
            assert box.drops()["log-overflow"] > 0
