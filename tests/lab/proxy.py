"""A TCP proxy that misbehaves on demand: network faults on the loopback, without root.

::

    with Proxy(("127.0.0.1", controller_port)) as proxy:
        client = connect(proxy.port)
        proxy.stall()              # looks alive, nothing passes; resume() delivers it all
        proxy.stall("up")          # only from whoever connected to the target
        proxy.swallow("down")      # what is sent is taken and never arrives
        proxy.delay(0.2)           # every byte is that late, in order
        proxy.reset()              # all connections end with RST
        proxy.reset_after(10_000)  # each does so once that many bytes went up or down
        proxy.refuse()             # nobody listens; accept() listens again on that port

When a call has returned it is in effect.  *Up* is towards the target, *down* from it.

Bytes between two sockets only; knows nothing of what they mean.
"""

from __future__ import annotations

import queue
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")
PIECE = 65536
HELD = 1 << 20
"""Bytes that a direction holds at most before it reads no more, as a network would."""


@dataclass(eq=False)
class _Stream:
    """One direction of one connection: bytes on their way, each piece with when it is due."""

    way: Way
    source: socket.socket
    target: socket.socket
    held: deque[tuple[float, memoryview]] = field(default_factory=deque)
    size: int = 0
    passed: int = 0
    ended: bool = False
    told: bool = False

    def take(self, now: float, delay: float, swallow: bool) -> None:
        """Read what is there; OSError when the connection is broken."""
        try:
            data = self.source.recv(PIECE)
        except BlockingIOError:
            return
        self.ended = not data
        if data and not swallow:
            self.held.append((now + delay, memoryview(data)))
            self.size += len(data)

    def give(self, now: float, limit: int | None) -> None:
        """Write what is due, up to ``limit`` bytes in all; OSError when broken."""
        while self.held and self.held[0][0] <= now:
            due, data = self.held[0]
            if limit is not None:
                data = data[: max(limit - self.passed, 0)]
            if not data:
                return
            try:
                count = self.target.send(data)
            except BlockingIOError:
                return
            self.passed += count
            self.size -= count
            rest = self.held[0][1][count:]
            if rest:
                self.held[0] = due, rest
            else:
                self.held.popleft()
        if self.ended and not self.held and not self.told:
            self.told = True
            self.target.shutdown(socket.SHUT_WR)


