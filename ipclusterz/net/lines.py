"""Lines: channels between processes of one host, over UNIX sockets and without ZeroMQ.

ZeroMQ passes each message through a thread of its own on either side, which is what makes it
good at many and slow connections.  Between two processes of one host that costs two of three
wake-ups: a round trip through client, scheduler, agent and engine had fourteen, and six with
lines.  What travels is the same as over ZeroMQ: frames that are sealed, see
:mod:`ipclusterz.net.door`.

A frame is four bytes of length and its content; the highest bit says that another frame of
the same message follows.  The socket lies in a folder of its owner's and is the owner's alone;
whoever comes as somebody else is turned away before a byte is read.

A line is driven by the loop (:mod:`ipclusterz.net.loop`) like any descriptor: one read for
each time that something is there.
"""

from __future__ import annotations

import errno
import os
import socket as socketlib
import sys
from collections import deque
from collections.abc import Callable
from select import POLLOUT, poll
from struct import Struct
from typing import Any

import zmq

from ipclusterz.net.loop import Loop, monotonic
from ipclusterz.net.sockets import MAX_FRAME

SCHEME = "unix://"

READ_BYTES = 64 * 1024
"""Read at once; a socket holds 208 kB unless the system says otherwise."""

LARGE_BYTES = 32 * 1024
"""A frame of so much is received where it stays, not piece after piece."""

MOST_FRAMES = 3
"""Frames of one message."""

ACCEPTED = 64
"""Lines accepted before others have their turn."""

FULL_SECONDS = 1.0
"""How long a process that has no file left accepts nobody."""

_HEAD = Struct("<I")
_MORE = 1 << 31
_CREDENTIALS = Struct("3i")  # struct ucred: process, user, group
_FLAGS = socketlib.MSG_DONTWAIT | getattr(socketlib, "MSG_NOSIGNAL", 0)
_TOGETHER = 64  # buffers handed to the kernel in one call

Frames = list[Any]


