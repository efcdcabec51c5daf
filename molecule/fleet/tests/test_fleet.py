"""A day of a fleet, in order: keys, a killed controller, thieves; and traffic all the while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import lab
import pytest
from conftest import MOATS, Fleet, Talk

REVOKED = MOATS[21:]
KEPT = MOATS[:21]
# Of one answer, in seconds: a lost packet of TCP comes again after 0.2 s or a little more.
PATIENCE = 2.0
pytestmark = pytest.mark.timeout(600)


def fingerprints(portal: str) -> dict[str, str]:
    """Return by which key each moat has proved itself to a portal."""
    rows = lab.status(lab.host(portal))["connections"]
    return {row["remote_identity"].partition(".")[0]: row["remote_key"] for row in rows}


def test_every_moat_has_a_tunnel(talk: Talk) -> None:
    talk.wait_for_more(*MOATS)
    assert set(fingerprints("portal")) == set(MOATS)


def test_a_controller_is_killed_in_the_middle_of_a_rotation(
    fleet: Fleet, talk: Talk, clear_packets: Callable[[], str]
) -> None:
    process = fleet.start(
        "rotate", "moats", "--yes", "--older-than=0", "--canaries=2", "--wave=22"
    )  # fmt: skip
    middle = {"prove", "finish", "replace", "distrust"}

    def is_in_the_middle() -> bool:
        assert process.poll() is None, process.communicate()[0]
        states = [state for name, state in fleet.ledger("rotate").items() if name in MOATS[2:]]
        return any(state in middle for state in states)

    # It begins with an empty ledger, which `show` refuses.
    lab.wait_for(lambda: fleet.run("rotate", "show")[0] == 0, "a ledger", 30)
    lab.wait_for(is_in_the_middle, "the second wave's switch", 300)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    talk.wait_for_more(*MOATS)


def test_who_is_revoked_is_out_within_ten_seconds(fleet: Fleet, talk: Talk) -> None:
    customers = [name.replace("m", "c") for name in REVOKED]
    began = time.monotonic()
    fleet.did("revoke", "--yes", *customers)
    lab.wait_for(lambda: not set(REVOKED) & set(fingerprints("portal")), "their end", 30)
    took = time.monotonic() - began
    assert took < 10, took
    before = talk.heard(*REVOKED)
    talk.wait_for_more(*KEPT)
    assert {name: row["count"] for name, row in talk.heard(*REVOKED).items()} == {
        name: row["count"] for name, row in before.items()
    }


def test_the_next_run_finishes_the_rotation(fleet: Fleet, talk: Talk) -> None:
    before = fingerprints("portal")

    def goes_on() -> bool:
        # The dead controller's lock ends by itself.
        status, said = fleet.run("rotate", "moats", "--yes")
        assert status == 0 or "lock rotate: held by" in said, said
        return status == 0

    lab.wait_for(goes_on, "the end of the rotation", 300, 5)
    ledger = fleet.ledger("rotate")
    assert {name for name, state in ledger.items() if state == "left"} == set(REVOKED)
    assert {state for name, state in ledger.items() if name in KEPT} == {"done"}
    assert set(fingerprints("portal")) == set(KEPT) == set(before)
    talk.wait_for_more(*KEPT)


def test_a_portal_gets_a_new_key(fleet: Fleet, talk: Talk) -> None:
    before = lab.status(lab.host(MOATS[0]))["connections"][0]["remote_key"]
    fleet.did("rotate", "portals", "portal1.example.net", "--older-than=0", "--yes")
    after = {
        lab.status(lab.host(name))["connections"][0]["remote_key"] for name in (MOATS[0], KEPT[-1])
    }
    assert len(after) == 1
    assert before not in after
    talk.wait_for_more(*KEPT)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    assert fleet.did("rotate", "moats", "--yes") == "nothing to do\n"
    assert fleet.did("rotate", "portals", "portal1.example.net", "--yes") == "nothing to do\n"


def test_nothing_was_broken_and_nothing_was_in_clear(
    talk: Talk, clear_packets: Callable[[], str]
) -> None:
    for name, row in talk.heard(*KEPT).items():
        assert row["broken"] is None, (name, row)
        assert row["longest"] < PATIENCE, (name, row)
        assert row["count"] > 100, (name, row)
    assert clear_packets() == ""
