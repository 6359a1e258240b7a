"""A scheduler writes pieces of bodies for those on its own host who asked for them.

A piece that comes from another host would pass to whoever asked through one more connection,
to be opened and written there.  Whoever asks says in which folder of its own it keeps the
body; where that is a folder of this host and of this user, the piece is opened here, written
to the body's file, and only told of.  What cannot be done so is passed on as it came.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ipclusterz.core import message as m
from ipclusterz.core.link import Data
from ipclusterz.engine import bodies
from ipclusterz.net.seal import KEY_BYTES, PieceOpener, SealError
from ipclusterz.net.standin import ID_BYTES
from ipclusterz.net.transfer import write_piece

MOST = 256
"""Bodies whose pieces are expected; of the one that was asked for first, they are passed on."""

PIECES = 64
"""The same for the pieces of one body."""

_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class _Expected(NamedTuple):
    """A piece that somebody on this host asked for."""

    number: int
    size: int


class _Body:
    """A body on its way to somebody on this host."""

    __slots__ = ("opener", "path", "pieces", "secret")

    def __init__(self, path: str, secret: bytes, id: bytes) -> None:
        self.path = path
        self.secret = secret
        self.opener = PieceOpener(secret, id)
        self.pieces: dict[int, _Expected] = {}  # by offset


class Scribe:
    """Notes what is asked for (:meth:`expect`) and keeps what comes (:meth:`keeps`)."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[bytes, bytes], _Body] = {}
        self._room = memoryview(b"")

    def expect(self, peer: bytes, fetch: m.Fetch) -> None:
        """A request of ``peer`` passes by; nobody else is to know where it keeps things."""
        folder, proof = fetch.to, fetch.to_proof
        fetch.to, fetch.to_proof = "", b""
        if not folder or len(fetch.id) != ID_BYTES or len(fetch.secret) != KEY_BYTES:
            return
        possible = 0 < fetch.size <= m.PIECE and 0 <= fetch.offset < 1 << 62
        if not possible or not 0 <= fetch.number < 1 << 64 or not bodies.beside(folder, proof):
            return
        known = self._bodies.get((peer, fetch.id))
        path = os.path.join(folder, fetch.id.hex())
        if known is None or known.secret != fetch.secret or known.path != path:
            known = self._bodies[peer, fetch.id] = _Body(path, fetch.secret, fetch.id)
            while len(self._bodies) > MOST:
                del self._bodies[next(iter(self._bodies))]
        known.pieces[fetch.offset] = _Expected(fetch.number, fetch.size)
        while len(known.pieces) > PIECES:
            del known.pieces[next(iter(known.pieces))]

    def keeps(self, peer: bytes, load: m.Load) -> m.Chunk | None:
        """Write a piece for ``peer`` and return what it is told; None: it is passed on."""
        chunk = load.chunk
        body = self._bodies.get((peer, chunk.id))
        expected = body.pieces.get(chunk.offset) if body is not None else None
        if body is None or expected is None or expected.number != chunk.number:
            return None
        del body.pieces[chunk.offset]
        if not body.pieces:
            del self._bodies[peer, chunk.id]  # made anew for the next, if there is one
        try:
            self._write(body, chunk, expected.size, load.data)
        except (SealError, OSError):
            return None  # who asked finds the same, and knows what to say
        return m.Chunk(chunk.key, chunk.id, chunk.offset, chunk.number, written=True)

    def _write(self, body: _Body, chunk: m.Chunk, size: int, sealed: Data) -> None:
        if not self._room:
            self._room = memoryview(bytearray(m.PIECE))
        fd = os.open(body.path, _WRITE)
        try:
            write_piece(body.opener, chunk, sealed, self._room[:size], fd)
        finally:
            os.close(fd)

    def forget(self, peer: bytes) -> None:
        """A peer has gone."""
        for known in [known for known in self._bodies if known[0] == peer]:
            del self._bodies[known]
