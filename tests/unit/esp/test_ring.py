"""Where the envelopes of a burst lie."""

from __future__ import annotations

import pytest

from moatvpn.esp.ring import Ring, most_envelopes
from moatvpn.wire.esp import CIPHERTEXT_AT


@pytest.mark.parametrize("size", [48, 100, 1472, 65_507])
def test_places_lie_back_to_back_however_many_were_asked_for_before(size: int) -> None:
    ring, most = Ring(), most_envelopes(size)
    for count in (1, min(2, most), most, 1):
        ring.octets[:] = bytes(len(ring.octets))
        places = ring.places(size, count)
        for number, place in enumerate(places, 1):
            place[:] = bytes([number]) * len(place)
        envelope = [
            bytes(CIPHERTEXT_AT) + bytes([n + 1]) * (size - CIPHERTEXT_AT) for n in range(count)
        ]
        assert ring.octets[: size * count] == b"".join(envelope)
        assert not any(ring.octets[size * count :])


def test_what_a_caller_does_to_its_places_is_its_own() -> None:
    ring = Ring()
    places = ring.places(100, 3)
    places[-1] = places[-1][:10]
    assert [len(place) for place in ring.places(100, 3)] == [100 - CIPHERTEXT_AT] * 3


def test_sizes_without_end_take_no_memory_without_end() -> None:
    ring = Ring()
    for size in range(48, 1500):
        ring.places(size, 1)
    assert len(ring._places) < 100
