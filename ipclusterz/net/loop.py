"""The loop under every shell: one epoll over plain descriptors and ZeroMQ sockets.

A ZeroMQ descriptor is edge-triggered: it tells of a change once, and any call on the socket
may swallow the news.  So a socket that was signalled, read or written is *hot*, and no wait
begins before every hot socket was looked at again and found dry.  Sockets are drained in
bounded turns; after each turn the flush hooks run, so that what arrived together leaves
together; only then are deadlines judged (a busy loop must not make others look dead).

Waiting (:meth:`Loop.wait`) touches no socket and may be done without the lock under which
:meth:`Loop.process` must be called; :class:`ipclusterz.net.client.Connection` relies on that.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import zmq

# As plain numbers: arithmetic with pyzmq's enums takes a microsecond.
_POLLIN = int(zmq.POLLIN)
_EVENTS = zmq.EVENTS
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = zmq.RCVMORE

TURN = 64
"""Messages read from one socket before others have their turn."""

TURNS = 8
"""Turns of ZeroMQ's sockets after which other descriptors have theirs."""

BESIDE = b"L"
"""First byte of a frame (for a load) beside which another one comes: megabytes, which are
handed out as a view of ZeroMQ's own memory; to copy them took longer than to encrypt them."""

monotonic = time.monotonic


class ZSocket:
    """A ZeroMQ socket in a loop; ``on_frames`` gets each message as a list of frames."""

    __slots__ = ("_loop", "closed", "copy", "fd", "on_frames", "single", "socket")

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[Any]], None],
        copy: bool = True,
    ) -> None:
        self._loop = loop
        self.socket = socket
        self.on_frames = on_frames
        self.copy = copy
        # Where messages have one frame, asking for more would double the cost of reading;
        # several frames of a peer that breaks the rule count as several messages.
        self.single = socket.type == zmq.DEALER
        self.closed = False
        self.fd = int(socket.getsockopt(zmq.FD))
        loop.add(self.fd, self._signalled)
        loop.hot.append(self)

    def _signalled(self) -> None:
        self._loop.hot.append(self)

    def send(self, frames: list[Any]) -> None:
        """Send without waiting; raises zmq.Again (full) or zmq.ZMQError (no such peer).

        A view of a frame that was received leaves without being copied.
        """
        send = self.socket.send
        last = frames[-1]
        if type(last) is memoryview and isinstance(last.obj, zmq.Frame):
            frames = [*frames[:-1], last.obj]
        for frame in frames[:-1]:
            send(frame, _MORE)
        send(frames[-1], _NOBLOCK)
        self._loop.hot.append(self)

    def send_one(self, frame: bytes) -> None:
        """Send a message of one frame, as :meth:`send` does."""
        self.socket.send(frame, _NOBLOCK)
        self._loop.hot.append(self)

    def drain(self) -> bool:
        """Read one turn; True when there may be more."""
        socket = self.socket
        single = self.single
        for _ in range(TURN):
            if self.closed or not socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return False
            try:
                frames = [socket.recv(_NOBLOCK)] if single else self._several()
                if single and frames[0][:1] == BESIDE:
                    frames += self._beside()
                self.on_frames(frames)
            except zmq.Again:
                return False
            if type(frames[-1]) is memoryview:
                return True  # it is to leave while it is in the processor's cache
        return True

    def _several(self) -> list[Any]:
        """Read a message of several frames."""
        if not self.copy:
            return self.socket.recv_multipart(_NOBLOCK, False)
        socket = self.socket
        frames: list[Any] = [socket.recv(_NOBLOCK)]
        while socket.getsockopt(_RCVMORE):
            if len(frames) > 1 and frames[-1][:1] == BESIDE:
                frames.append(socket.recv(_NOBLOCK, False).buffer)
            else:
                frames.append(socket.recv(_NOBLOCK))
        return frames

    def _beside(self) -> list[Any]:
        """Read what comes beside a frame; nothing where the peer breaks the rule."""
        if not self.socket.getsockopt(_RCVMORE):
            return []
        return [self.socket.recv(_NOBLOCK, False).buffer]

    def close(self, linger: int = 0) -> None:
        """Close the socket; unsent messages are kept for ``linger`` milliseconds."""
        if not self.closed:
            self.closed = True
            self._loop.remove(self.fd)
            self.socket.close(linger)


