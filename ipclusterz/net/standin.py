"""A scheduler answers for owners of bodies on its own host: what it reads need not pass to it.

An agent elsewhere asks for a client's body, or a client elsewhere for an agent's.  The
request says in which folder the body lies; where that is a folder of this host and of this
user, its owner need not be asked; nor where the folder tells of what a client lends, if this
process may read the client's memory.  One piece is read and sealed in a turn of the loop, so
that others do not wait for many.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.net.loop import Loop
from ipclusterz.net.transfer import PieceReader, Read, in_file

ID_BYTES = 16


class StandIn:
    """Answers requests; ``send(peer, message)`` takes a piece, or why there is none.

    It also takes a request for the owner, where only that turned out to be able to answer.
    """

    def __init__(
        self, loop: Loop, send: Callable[[bytes, m.Load | m.Chunk | m.Fetch], None]
    ) -> None:
        self._loop = loop
        self._send = send
        self._reader = PieceReader()
        self._asked: deque[tuple[bytes, bytes, m.Fetch, Read]] = deque()

    def takes(self, peer: bytes, owner: bytes, fetch: m.Fetch) -> bool:
        """Answer soon, if the body is on this host and may be read; else return False."""
        read = self._reads(fetch) if fetch.folder and len(fetch.id) == ID_BYTES else None
        if read is None:
            return False
        self._asked.append((peer, owner, fetch, read))
        if len(self._asked) == 1:
            self._loop.after(0, self._answer)
        return True

    def _reads(self, fetch: m.Fetch) -> Read | None:
        folder, name = os.path.split(fetch.folder)
        if name != bodies.LENT:
            folder = fetch.folder
        if not bodies.beside(folder, fetch.proof):
            return None
        if name != bodies.LENT:
            return in_file(folder, fetch.id)
        from ipclusterz.net.lent import Neighbour  # where nobody lends it takes no memory

        neighbour = Neighbour(fetch.folder, fetch.id)
        return neighbour.read if neighbour.open() else None

    def _answer(self) -> None:
        peer, owner, fetch, read = self._asked.popleft()
        answer = self._reader.answer(fetch, read)
        if isinstance(answer, m.Chunk) and os.path.basename(fetch.folder) == bodies.LENT:
            # Its owner may have it still, and no room to write down where.
            self._send(owner, fetch)
        else:
            self._send(peer, answer)
        if self._asked:
            self._loop.after(0, self._answer)
