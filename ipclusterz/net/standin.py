"""A scheduler answers for owners of bodies on its own host: what it reads need not pass to it.

An agent elsewhere asks for a client's body, or a client elsewhere for an agent's.  The
request says in which folder the body lies; where that is a folder of this host and of this
user, its owner need not be asked.  One piece is read and sealed in a turn of the loop, so
that others do not wait for many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.net.loop import Loop
from ipclusterz.net.transfer import PieceReader


class StandIn:
    """Answers requests; ``send(peer, answer)`` takes a piece, or why there is none."""

    def __init__(self, loop: Loop, send: Callable[[bytes, m.Load | m.Chunk], None]) -> None:
        self._loop = loop
        self._send = send
        self._reader = PieceReader()
        self._asked: deque[tuple[bytes, m.Fetch]] = deque()

    def takes(self, peer: bytes, fetch: m.Fetch) -> bool:
        """Answer soon, if the body is on this host; else return False."""
        if not fetch.folder or not bodies.beside(fetch.folder, fetch.proof):
            return False
        self._asked.append((peer, fetch))
        if len(self._asked) == 1:
            self._loop.after(0, self._answer)
        return True

    def _answer(self) -> None:
        peer, fetch = self._asked.popleft()
        self._send(peer, self._reader.answer(fetch.folder, fetch))
        if self._asked:
            self._loop.after(0, self._answer)
