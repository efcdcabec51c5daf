"""Memory that envelopes are sealed into, back to back, without an object for each."""

from __future__ import annotations

from moatvpn.esp.burst import MAX_ENVELOPES, MAX_OCTETS
from moatvpn.wire.esp import CIPHERTEXT_AT

_KEPT = 16  # sizes whose places are kept: a size a path's MTU, nearly always


class Ring:
    """Room for one burst. All SAs of a box share it: a burst is sent before the next is sealed."""

    def __init__(self) -> None:
        self.octets = bytearray(1 << 16)
        self.view = memoryview(self.octets)
        self._places: dict[int, list[memoryview]] = {}

    def places(self, size: int, count: int) -> list[memoryview]:
        """Return where the ciphertexts and ICVs of count envelopes of that size go, one by one.

        No more of them are laid out than are asked for: single envelopes come in many sizes.
        """
        places = self._places.get(size)
        if places is None:
            if len(self._places) >= _KEPT:
                self._places.clear()
            places = self._places[size] = []
        if len(places) < count:
            view = self.view
            ends = range(size * (len(places) + 1), size * count + 1, size)
            places += [view[end - size + CIPHERTEXT_AT : end] for end in ends]
        return places[:count]


def most_envelopes(size: int) -> int:
    """Return how many envelopes of that size one burst may hold, at least 1."""
    return max(1, min(MAX_ENVELOPES, MAX_OCTETS // size))
