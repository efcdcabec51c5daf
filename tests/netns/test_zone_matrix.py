"""The zone matrix by real packets: every ordered pair of zones, with up to five VPNs and a kid-net.

One star of cables serves all boxes. All packets of a box are sent, then all that came out are
looked at. What was expected and seen goes to build/matrix.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from boxes import wait_for
from lockdown_boxes import KID, further, moat
from matrix_page import Row, page
from zone_packets import MARKER, PROBES, packet, passes, source_port
from zone_star import Star

from moatvpn.lockdown.matrix import Pair, matrix
from moatvpn.lockdown.readback import differences
from moatvpn.lockdown.zones import LOCAL, Box

PAGE = Path(__file__).parents[2] / "build" / "matrix.html"


def box_of(vpns: int, kid: bool) -> Box:
    return moat(vpns=[further(n) for n in range(1, vpns)], **(KID if kid else {}))


BOXES = {
    f"{vpns} {'VPN' if vpns == 1 else 'VPNs'}{', kid-net' if kid else ''}": box_of(vpns, kid)
    for vpns in range(1, 6)
    for kid in (False, True)
}


@pytest.fixture(scope="module")
def star() -> Iterator[Star]:
    made = Star(box_of(5, kid=True), f"z{os.getpid() % 100_000}")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """The rows of the page, which is written at the end."""
    collected: list[Row] = []
    yield collected
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(collected), encoding="utf-8")


def addresses(star: Star, pair: Pair, family: int) -> tuple[str, str]:
    """Return the addresses of a packet from the one zone to the other."""
    a, b = pair
    if b is LOCAL:
        here = star.places[a.interface]
        return (here.theirs, here.ours) if family == 4 else (here.theirs6, here.ours6)
    there = star.places[b.interface]
    if a is LOCAL:
        return (there.ours, there.theirs) if family == 4 else (there.ours6, there.theirs6)
    here = star.places[a.interface]
    if a is b:
        return (here.theirs, here.other) if family == 4 else (here.theirs6, here.other6)
    return (here.theirs, there.theirs) if family == 4 else (here.theirs6, there.theirs6)


def ask(star: Star, box: Box, name: str) -> list[Row]:
    """Send every kind of packet between every pair of zones; return what came of each.

    What comes out elsewhere is a row of its own, which nobody expects.
    """
    asked = []
    for pair, verdict in matrix(box).items():
        if pair == (LOCAL, LOCAL):
            continue
        for probe in PROBES:
            number = len(asked)
            source, destination = addresses(star, pair, probe.family)
            star.send(pair[0], packet(probe, source, destination, number))
            expected = passes(verdict, probe, source_port(probe, number))
            asked.append((pair, probe, expected))
    due = {(pair[1].interface, n) for n, (pair, _, expected) in enumerate(asked) if expected}
    seen: set[tuple[str, int]] = set()

    def came() -> bool:
        for interface, packets in star.arrived().items():
            numbers = (data[data.index(MARKER) + len(MARKER) :][:4] for data in packets)
            seen.update((interface, int.from_bytes(number, "big")) for number in numbers)
        return due <= seen

    with suppress(AssertionError):  # the rows tell what is missing
        wait_for(came, "what is to pass", 3)
    rows = [
        Row(name, pair[0].name, pair[1].name, str(probe), expected, (pair[1].interface, n) in seen)
        for n, (pair, probe, expected) in enumerate(asked)
    ]
    for interface, number in seen:
        (a, b), probe, _ = asked[number]
        if interface not in {a.interface, b.interface}:  # answers go to who has asked
            rows.append(Row(name, a.name, f"{b.name}, at {interface}", str(probe), False, True))
    return rows


@pytest.mark.parametrize("name", BOXES)
def test_what_passes_is_what_the_matrix_says(star: Star, rows: list[Row], name: str) -> None:
    box = BOXES[name]
    star.load(box)
    assert differences(box, star.listing()) == []
    found = ask(star, box, name)
    rows += found
    assert [row for row in found if row.expected != row.seen] == []
    # Neither an empty matrix nor cables that carry nothing would say so much.
    assert any(row.seen for row in found)
    assert not all(row.seen for row in found)


def test_all_of_it_comes_through_where_nothing_is_locked(star: Star) -> None:
    """A drop proves nothing if the packet would not have come through anyway."""
    star.nft("flush", "ruleset")
    silent = [row for row in ask(star, box_of(5, kid=True), "open") if not row.seen]
    assert silent == []
