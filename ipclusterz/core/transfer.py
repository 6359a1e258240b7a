"""Bringing a body from another host: the receiver asks for pieces, a few at a time.

Because the receiver asks, what is on its way is bounded by :data:`WINDOW` for each body,
whoever owns it, and nothing in between has to keep anything.  What was asked for on a link
that was renewed is asked for again, and so is a piece that was changed on the way.

Each request has a number of its own: the owner seals the piece with it, so it must never be
the same for two answers.
"""

from __future__ import annotations

from bisect import bisect_right

from ipclusterz.core import message as m

WINDOW = 6
"""Pieces of one body that may be on their way."""

AT_ONCE = 2
"""Places that must be free before more is asked for: a request costs as much as its piece's
way through a scheduler, and those in one packet little more than one."""

PATIENCE = 8
"""Pieces of one body that may be changed on the way before it is given up."""

ALIGN = 64


def image_size(sizes: list[int]) -> int:
    """Return the bytes of a body's file: each part begins at a multiple of 64."""
    return sum(-(-size // ALIGN) * ALIGN for size in sizes)


class Layout:
    """Where the pieces that parts consist of lie in a body's file: ``starts`` and ``sizes``.

    ``parts`` are the sizes of each part's pieces, which follow each other; none is 0.
    """

    __slots__ = ("parts", "sizes", "starts", "total")

    def __init__(self, parts: list[list[int]]) -> None:
        self.parts = parts
        self.starts: list[int] = []
        self.sizes: list[int] = []
        at = 0
        for sizes in parts:
            for size in sizes:
                self.starts.append(at)
                self.sizes.append(size)
                at += size
            at = -(-at // ALIGN) * ALIGN
        self.total = at

    def cut(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """Return what these bytes consist of, in order: piece, offset in it, bytes.

        Piece -1 stands for zeros between parts.  ValueError for bytes beyond the end.
        """
        end = offset + size
        if not 0 <= offset <= end <= self.total:
            raise ValueError("the body is shorter than what was asked for")
        found: list[tuple[int, int, int]] = []
        index = bisect_right(self.starts, offset) - 1
        while offset < end:
            inside = offset - self.starts[index]
            count = min(self.sizes[index] - inside, end - offset)
            if count > 0:
                found.append((index, inside, count))
                offset += count
            index += 1
            following = self.starts[index] if index < len(self.starts) else self.total
            zeros = min(following, end) - offset
            if zeros > 0:
                found.append((-1, 0, zeros))
                offset += zeros
        return found


class Transfer:
    """One body of another host on its way to us, for the task or result ``key``.

    ``secret`` is 32 random bytes of this transfer only; ``to`` and ``proof`` are of the folder
    where it is kept here.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_left",
        "_next",
        "_number",
        "_spoilt",
        "key",
        "proof",
        "secret",
        "to",
        "total",
    )

    def __init__(
        self, key: int, body: m.Body, secret: bytes, to: str = "", proof: bytes = b""
    ) -> None:
        self.key = key
        self.secret = secret
        self.to = to
        self.proof = proof
        self.total = total = image_size(body.sizes)
        self._body = body
        self._spoilt = 0
        self._next = 0
        self._number = 0
        self._asked: dict[int, tuple[int, int]] = {}  # offset -> size, number; on their way
        self._left = total

    @property
    def done(self) -> bool:
        """Whether every piece has come."""
        return self._left == 0

    def wanted(self) -> list[m.Fetch]:
        """Return the requests that are to be sent now."""
        requests: list[m.Fetch] = []
        if len(self._asked) > WINDOW - AT_ONCE:
            return requests
        while self._next < self.total and len(self._asked) < WINDOW:
            size = min(m.PIECE, self.total - self._next)
            requests.append(self._ask(self._next, size))
            self._next += size
        return requests

    def _ask(self, offset: int, size: int) -> m.Fetch:
        self._number += 1
        self._asked[offset] = size, self._number
        body = self._body
        return m.Fetch(
            self.key,
            body.id,
            offset,
            size,
            self._number,
            self.secret,
            body.folder,
            body.proof,
            self.to,
            self.proof,
        )

    def awaited(self, chunk: m.Chunk) -> int:
        """Return the size of a piece that was asked for; 0 when it was not, or is here."""
        size, number = self._asked.get(chunk.offset, (0, 0))
        return size if number == chunk.number else 0

    def came(self, chunk: m.Chunk) -> None:
        """Note that a piece that is awaited is here."""
        self._left -= self._asked.pop(chunk.offset)[0]

    def spoil(self, chunk: m.Chunk) -> m.Fetch | None:
        """A piece did not open: return another request, None when there were too many."""
        self._spoilt += 1
        if self._spoilt > PATIENCE:
            return None
        return self._ask(chunk.offset, self._asked[chunk.offset][0])

    def again(self) -> list[m.Fetch]:
        """Return requests for what a renewed link has lost."""
        return [self._ask(offset, size) for offset, (size, _) in list(self._asked.items())]
