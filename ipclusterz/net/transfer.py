"""Bodies between hosts: files of ours for those who ask, files of theirs into our folder.

On one host a body is mapped and never travels.  The rules of asking are in
:mod:`ipclusterz.core.transfer`; here are the files.  Only a bare name made of the body's id
is ever opened, in a folder that is ours alone.  Each piece is sealed here for whoever asked
for it, and opened there; who hands it on cannot change it unseen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import zmq

from ipclusterz.core import message as m
from ipclusterz.core.link import Data
from ipclusterz.core.transfer import Transfer, image_size
from ipclusterz.engine import bodies
from ipclusterz.engine.spares import Spares
from ipclusterz.net import memory
from ipclusterz.net.seal import KEY_BYTES, TAG_BYTES, PieceOpener, SealError, seal_piece

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

Send = Callable[[int, Any], None]
Done = Callable[[bytes, m.Body | None, str], None]


class _Arrival:
    """A transfer and the file it goes to."""

    __slots__ = ("channel", "fd", "here", "opener", "room", "transfer")

    def __init__(self, channel: int, key: int, body: m.Body, here: m.Body, fd: int) -> None:
        secret = os.urandom(KEY_BYTES)
        self.channel = channel
        self.here = here
        self.fd = fd
        self.transfer = Transfer(key, body, secret, here.folder, here.proof)
        self.opener = PieceOpener(secret, here.id)
        # A piece is opened here, and written while it is in the processor's cache.
        self.room = memoryview(b"")

    def put(self, chunk: m.Chunk, sealed: Data, size: int) -> None:
        """Open a piece of ``size`` bytes and write it; SealError or OSError."""
        if not self.room:
            self.room = memoryview(bytearray(min(self.transfer.total, m.PIECE)))
        write_piece(self.opener, chunk, sealed, self.room[:size], self.fd)


def write_piece(
    opener: PieceOpener, chunk: m.Chunk, sealed: Data, room: memoryview, fd: int
) -> None:
    """Open a piece in ``room``, which is of its size, and write it; SealError or OSError."""
    opener.open(chunk.number, chunk.offset, sealed, room)
    done = 0
    while done < len(room):
        done += os.pwrite(fd, room[done:], chunk.offset + done)


Read = Callable[[int, memoryview], memoryview]
"""Returns as many bytes of a body, from an offset, as there is room for: in the room, or where
they are.  OSError or ValueError where it cannot."""


def in_file(folder: str, name: bytes) -> Read:
    """Return what reads from a body's file."""

    def read(offset: int, room: memoryview) -> memoryview:
        fd = os.open(bodies.path_of(folder, name), _READ)
        try:
            if os.preadv(fd, [room], offset) != len(room):
                raise ValueError("the file is shorter than what was asked for")
        finally:
            os.close(fd)
        return room

    return read


class PieceReader:
    """Reads pieces of bodies on this host and seals them for those who asked."""

    def __init__(self) -> None:
        self._room = memoryview(b"")

    def answer(self, request: m.Fetch, read: Read) -> m.Load | m.Chunk:
        """Return the piece that is asked for, or why there is none."""
        memory.keep()
        r = request
        problem = ""
        sealed: Data = b""
        try:
            if not 0 < r.size <= m.PIECE or len(r.id) != 16:
                raise ValueError("a request of impossible size")
            sealed = self._sealed(r, read)
        except FileNotFoundError:
            problem = "its owner has let go of it"
        except (OSError, ValueError, OverflowError) as error:
            problem = f"its owner cannot read it: {error}"
        chunk = m.Chunk(r.key, r.id, r.offset, r.number, problem)
        return chunk if problem else m.Load(chunk, sealed)

    def _sealed(self, request: m.Fetch, read: Read) -> Data:
        """Read a piece and seal it, both in memory that is in the processor's cache.

        What is returned is ZeroMQ's memory already, so to send it takes no copy.
        """
        r = request
        if not self._room:
            self._room = memoryview(bytearray(2 * m.PIECE + TAG_BYTES))
        sealed = self._room[m.PIECE : m.PIECE + r.size + TAG_BYTES]
        plain = read(r.offset, self._room[: r.size])
        seal_piece(r.secret, r.number, r.id, r.offset, plain, sealed)
        return zmq.Frame(sealed, copy=True).buffer