class Timer:
    """A call due at some time; ``cancel`` makes it none."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None] | None) -> None:
        self.act = act

    def cancel(self) -> None:
        """Never run it."""
        self.act = None


class Loop:
    """Descriptors, ZeroMQ sockets, timers, and hooks that run after each turn of reading."""

    def __init__(self) -> None:
        self.hot: list[ZSocket] = []
        self.flush: list[Callable[[], None]] = []
        self.now = monotonic()
        self.running = True
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()

    def add(self, fd: int, call: Callable[[], None]) -> None:
        """Call ``call`` whenever ``fd`` is readable (or at its end)."""
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; it must still be open."""
        if self._calls.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed already: the kernel has forgotten it by itself

    def writable(self, fd: int, wanted: bool) -> None:
        """Also call when ``fd`` is writable, or no longer."""
        if fd in self._calls:
            both = select.EPOLLIN | select.EPOLLOUT
            self._epoll.modify(fd, both if wanted else select.EPOLLIN)

    def at(self, when: float, act: Callable[[], None]) -> Timer:
        """Run ``act`` at a time of the monotonic clock."""
        timer = Timer(act)
        heappush(self._timers, (when, next(self._order), timer))
        return timer

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Run ``act`` in some seconds."""
        timer = Timer(act)
        heappush(self._timers, (monotonic() + seconds, next(self._order), timer))
        return timer

    def timeout(self, limit: float | None) -> float:
        """Return how long a wait may be, in seconds (below zero: for ever)."""
        timers = self._timers
        while timers and timers[0][2].act is None:
            heappop(timers)
        due = timers[0][0] - monotonic() if timers else None
        if due is None:
            return -1.0 if limit is None else max(limit, 0.0)
        return max(min(due, limit) if limit is not None else due, 0.0)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for descriptors; touches no socket."""
        return self._epoll.poll(seconds, 256)

    def process(self, events: list[tuple[int, int]]) -> None:
        """Act on events until every socket is dry, then on what is due."""
        self.now = monotonic()
        calls = self._calls
        for fd, _ in events:
            call = calls.get(fd)
            if call is not None:
                call()
        flush = self.flush
        if not self.hot:  # else they run after its turn
            for hook in flush:
                hook()
        turns = 0
        while self.hot:
            turns += 1
            if turns % TURNS == 0:  # sockets that never run dry must not make others wait
                for fd, _ in self._epoll.poll(0, 256):
                    call = calls.get(fd)
                    if call is not None:
                        call()
            turn, self.hot = self.hot, []
            if len(turn) > 1:
                turn = list(dict.fromkeys(turn))
            for zsocket in turn:
                if not zsocket.closed and zsocket.drain():
                    self.hot.append(zsocket)
            self.now = monotonic()
            for hook in flush:
                hook()
        if self._timers and self._timers[0][0] <= self.now:
            self._due()

    def _due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            act = heappop(timers)[2].act
            if act is not None:
                act()
        for hook in self.flush:
            hook()
        if self.hot:
            self.process([])

    def run(self) -> None:
        """Wait and process until ``running`` is False."""
        self.process([])
        while self.running:
            self.process(self.wait(self.timeout(None)))

    def close(self) -> None:
        """Close the loop's own descriptor."""
        self._epoll.close()


def serve(loop: Loop) -> None:
    """Run a loop that a signal handler may end: signals wake it through a descriptor."""
    # What was made until now stays; of the rest, messages make few cycles and many objects.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    loop.add(read, lambda: _swallow(read))
    try:
        loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        loop.remove(read)
        os.close(read)
        os.close(write)


def _swallow(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
