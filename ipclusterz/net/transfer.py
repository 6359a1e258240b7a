"""Bodies between hosts: files of ours for those who ask, files of theirs into our folder.

On one host a body is mapped and never travels.  The rules of asking are in
:mod:`ipclusterz.core.transfer`; here are the files.  Only a bare name made of the body's id
is ever opened, in a folder that is ours alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.core.transfer import Transfer, image_size
from ipclusterz.engine import bodies
from ipclusterz.net import memory

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

Send = Callable[[int, Any], None]
Done = Callable[[bytes, m.Body | None, str], None]


class _Arrival:
    """A transfer and the file it goes to."""

    __slots__ = ("body", "channel", "fd", "here", "transfer")

    def __init__(self, channel: int, key: int, body: m.Body, here: m.Body, fd: int) -> None:
        self.channel = channel
        self.body = body
        self.here = here
        self.fd = fd
        self.transfer = Transfer(key, body.id, image_size(body.sizes))


class Carrier:
    """Serves the bodies in ``folder`` and brings others there.

    ``send(channel, message)`` takes requests and pieces; ``done(id, body, problem)`` is told
    when a body is here (as a body of our folder) or cannot be had (None, and why).
    """

    def __init__(self, folder: str, proof: bytes, send: Send, done: Done) -> None:
        self._folder = folder
        self._proof = proof
        self._send = send
        self._done = done
        self._arrivals: dict[bytes, _Arrival] = {}

    # -- bringing --------------------------------------------------------------------------

    def bring(self, channel: int, key: int, body: m.Body) -> None:
        """Begin to bring a body here; ``key`` is of the task or result that needs it."""
        memory.keep()
        total = image_size(body.sizes)
        try:
            folder, proof, fd = bodies.claim((self._folder, self._proof), body.id, total)
        except OSError as error:
            self._done(body.id, None, f"no place for {total} bytes: {error.strerror}")
            return
        here = m.Body(body.id, body.sizes, folder, proof)
        arrival = self._arrivals[body.id] = _Arrival(channel, key, body, here, fd)
        try:
            if total:
                os.posix_fallocate(fd, 0, total)
        except OSError as error:
            text = f"no room for {total} bytes in {folder}: {error.strerror}"
            self._end(arrival, text)
            return
        self._go_on(arrival)

    def _go_on(self, arrival: _Arrival) -> None:
        if arrival.transfer.done:
            self._end(arrival, "")
            return
        for request in arrival.transfer.wanted():
            self._send(arrival.channel, request)

    def came(self, chunk: m.Chunk) -> None:
        """Take in one piece."""
        arrival = self._arrivals.get(chunk.id)
        if arrival is None:
            return
        if chunk.problem:
            self._end(arrival, chunk.problem)
            return
        if not arrival.transfer.came(chunk.offset, len(chunk.data)):
            return
        try:
            os.pwrite(arrival.fd, chunk.data, chunk.offset)
        except OSError as error:
            self._end(arrival, f"writing to {arrival.here.folder} failed: {error.strerror}")
            return
        self._go_on(arrival)

    def renewed(self, channel: int) -> None:
        """Ask again on a link that lost what was asked for."""
        for arrival in list(self._arrivals.values()):
            if arrival.channel == channel:
                for request in arrival.transfer.again():
                    self._send(channel, request)

    def _end(self, arrival: _Arrival, problem: str) -> None:
        del self._arrivals[arrival.body.id]
        os.close(arrival.fd)
        if problem:
            bodies.remove(arrival.here)
            self._done(arrival.body.id, None, problem)
        else:
            self._done(arrival.body.id, arrival.here, "")

    # -- serving ---------------------------------------------------------------------------

    def serve(self, channel: int, request: m.Fetch) -> None:
        """Send a piece of one of our bodies, or say why not."""
        memory.keep()
        data, problem = b"", ""
        try:
            if not 0 < request.size <= m.CHUNK or len(request.id) != 16:
                raise ValueError("a request of impossible size")
            fd = os.open(bodies.path_of(self._folder, request.id), _READ)
            try:
                data = os.pread(fd, request.size, request.offset)
            finally:
                os.close(fd)
            if len(data) != request.size:
                raise ValueError("the file is shorter than what was asked for")
        except FileNotFoundError:
            problem = "its owner has let go of it"
        except (OSError, ValueError, OverflowError) as error:
            problem = f"its owner cannot read it: {error}"
        if problem:
            data = b""
        self._send(channel, m.Chunk(request.key, request.id, request.offset, data, problem))

    def close(self) -> None:
        """Give up what has not come."""
        for arrival in self._arrivals.values():
            os.close(arrival.fd)
        self._arrivals.clear()
