"""The schemes by which a free engine is chosen; names and meanings as people know them.

A scheme sees only loads (tasks given and not finished) of engines that may take more, and
answers with one of them.  ``leastload`` keeps a heap and costs O(log n); the others draw or
rotate in O(1).  Randomness comes from a small generator seeded by the caller, so that a run
can be repeated.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import Protocol

SCHEMES: tuple[str, ...] = ("leastload", "lru", "plainrandom", "weighted", "twobin", "pure")
"""``pure`` (a plain round robin, as ZeroMQ's own distribution) equals ``lru`` here."""


class Rng:
    """A small deterministic generator (xorshift64*; Vigna 2016, arXiv:1402.6246)."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF or 1

    def below(self, n: int) -> int:
        """Return a number in ``range(n)``."""
        x = self._state
        x ^= x >> 12
        x ^= (x << 25) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 27
        self._state = x
        return ((x * 0x2545F4914F6CDD1D & 0xFFFFFFFFFFFFFFFF) >> 32) % n


class Policy(Protocol):
    """Engines with room, and the choice among them."""

    def offer(self, engine: int, load: int) -> None:
        """Say that ``engine`` has room, at this load (also when its load changed)."""

    def withdraw(self, engine: int) -> None:
        """Say that ``engine`` has no room, or is gone."""

    def pick(self) -> int | None:
        """Return an engine with room, or None when there is none."""


class LeastLoad:
    """The engine with the fewest tasks; among equals the one that waited longest."""

    def __init__(self) -> None:
        self._load: dict[int, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, int]] = []
        self._turn = 0

    def offer(self, engine: int, load: int) -> None:
        self._turn += 1
        entry = (load, self._turn)
        self._load[engine] = entry
        heappush(self._heap, (load, self._turn, engine))
        if len(self._heap) > 64 + 8 * len(self._load):
            self._heap = sorted((a, b, e) for e, (a, b) in self._load.items())

    def withdraw(self, engine: int) -> None:
        self._load.pop(engine, None)

    def pick(self) -> int | None:
        heap = self._heap
        while heap:
            load, turn, engine = heap[0]
            if self._load.get(engine) == (load, turn):
                return engine
            heappop(heap)
        return None


class LeastRecent:
    """The engine that was not chosen for the longest time."""

    def __init__(self) -> None:
        # An OrderedDict, because moving to the end of a plain dict leaves holes at its front
        # that the next look has to walk over.
        self._order: OrderedDict[int, None] = OrderedDict()

    def offer(self, engine: int, load: int) -> None:
        if engine not in self._order:
            self._order[engine] = None

    def withdraw(self, engine: int) -> None:
        self._order.pop(engine, None)

    def pick(self) -> int | None:
        for engine in self._order:
            self._order.move_to_end(engine)
            return engine
        return None


class _Drawn:
    """Engines with room in a list that can be drawn from in O(1)."""

    def __init__(self, seed: int) -> None:
        self._rng = Rng(seed)
        self._place: dict[int, int] = {}
        self._list: list[int] = []
        self._load: dict[int, int] = {}

    def offer(self, engine: int, load: int) -> None:
        self._load[engine] = load
        if engine not in self._place:
            self._place[engine] = len(self._list)
            self._list.append(engine)

    def withdraw(self, engine: int) -> None:
        place = self._place.pop(engine, None)
        self._load.pop(engine, None)
        if place is None:
            return
        last = self._list.pop()
        if last != engine:
            self._list[place] = last
            self._place[last] = place

    def _draw(self) -> int:
        return self._list[self._rng.below(len(self._list))]


class PlainRandom(_Drawn):
    """Any engine with room, blindly."""

    def pick(self) -> int | None:
        return self._draw() if self._list else None


class TwoBin(_Drawn):
    """Of two random engines the one with the lower load (Mitzenmacher 2001)."""

    def pick(self) -> int | None:
        if not self._list:
            return None
        one, two = self._draw(), self._draw()
        return one if self._load[one] <= self._load[two] else two


class Weighted(_Drawn):
    """Of two random engines one by the inverse of their loads."""

    def pick(self) -> int | None:
        if not self._list:
            return None
        one, two = self._draw(), self._draw()
        first, second = self._load[one], self._load[two]
        # chance of an engine is the share of the other's load; idle ones count as 1
        return one if self._rng.below(first + second + 2) >= first + 1 else two


def make(scheme: str, seed: int = 1) -> Policy:
    """Make the policy of the given name; ValueError names the known ones."""
    if scheme == "leastload":
        return LeastLoad()
    if scheme in ("lru", "pure"):
        return LeastRecent()
    if scheme == "plainrandom":
        return PlainRandom(seed)
    if scheme == "twobin":
        return TwoBin(seed)
    if scheme == "weighted":
        return Weighted(seed)
    raise ValueError(f"no scheme is named {scheme!r}; there are {', '.join(SCHEMES)}")