class Proxy:
    """Listens on a loopback port and passes on to ``target``; a thread of its own.

    ``port`` is where it listens, ``accepted`` how many came, ``connections`` how many are
    there now.  Use as a context manager, or ``close`` it.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.accepted = 0
        self._stalled: set[Way] = set()
        self._swallowed: set[Way] = set()
        self._delay = 0.0
        self._limit: int | None = None
        self._pairs: list[tuple[_Stream, _Stream]] = []
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, self._rope = socket.socketpair()
        self._running = True
        self._thread = threading.Thread(target=self._loop, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections pass through it now."""
        return len(self._pairs)

    def passed(self, way: Way) -> int:
        """Bytes that reached the other end, of the connections there are now."""
        return sum(s.passed for pair in list(self._pairs) for s in pair if s.way == way)

    # -- faults -------------------------------------------------------------------------

    def stall(self, *ways: Way) -> None:
        """Pass nothing on, both ways or one, and lose nothing: as when packets are dropped.

        New connections are taken and hang.
        """
        self._order(lambda: self._stalled.update(ways or WAYS))

    def swallow(self, *ways: Way) -> None:
        """Take what is sent, both ways or one, and throw it away, as a dead host behind NAT."""
        self._order(lambda: self._swallowed.update(ways or WAYS))

    def delay(self, seconds: float) -> None:
        """What is read from now on arrives ``seconds`` later, in order."""

        def do() -> None:
            self._delay = seconds

        self._order(do)

    def resume(self) -> None:
        """Undo :meth:`stall`, :meth:`swallow`, :meth:`delay` and :meth:`reset_after`."""

        def do() -> None:
            self._stalled.clear()
            self._swallowed.clear()
            self._delay, self._limit = 0.0, None

        self._order(do)

    def reset(self) -> None:
        """End all connections there are with RST, at both ends."""
        self._order(self._reset_all)

    def reset_after(self, count: int) -> None:
        """Reset each connection once exactly ``count`` bytes have passed up, or down."""

        def do() -> None:
            self._limit = count

        self._order(do)

    def refuse(self) -> None:
        """Stop listening, so that connecting is refused; what is connected stays."""

        def do() -> None:
            if self._listener is not None:
                while self._connect():
                    pass  # who came before this call is connected
                self._listener.close()
                self._listener = None

        self._order(do)

    def accept(self) -> None:
        """Listen again, on the same port."""

        def do() -> None:
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                self._listener.setblocking(False)

        self._order(do)

    def close(self) -> None:
        """End everything; may be called again."""
        if self._thread.is_alive():

            def do() -> None:
                self._running = False

            self._order(do)
            self._thread.join(10)

    # -- the thread ---------------------------------------------------------------------

    def _order(self, what: Callable[[], None]) -> None:
        """Have the thread do something; returns when it is done, or raises what it raised."""
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def do() -> None:
            try:
                what()
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)

        self._orders.put(do)
        self._rope.send(b"!")
        error = done.get(timeout=10)
        if error is not None:
            raise error

    def _loop(self) -> None:
        try:
            while self._running:
                self._turn()
        finally:
            self._reset_all()
            for each in (self._listener, self._bell, self._rope):
                if each is not None:
                    each.close()

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        now = time.monotonic()
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        wanted: dict[socket.socket, int] = {}
        next_due = now + 3600
        for stream in [stream for pair in self._pairs for stream in pair]:
            if stream.way in self._stalled:
                continue
            if not stream.ended and stream.size < HELD:
                wanted[stream.source] = wanted.get(stream.source, 0) | select.POLLIN
            if stream.held and stream.held[0][0] <= now:
                wanted[stream.target] = wanted.get(stream.target, 0) | select.POLLOUT
            elif stream.held:
                next_due = min(next_due, stream.held[0][0])
        # Only these: poll reports hang-ups unasked, and would spin while they must wait.
        for sock, events in wanted.items():
            poll.register(sock, events)
        ready = dict(poll.poll(max(next_due - now, 0) * 1000 + 1))
        if self._bell.fileno() in ready:
            self._bell.recv(1)
            self._orders.get(timeout=10)()
            return  # what was ready is asked again, under the new rules
        if self._listener is not None and self._listener.fileno() in ready:
            self._connect()
        for pair in list(self._pairs):
            self._serve(pair, ready)

    def _serve(self, pair: tuple[_Stream, _Stream], ready: dict[int, int]) -> None:
        now = time.monotonic()
        try:
            for stream in pair:
                events = ready.get(stream.source.fileno(), 0)
                if events & select.POLLERR:
                    raise ConnectionResetError
                if stream.way in self._stalled:
                    continue
                readable = events & (select.POLLIN | select.POLLHUP)
                if readable and not stream.ended and stream.size < HELD:
                    stream.take(now, self._delay, stream.way in self._swallowed)
                stream.give(time.monotonic(), self._limit)
                if self._limit is not None and stream.passed >= self._limit:
                    raise ConnectionResetError
        except OSError:
            self._reset(pair)
        else:
            if all(stream.told for stream in pair):
                self._forget(pair)

    def _connect(self) -> bool:
        """Take one who waits; whether there was one."""
        assert self._listener is not None
        try:
            near, _ = self._listener.accept()
        except OSError:
            return False
        self.accepted += 1
        far = socket.socket()
        try:
            far.settimeout(5)
            far.connect(self.target)
        except OSError:
            _abort(near)
            far.close()
            return True
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append((_Stream("up", near, far), _Stream("down", far, near)))
        return True

    def _reset_all(self) -> None:
        for pair in list(self._pairs):
            self._reset(pair)

    def _reset(self, pair: tuple[_Stream, _Stream]) -> None:
        for stream in pair:
            _abort(stream.source)
        self._pairs.remove(pair)

    def _forget(self, pair: tuple[_Stream, _Stream]) -> None:
        for stream in pair:
            stream.source.close()
        self._pairs.remove(pair)


def _abort(sock: socket.socket) -> None:
    """Close with RST."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()
