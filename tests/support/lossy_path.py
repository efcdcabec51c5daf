"""A path that loses, overtakes and doubles packets at known rates, and knows what it has done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class LossyPath(Generic[T]):
    """What comes out for each packet that goes in, in the order of arrival.

    loss, overtaken and doubled are rates from 0 to 1. One that is overtaken is so by 1 to depth
    others. The same seed does the same to the same number of packets. carried, lost and reordered
    count packets, and are the truth once flush has been called: reordered is how many came after a
    later one (RFC 4737, 3.3).
    """

    def __init__(
        self,
        seed: object,
        *,
        loss: float = 0.0,
        overtaken: float = 0.0,
        depth: int = 8,
        doubled: float = 0.0,
    ) -> None:
        self._random = Random(str(seed))
        self._loss, self._overtaken, self._depth = loss, overtaken, depth
        self._doubled = doubled
        self._held: list[tuple[int, int, T]] = []  # at whose turn, which, and what
        self._number = self._highest = 0
        self.carried = self.lost = self.reordered = 0

    def __call__(self, packet: T) -> Iterator[T]:
        """Yield what comes out when packet goes in."""
        self._number += 1
        if self._random.random() < self._loss:
            self.lost += 1
        elif self._random.random() < self._overtaken:
            turn = self._number + self._random.randint(1, self._depth)
            self._held.append((turn, self._number, packet))
        else:
            yield from self._arrive(self._number, packet)
        due = [held for held in self._held if held[0] <= self._number]
        self._held = [held for held in self._held if held[0] > self._number]
        yield from self._release(due)

    def flush(self) -> Iterator[T]:
        """Yield what is still held back."""
        held, self._held = self._held, []
        yield from self._release(held)

    def _release(self, held: Iterable[tuple[int, int, T]]) -> Iterator[T]:
        for _, number, packet in held:
            yield from self._arrive(number, packet)

    def _arrive(self, number: int, packet: T) -> Iterator[T]:
        self.carried += 1
        self.reordered += number < self._highest
        self._highest = max(self._highest, number)
        yield packet
        if self._random.random() < self._doubled:
            yield packet