class Line:
    """One end of a connection; ``on_frames(owner, frames)`` gets each message.

    ``on_end(owner, why)`` is called once when the other side has gone or breaks the rules, not
    after :meth:`close`.  The ``owner`` is the line itself unless another is given.
    """

    __slots__ = (
        *("_filled", "_frames", "_large", "_loop", "_more", "_on_end", "_on_frames"),
        *("_rest", "_socket", "_unsent", "_writing", "closed", "owner"),
    )

    def __init__(
        self,
        loop: Loop,
        socket: socketlib.socket,
        on_frames: Callable[[Any, Frames], None],
        on_end: Callable[[Any, str], None],
        owner: Any = None,
    ) -> None:
        self.owner = owner or self
        self._loop = loop
        self._socket = socket
        self._on_frames = on_frames
        self._on_end = on_end
        self._rest = b""  # the beginning of a frame
        self._large: bytearray | None = None  # a large frame that is being received
        self._filled = 0
        self._more = False  # whether another frame follows the large one
        self._frames: Frames = []  # those of a message that is not complete
        self._unsent: deque[memoryview] = deque()
        self._writing = False
        self.closed = False
        socket.setblocking(False)
        loop.add(socket.fileno(), self._ready)

    # -- sending ---------------------------------------------------------------------------

    def send_one(self, frame: bytes) -> None:
        """Send a message of one frame; zmq.ZMQError when the other side has gone."""
        # Flat, for most messages leave by here and whole.
        whole = _HEAD.pack(len(frame)) + frame
        if self.closed or self._unsent:
            self._leave([whole])
            return
        try:
            sent = self._socket.send(whole, _FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise zmq.ZMQError(error.errno or errno.EPIPE) from None
        if sent < len(whole):
            self._keep([whole], sent)

    def send(self, frames: Frames) -> None:
        """Send a message; zmq.ZMQError when the other side has gone."""
        last = len(frames) - 1
        parts: list[Any] = []
        for place, frame in enumerate(frames):
            parts.append(_HEAD.pack(len(frame) | (_MORE if place < last else 0)))
            parts.append(frame)
        self._leave(parts)

    def _leave(self, parts: list[Any]) -> None:
        if self.closed:
            raise zmq.ZMQError(errno.ENOTCONN)
        if self._unsent:
            self._unsent.extend(map(memoryview, parts))
            return
        try:
            sent = self._socket.sendmsg(parts, (), _FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise zmq.ZMQError(error.errno or errno.EPIPE) from None
        self._keep(parts, sent)

    def _keep(self, parts: list[Any], sent: int) -> None:
        """Keep what did not leave at once: all but the first ``sent`` bytes."""
        for part in parts:
            size = len(part)
            if sent >= size:
                sent -= size
            else:
                self._unsent.append(memoryview(part)[sent:])
                sent = 0
        if self._unsent and not self._writing:
            self._writing = True
            self._loop.writable(self._socket.fileno(), True)

    def _push(self) -> None:
        """Send what could not leave at once; BlockingIOError when no more can."""
        unsent = self._unsent
        while unsent:
            parts = [unsent[n] for n in range(min(len(unsent), _TOGETHER))]
            sent = self._socket.sendmsg(parts, (), _FLAGS)
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = unsent[0][sent:]
        if self._writing:
            self._writing = False
            self._loop.writable(self._socket.fileno(), False)

    # -- receiving -------------------------------------------------------------------------

    def _ready(self) -> None:
        try:
            if self._unsent:
                try:
                    self._push()
                except BlockingIOError:
                    pass
            if self._large is not None:
                self._fill(self._large)
                return
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or "the connection was closed")
            return
        if not data:
            self._end("the connection was closed")
            return
        if not self._rest and not self._frames and len(data) >= 4:
            (size,) = _HEAD.unpack_from(data)
            if size == len(data) - 4:  # one message and no more: most are
                self._on_frames(self.owner, [data[4:]])
                return
        self._parse(self._rest + data if self._rest else data)

    def _parse(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = _HEAD.unpack_from(data, at)
            more = size >= _MORE
            if more:
                size -= _MORE
            if size > MAX_FRAME:
                self._end(f"it sent a frame of {size} bytes")
                return
            stop = at + 4 + size
            if stop > end:
                if size >= LARGE_BYTES:
                    self._large = large = bytearray(size)
                    self._filled = end - at - 4
                    large[: self._filled] = data[at + 4 :]
                    self._more = more
                    at = end
                break
            self._frame(data[at + 4 : stop], more)
            if self.closed:
                return
            at = stop
        self._rest = data[at:]

    def _fill(self, large: bytearray) -> None:
        """Receive more of a large frame, all that there is of it."""
        with memoryview(large) as view:
            while self._filled < len(large):
                received = self._socket.recv_into(view[self._filled :])
                if not received:
                    raise OSError("the connection was closed")
                self._filled += received
        self._large = None
        self._frame(memoryview(large), self._more)

    def _frame(self, frame: Any, more: bool) -> None:
        frames = self._frames
        frames.append(frame)
        if more:
            if len(frames) >= MOST_FRAMES:
                self._end(f"it sent a message of more than {MOST_FRAMES} frames")
            return
        self._frames = []
        self._on_frames(self.owner, frames)

    # -- the end ---------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        if not self.closed:
            self.close()
            self._on_end(self.owner, why)

    def close(self, linger: int = 0) -> None:
        """Close it; what is unsent has ``linger`` milliseconds to leave."""
        if self.closed:
            return
        self.closed = True
        if linger and self._unsent:
            self._linger(linger)
        self._unsent.clear()
        self._frames = []
        self._large, self._rest = None, b""
        self._loop.remove(self._socket.fileno())
        self._socket.close()

    def _linger(self, linger: int) -> None:
        waiting = poll()
        waiting.register(self._socket, POLLOUT)
        try:
            deadline = monotonic() + linger / 1000
            while self._unsent and waiting.poll(max(deadline - monotonic(), 0) * 1000):
                try:
                    self._push()
                except BlockingIOError:
                    continue
        except OSError:
            pass  # nobody is there to read it


def dial(
    loop: Loop,
    address: str,
    on_frames: Callable[[Any, Frames], None],
    on_end: Callable[[Any, str], None],
    owner: Any = None,
) -> Line:
    """Connect to a :data:`SCHEME` address; OSError where that cannot be done at once."""
    made = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.connect(address.removeprefix(SCHEME))
    except OSError:
        made.close()
        raise
    return Line(loop, made, on_frames, on_end, owner)


class Lines:
    """Accepts lines on a descriptor that listens already."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_frames: Callable[[Line, Frames], None],
        on_end: Callable[[Line, str], None],
    ) -> None:
        self._loop = loop
        self._on_frames = on_frames
        self._on_end = on_end
        self._socket = socketlib.socket(fileno=os.dup(fd))
        self._socket.setblocking(False)
        self._lines: dict[Line, None] = {}
        self._listen()

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                made, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # No file is left, most likely: to try again at once would only be busy.
                self._loop.remove(self._socket.fileno())
                self._loop.after(FULL_SECONDS, self._listen)
                return
            if not _ours(made):
                made.close()
                continue
            line = Line(self._loop, made, self._on_frames, self._gone)
            self._lines[line] = None

    def _gone(self, line: Line, why: str) -> None:
        self._lines.pop(line, None)
        self._on_end(line, why)

    def close(self, linger: int = 0) -> None:
        """Close all of them, in ``linger`` milliseconds together, and listen no more."""
        deadline = monotonic() + linger / 1000
        for line in self._lines:
            line.close(max(int((deadline - monotonic()) * 1000), 0))
        self._lines.clear()
        self._loop.remove(self._socket.fileno())
        self._socket.close()


def _ours(socket: socketlib.socket) -> bool:
    """Say whether the other end is of our user or root; the socket's mode says so already."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        told = socket.getsockopt(socketlib.SOL_SOCKET, socketlib.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return False
    return _CREDENTIALS.unpack(told)[1] in (os.geteuid(), 0)
