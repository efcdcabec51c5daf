"""Two moatds with a process for each way of the packets: the core of test_two_daemons, and more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import MOAT, PORTAL, Box, new_box, wait_for
from pair import Pair
from test_two_daemons import (  # noqa: F401  (they run here, too, with the tunnel below)
    INSIDE,
    test_a_rekey_during_a_transfer_loses_nothing,
    test_a_transfer_arrives_whole,
    test_an_orderly_end_tells_the_peer,
    test_pings_of_every_size,
    test_the_moats_wild_address_changes,
    test_without_a_tunnel_raw_packets_are_dropped,
)
from traffic import pings

from moatvpn.daemon.workers import OPENING, SEALING


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A tunnel in UDP that is up; both ends have workers."""
    directory = tmp_path_factory.mktemp("boxes")
    with (
        new_box(directory, "m", MOAT.identity, workers="on") as moat,
        new_box(directory, "p", PORTAL.identity, workers="on") as portal,
    ):
        pair = Pair(moat, portal, "udp")
        pair.start()
        yield pair


def workers_of(box: Box) -> dict[str, int]:
    """Return the process ids of a running moatd's workers, by name."""
    assert box.daemon is not None
    children = Path(f"/proc/{box.daemon.pid}/task/{box.daemon.pid}/children").read_text().split()
    return {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in children}


def descriptors(pid: int) -> list[str]:
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def test_each_way_has_a_process_that_holds_no_more_than_it_needs(pair: Pair) -> None:
    workers = workers_of(pair.moat)
    assert set(workers) == {SEALING, OPENING}
    for pid in workers.values():
        held = descriptors(pid)
        assert held.count("/dev/net/tun") == 1
        # Its link to moatd, the raw socket, and the queue of envelopes at port 4500.
        assert len([each for each in held if each.startswith("socket:")]) == 3


def test_both_ends_count_what_went_both_ways(pair: Pair) -> None:
    def rows() -> tuple[dict[str, Any], dict[str, Any]]:
        return pair.moat.connection("portal1"), pair.portal.connection("m0001")

    before = rows()
    with pings(pair.moat, INSIDE, 50) as answers:
        pass
    assert answers.received == 50

    def agreed() -> bool:
        here, there = (
            {key: new[key] - old[key] for key in old if key.startswith(("packets", "bytes"))}
            for old, new in zip(before, rows(), strict=True)
        )
        return (
            here["packets_out"] == there["packets_in"] >= 50
            and there["packets_out"] == here["packets_in"] >= 50
            and here["bytes_out"] == there["bytes_in"] > 0
            and there["bytes_out"] == here["bytes_in"] > 0
        )

    wait_for(agreed, "both ends to agree", 5)
    for old, new in zip(before, rows(), strict=True):
        # Several packets may share an envelope.
        assert new["envelopes_in"] > old["envelopes_in"]
        assert new["sequence_out"] > old["sequence_out"]


def test_the_path_is_measured(pair: Pair) -> None:
    """Probes leave one process, their answers come to the other one."""
    for box, name in ((pair.moat, "portal1"), (pair.portal, "m0001")):
        wait_for(lambda: box.connection(name)["path_mtu"] == 1500, "the path's MTU", 5)  # noqa: B023


@pytest.mark.parametrize("name", [SEALING, OPENING])
def test_without_a_worker_moatd_ends_and_says_so(pair: Pair, name: str) -> None:
    portal = pair.portal
    workers = workers_of(portal)
    assert portal.daemon is not None
    os.kill(workers.pop(name), signal.SIGKILL)
    assert portal.daemon.wait(10) == 1
    assert f"{name}: has ended" in portal.log.read_text()
    (other,) = workers.values()
    wait_for(lambda: not Path(f"/proc/{other}").exists(), "the other worker's end", 5)
    portal.start()
    assert pair.wait_until_up(5) < 5


def test_without_moatd_its_workers_end(pair: Pair) -> None:
    workers = workers_of(pair.moat)
    pair.moat.kill(signal.SIGKILL)
    for pid in workers.values():
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "a worker's end", 5)  # noqa: B023
    pair.moat.start()
    assert pair.wait_until_up(5) < 5
