"""Packets that wait because more come than can be worked on, shared out fairly.

Deficit round robin, with a first turn for whoever is new (RFC 8290, 4.2), on every level of a
path: connections take turns, and so do the flows of one connection within its turns. Whoever sends
little finds no queue, and whoever sends more than its share loses what is beyond it. Each call's
cost is the same for any number of paths, and what waits is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PACKET_COST = 512  # octets: what a packet costs beside its own, in work and memory
TURN = 1 << 16  # octets that one may take before the others have their turn


class _Node:
    """A place in the tree of paths. octets wait there, credit is what is left of its turn."""

    __slots__ = ("credit", "key", "octets")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.octets = 0
        self.credit = TURN


class _Leaf(_Node):
    """The end of a path, with what waits there and what each of it costs."""

    __slots__ = ("items",)

    def __init__(self, key: Hashable) -> None:
        super().__init__(key)
        self.items: deque[tuple[object, int]] = deque()


class _Branch(_Node):
    """A part of a path. fresh are children that have just come, settled those that had a turn."""

    __slots__ = ("children", "fresh", "settled")

    def __init__(self, key: Hashable) -> None:
        super().__init__(key)
        self.children: dict[Hashable, _Node] = {}
        self.fresh: deque[_Node] = deque()
        self.settled: deque[_Node] = deque()

    def next(self) -> _Node:
        """Return the child whose turn it is; there must be one with something that waits."""
        while True:
            turns = self.fresh or self.settled
            child = turns[0]
            if child.octets and child.credit > 0:
                return child
            turns.popleft()
            if child.octets:
                child.credit += TURN
                self.settled.append(child)
            elif turns is self.fresh and self.settled:
                # Gone now, it would be new with its next packet, and always before the others.
                self.settled.append(child)
            else:
                del self.children[child.key]


class FairQueue(Generic[T]):
    """Items that wait, each at the end of a path of keys. All paths have the same length.

    most is how many octets may wait, and the last item more. An item finds room while what is free
    is more than what waits in its own path, counted on every level of it (the dynamic threshold of
    Choudhury and Hahne): so one path alone leaves room for others, and many share it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._root = _Branch(None)

    def __bool__(self) -> bool:
        return self._root.octets > 0

    @property
    def octets(self) -> int:
        """Return how many octets wait."""
        return self._root.octets

    def put(self, path: Sequence[Hashable], item: T, cost: int) -> bool:
        """Let an item wait that costs so many octets; return False where its share is used up."""
        root = self._root
        room = self._most - root.octets
        node: Any = root
        nodes: list[Any] = []  # those of the path; its end is a leaf
        for key in path:
            found = node.children.get(key)
            if found is None:
                break
            room -= found.octets
            nodes.append(found)
            node = found
        # The first of a path needs not fit: there may be little room where many paths are full.
        if room < cost and (room <= 0 or (len(nodes) == len(path) and node.octets)):
            return False
        for level in range(len(nodes), len(path)):
            parent = nodes[-1] if nodes else root
            new = (_Leaf if level == len(path) - 1 else _Branch)(path[level])
            parent.children[new.key] = new
            parent.fresh.append(new)
            nodes.append(new)
        root.octets += cost
        for node in nodes:
            node.octets += cost
        nodes[-1].items.append((item, cost))
        return True

    def take(self, octets: int) -> list[T]:
        """Return the items whose turn it is, of so many octets and one item more at most."""
        root = self._root
        taken: list[T] = []
        while octets > 0 and root.octets:
            nodes: list[Any] = [root]
            while isinstance(nodes[-1], _Branch):
                nodes.append(nodes[-1].next())
            item, cost = nodes[-1].items.popleft()
            taken.append(item)
            octets -= cost
            for node in nodes:
                node.octets -= cost
                node.credit -= cost
        if not root.octets:
            self._root = _Branch(None)
        return taken