class Carrier:
    """Serves the bodies in ``folder`` and brings others there.

    ``send(channel, message)`` takes requests and pieces; ``done(id, body, problem)`` is told
    when a body is here (as a body of our folder) or cannot be had (None, and why).
    """

    def __init__(
        self, folder: str, proof: bytes, send: Send, done: Done, spare: Spares | None = None
    ) -> None:
        self._spare = spare
        self._folder = folder
        self._proof = proof
        self._send = send
        self._done = done
        self._arrivals: dict[bytes, _Arrival] = {}
        self._reader = PieceReader()

    # -- bringing --------------------------------------------------------------------------

    def bring(self, channel: int, key: int, body: m.Body) -> None:
        """Begin to bring a body here; ``key`` is of the task or result that needs it."""
        memory.keep()
        total = image_size(body.sizes)
        try:
            folder, proof, fd = bodies.claim(
                (self._folder, self._proof), body.id, total, self._spare
            )
        except OSError as error:
            self._done(body.id, None, f"no place for {total} bytes: {error.strerror}")
            return
        here = m.Body(body.id, body.sizes, folder, proof)
        arrival = self._arrivals[body.id] = _Arrival(channel, key, body, here, fd)
        self._go_on(arrival)

    def _go_on(self, arrival: _Arrival) -> None:
        if arrival.transfer.done:
            self._end(arrival, "")
            return
        for request in arrival.transfer.wanted():
            self._send(arrival.channel, request)

    def came(self, message: m.Chunk | m.Load) -> None:
        """Take in one piece, or hear why there is none."""
        if isinstance(message, m.Load):
            self._take(message.chunk, message.data)
        else:
            self._take(message, b"")

    def _take(self, chunk: m.Chunk, sealed: Data) -> None:
        arrival = self._arrivals.get(chunk.id)
        size = arrival.transfer.awaited(chunk) if arrival is not None else 0
        if arrival is None or not size:
            return
        if chunk.problem:
            self._end(arrival, chunk.problem)
            return
        try:
            if sealed or not chunk.written:
                arrival.put(chunk, sealed, size)
        except SealError as error:
            request = arrival.transfer.spoil(chunk)
            if request is None:
                self._end(arrival, f"again and again there came {error}")
            else:
                self._send(arrival.channel, request)
        except OSError as error:
            self._end(arrival, f"writing to {arrival.here.folder} failed: {error.strerror}")
        else:
            arrival.transfer.came(chunk)
            self._go_on(arrival)

    def renewed(self, channel: int) -> None:
        """Ask again on a link that lost what was asked for."""
        for arrival in list(self._arrivals.values()):
            if arrival.channel == channel:
                for request in arrival.transfer.again():
                    self._send(channel, request)

    def _end(self, arrival: _Arrival, problem: str) -> None:
        del self._arrivals[arrival.here.id]
        os.close(arrival.fd)
        if problem:
            bodies.remove(arrival.here)
            self._done(arrival.here.id, None, problem)
        else:
            self._done(arrival.here.id, arrival.here, "")

    # -- serving ---------------------------------------------------------------------------

    def serve(self, channel: int, request: m.Fetch, read: Read | None = None) -> None:
        """Send a piece of one of our bodies, or say why not; ``read`` if it has no file."""
        read = read or in_file(self._folder, request.id)
        self._send(channel, self._reader.answer(request, read))

    def close(self) -> None:
        """Give up what has not come."""
        for arrival in self._arrivals.values():
            os.close(arrival.fd)
        self._arrivals.clear()
