"""Who drives a client's sockets: whichever thread waits, else one of our own.

A call that waits drives the loop itself (the leader), which saves two thread switches a
round trip; other waiting calls follow and take over when it leaves; a thread of ours drives
when nobody waits.  Everything that touches the loop happens under ``lock``.  Callers leave
what they want done in the inbox, which needs no lock; when the connection has been quiet,
their own thread does it at once.

While the main thread drives, Ctrl-C is noted and raised between two turns, never inside one:
an interrupted wait leaves everything whole.  A main thread that may be interrupted by
handlers of other signals does not drive: our own does, at two thread switches a round trip,
so that a handler may raise, or use the client, wherever it comes.  Inside of a turn (in a
destructor, mostly) waiting is an error, for it would be for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

from ipclusterz.net import signals
from ipclusterz.net.loop import Loop, monotonic

BURST_SECONDS = 0.0005
"""What is left in the inbox so long after what came before is done by the caller's thread."""

PARK_SECONDS = 0.005
"""How long our own thread stays away after a caller drove."""

FOLLOW_SECONDS = 0.05
JOIN_SECONDS = 5.0

# The functions underneath, of CPython's own module: turning numbers and handlers into enums
# and back costs 6 to 9 us a call, 45 a round trip.
_plain = sys.modules.get("_signal", signal)
_set_handler: Callable[[int, Any], Any] = _plain.signal
_SIGINT = int(signal.SIGINT)

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""What may lie in the inbox, besides tasks."""


class Driver:
    """Drives ``loop`` for any number of threads.

    ``enter`` is given the tasks that were left in the inbox, as many as there are in a row;
    ``after_turn`` is called with nothing held after a turn in which ``restless`` was set.
    Once ``ended`` is set, waits return.
    """

    def __init__(
        self,
        loop: Loop,
        after_turn: Callable[[], None],
        enter: Callable[[list[Any]], None] = lambda tasks: None,
    ) -> None:
        self.inbox: deque[Any] = deque()
        self.lock = threading.Lock()
        self.woken = False  # somebody has been told of what is in the inbox
        self.ended = False
        self.restless = False  # somebody is to act with nothing held
        self._loop = loop
        self._after_turn = after_turn
        self._enter = enter
        self._followers: deque[LockType] = deque()  # each waits for its own lock
        self._wanted: deque[int] = deque()  # threads that want the lock, and not to drive
        self._drivers = 0
        self._drove_at = 0.0
        self._left_at = 0.0
        self._parked = False
        self._owner = 0  # the thread that drives
        self._resting = 0  # the same, while it waits between two turns
        self._stopped = False
        self._baton = threading.Semaphore(0)
        self._main = threading.main_thread().ident
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add(self._eventfd, self._signalled)
        self._thread = threading.Thread(target=self._run, name="ipclusterz-io", daemon=True)

    def start(self) -> None:
        """Begin to drive when nobody waits."""
        self._thread.start()

    # -- the inbox -------------------------------------------------------------------------

    def put(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Have ``call(*arguments)`` done in the next turn."""
        self.inbox.append((call, arguments))
        if not self.woken:
            self.leave()

    def leave(self) -> None:
        """See to it that the inbox is done: here and now if cheap, else by a nudge."""
        now = monotonic()
        quiet = now - self._left_at > BURST_SECONDS
        self._left_at = now
        if quiet and not self.lock.locked() and not self._exposed():
            with Guard(self._main):
                if self.lock.acquire(False):
                    self._owner = get_ident()
                    try:
                        self._loop.process([])
                    finally:
                        self._owner = 0
                        self.lock.release()
                    self._turned()
                    return
        self.woken = True
        self.wake()

    def drain(self) -> None:
        """Do what is in the inbox; called in each turn, with the lock held."""
        inbox = self.inbox
        if inbox:
            self.woken = False
            pop = inbox.popleft
            tasks: list[Any] = []
            while inbox:
                item = pop()
                if type(item) is not tuple:
                    tasks.append(item)
                    continue
                if tasks:
                    self._enter(tasks)
                    tasks = []
                call, arguments = item
                call(*arguments)
            if tasks:
                self._enter(tasks)

    def wake(self) -> None:
        """Bring whoever waits back into the loop."""
        try:
            os.eventfd_write(self._eventfd, 1)
        except OSError:
            return  # closed meanwhile
        if self._parked:
            self._baton.release()

    def _signalled(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            pass

    # -- waiting ---------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Drive until ``done()``, the end, or for ``timeout`` seconds; return ``done()``."""
        deadline = None if timeout is None else monotonic() + timeout
        if done():
            return True
        me = get_ident()
        if self._owner == me:
            with self.held():
                self._drive(done, deadline, None, me)
            return done()
        if self._exposed():
            while not done() and not self.ended:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    break
                self._follow(done, left, led=True)
            return done()
        with Guard(self._main, self._eventfd) as guard:
            while not done() and not self.ended:
                left = None if deadline is None else deadline - monotonic()
                if guard.interrupted or (left is not None and left <= 0):
                    break
                if not self._wanted and self.lock.acquire(False):
                    self._lead(done, deadline, guard, me)
                else:
                    self._follow(done, left)
        return done()

    def _exposed(self) -> bool:
        """Tell whether handlers of signals may come in between here."""
        return get_ident() == self._main and signals.handled()

    def _lead(
        self, done: Callable[[], bool], deadline: float | None, guard: Guard, me: int
    ) -> None:
        self._drivers += 1
        self._owner = me
        try:
            self._drive(done, deadline, guard, me)
        finally:
            self._owner = 0
            self._drivers -= 1
            self._drove_at = monotonic()
            self.lock.release()
        self._turned()

    def _drive(
        self, done: Callable[[], bool], deadline: float | None, guard: Guard | None, me: int
    ) -> None:
        """Drive, with the lock held; without a guard until the very end of the wait."""
        loop = self._loop
        if self.inbox or loop.hot:  # mostly the caller has done that just before
            loop.process([])
        while not done() and not self.ended and not (guard and guard.interrupted):
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            seconds = loop.timeout(left)
            self._resting = me
            try:
                events = loop.wait(seconds)
            except (OSError, ValueError):
                if self.ended:  # a signal's handler has closed it
                    break
                raise
            finally:
                self._resting = 0
            loop.process(events)
            if guard and (self._followers or self.restless or self._wanted):
                break

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; in what interrupts a wait, the one its thread has already.

        Raises RuntimeError inside of a turn, where nothing may wait.
        """
        me = get_ident()
        if self._owner != me:
            self._wanted.append(me)  # who drives may wait for long, and begin again at once
            try:
                self.wake()
                with self.lock:
                    self._owner = me
                    try:
                        yield
                    finally:
                        self._owner = 0
            finally:
                self._wanted.remove(me)
            return
        if self._resting != me:
            raise RuntimeError(
                "a destructor or a signal's handler waits inside of the client's own work,"
                " which would be for ever"
            )
        self._resting = 0
        try:
            yield
        finally:
            self._resting = me

    def _follow(self, done: Callable[[], bool], left: float | None, led: bool = False) -> None:
        """Wait for a turn of whoever drives; ``led`` if there is always somebody."""
        limit = FOLLOW_SECONDS if left is None else min(left, FOLLOW_SECONDS)
        # No threading.Condition: a signal's handler that raises inside of one breaks it.
        turned = allocate_lock()
        turned.acquire()
        self._followers.append(turned)
        if not done() and (led or self._wanted or self.lock.locked()):
            turned.acquire(timeout=limit)
        try:
            self._followers.remove(turned)
        except ValueError:
            pass  # there was a turn

    def _turned(self) -> None:
        """Tell followers and whoever is to act with nothing held."""
        while self._followers:
            try:
                self._followers.popleft().release()
            except IndexError:
                break  # it went away meanwhile
        if self.restless:
            self.restless = False
            self._after_turn()

    def _run(self) -> None:
        """Our own thread."""
        loop = self._loop
        timeout = 0.0
        while not self._stopped:
            if self._drivers or monotonic() - self._drove_at < PARK_SECONDS:
                timeout = 0.0
                self._parked = True
                if not self.inbox or self._drivers:
                    self._baton.acquire(timeout=PARK_SECONDS)
                self._parked = False
                if self._drivers or not self.inbox:
                    continue
            events = loop.wait(timeout)
            if self._drivers:
                continue
            with self.lock:
                if self._stopped:
                    return
                self._owner = get_ident()
                try:
                    loop.process(events)
                    timeout = loop.timeout(1.0)
                finally:
                    self._owner = 0
            self._turned()

    # -- the end ---------------------------------------------------------------------------

    def forked(self) -> None:
        """In a forked child: nobody drives here, and no lock of the parent's is held."""
        self.ended = self._stopped = True
        self.lock = threading.Lock()
        self._owner = self._resting = 0
        self.inbox = deque()
        self.woken = False
        self._followers = deque()
        self._wanted = deque()

    def stop(self) -> None:
        """End our own thread; waits return."""
        self.ended = self._stopped = True
        self.wake()
        self._baton.release()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(JOIN_SECONDS)
        self._loop.remove(self._eventfd)
        os.close(self._eventfd)


class Guard:
    """Holds Ctrl-C back while the main thread is inside a turn.

    The handler that was set (the default one raises KeyboardInterrupt) runs when the guard
    is left.  In other threads, or where SIGINT is not handled by Python, this does nothing.
    """

    __slots__ = ("_eventfd", "_frame", "_old", "interrupted")

    def __init__(self, main: int | None, eventfd: int = -1) -> None:
        self.interrupted = False
        self._eventfd = eventfd
        self._frame: FrameType | None = None
        self._old: Any = None
        if threading.get_ident() == main:
            old = signals.get_handler(_SIGINT)
            if callable(old):
                self._old = old

    def __enter__(self) -> Guard:
        if self._old is not None:
            _set_handler(_SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._frame = frame
        if self._eventfd >= 0:
            os.eventfd_write(self._eventfd, 1)

    def __exit__(self, *exc: object) -> None:
        if self._old is not None:
            _set_handler(_SIGINT, self._old)
            if self.interrupted:
                self._old(signal.SIGINT, self._frame)
