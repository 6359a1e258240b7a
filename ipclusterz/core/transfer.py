"""Bringing a body from another host: the receiver asks for pieces, a few at a time.

Because the receiver asks, what is on its way is bounded by :data:`WINDOW` for each body,
whoever owns it, and nothing in between has to keep anything.  What was asked for on a link
that was renewed is asked for again.
"""

from __future__ import annotations

from ipclusterz.core import message as m

WINDOW = 8
"""Pieces of one body that may be on their way."""

ALIGN = 64


def image_size(sizes: list[int]) -> int:
    """Return the bytes of a body's file: each part begins at a multiple of 64."""
    return sum(-(-size // ALIGN) * ALIGN for size in sizes)


class Transfer:
    """One body on its way to us; ``total`` is the size of its file in bytes."""

    __slots__ = ("_asked", "_left", "_next", "id", "key", "total")

    def __init__(self, key: int, id: bytes, total: int) -> None:
        self.key = key
        self.id = id
        self.total = total
        self._next = 0
        self._asked: dict[int, int] = {}  # offset -> size, of pieces on their way
        self._left = total

    @property
    def done(self) -> bool:
        """Whether every piece has come."""
        return self._left == 0

    def wanted(self) -> list[m.Fetch]:
        """Return the requests that may be sent now."""
        requests: list[m.Fetch] = []
        while self._next < self.total and len(self._asked) < WINDOW:
            size = min(m.CHUNK, self.total - self._next)
            self._asked[self._next] = size
            requests.append(m.Fetch(self.key, self.id, self._next, size))
            self._next += size
        return requests

    def came(self, offset: int, size: int) -> bool:
        """Note a piece; False when it was not asked for (or is of another size)."""
        if self._asked.get(offset) != size:
            return False
        del self._asked[offset]
        self._left -= size
        return True

    def again(self) -> list[m.Fetch]:
        """Return the requests that a renewed link has lost."""
        return [m.Fetch(self.key, self.id, o, size) for o, size in self._asked.items()]
