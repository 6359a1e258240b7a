"""What a client's views and results share: the connection, and books about open tasks.

Holds no policy.  May know the connection's interface (:class:`Link`), the wire's structs
and the function cache; must not know views.  Everything here may be used by any thread.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from time import monotonic
from typing import Any, Protocol

from ipclusterz.client.interrupts import GivesUp, Interrupts
from ipclusterz.client.output import Outputs
from ipclusterz.client.saying import say
from ipclusterz.core.message import COUNTER_BITS, EngineInfo, Options, Result
from ipclusterz.engine.serialize import FunctionCache, PackedFunction
from ipclusterz.error import ControllerLost

COUNTER = (1 << COUNTER_BITS) - 1
"""The part of a key that counts a client's tasks."""

SILENCE = 2.0
"""Seconds of waiting after which the reason is told, where there is one."""

Buffer = Any
"""Anything with the buffer protocol; there is no name for it before Python 3.12."""


class Sink(Protocol):
    """Who gets a task's result: called once a key, quickly, by whichever thread reads."""

    def deliver(self, key: int, result: Result) -> None:
        """Keep the result; must not raise, block or unpickle."""


class Open(Sink, Protocol):
    """A sink that the books keep until all of its results are there."""

    def task_keys(self) -> Iterable[int]:
        """Return the keys of its tasks as far as they are known."""

    def done(self) -> bool:
        """Tell whether all results are there."""


class Book(Protocol):
    """What the client reads of a connection's ledger."""

    waiting: dict[int, str]


class Loan(AbstractContextManager["Loan"], Protocol):
    """A blocking call's: what it sends by this is lent, not copied."""

    def sent(self, result: Any) -> None:
        """All is sent; ``result`` is what the call waits for."""


class Link(Protocol):
    """What the client needs of a connection (:class:`ipclusterz.net.client.Connection`)."""

    uuid: str
    engines: dict[int, EngineInfo]
    engines_version: int
    elsewhere: frozenset[int]
    lost: BaseException | None
    departed: dict[int, str]
    facts: dict[str, Any]
    output: Callable[[int, int, int, str], None]

    @property
    def ledger(self) -> Book:
        """The tasks under way; ``waiting`` says why, by channel, they do not progress."""

    def submit(
        self,
        op: int,
        fn: PackedFunction | None,
        parts: list[Buffer],
        sink: Sink,
        *,
        options: Options | None = None,
        loan: Any = None,
    ) -> int:
        """Send a task for whichever engine is free; return its key."""

    def submit_all(
        self,
        loads: Sequence[tuple[int, Any, list[Any]]],
        sink: Sink,
        options: Options | None,
        loan: Any = None,
    ) -> int:
        """Send tasks as :meth:`submit` does; return the key of the first of their row."""

    def request(
        self, op: int, fn: PackedFunction | None, parts: list[Buffer], sink: Sink,
        targets: list[int], *, loan: Any = None,
    ) -> int:  # fmt: skip
        """Send work to named engines; return the first target's key, the others follow."""

    def control(
        self, op: int, targets: list[int], data: bytes = b"", *, timeout: float | None
    ) -> dict[int, Any]:
        """Ask engines for something that does not wait behind work; return their answers."""

    def cancel(self, keys: list[int], direct: bool) -> None:
        """Give up tasks that have not begun."""

    def query(self, what: str, arg: Any = None, *, timeout: float | None = 10) -> Any:
        """Ask the hub."""

    def ask(self, what: str, arg: Any, then: Callable[[Any, str], None]) -> None:
        """Ask the hub and have ``then(value, error)`` called, under the I/O lock."""

    def shutdown_controller(self, timeout: float | None) -> None:
        """End the controller, and with it the cluster."""

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, driving the connection, until ``done()``; return what it said last."""

    def task_ranges(self) -> list[range]:
        """Return the keys of all tasks sent so far, in order."""

    def on_engines(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after engines came or went."""

    def lending(self) -> Loan:
        """Return what a call may lend by for as long as it waits, instead of a copy."""

    def load(self, result: Result) -> list[Buffer]:
        """Return a result's parts: the pickle, then its out-of-band buffers."""

    def release(self, result: Result) -> None:
        """Let go of what :meth:`load` mapped, once it has been decoded."""

    def close(self) -> None:
        """End the connection; open tasks run on."""


class Session:
    """One connection and the books of what is under way on it.

    ``live`` holds every result that is not complete.  Adding to and discarding from a set
    are single steps under the interpreter's lock, which is why there is no other one.
    """

    def __init__(self, connection: Link) -> None:
        self.connection = connection
        self.functions = FunctionCache()
        self.live: set[Open] = set()
        # Given the set, not a method: the connection must not keep its session alive.
        self.outputs = Outputs(partial(keys_of, self.live))
        self.interrupts = Interrupts()
        self.closed = False
        self._told = ""
        connection.output = self.outputs.add
        weakref.finalize(self, _close_apart, connection).atexit = False
        _sessions.add(self)

    def msg_id(self, key: int) -> str:
        """Return the text that names a task: the client's uuid and the task's number."""
        return f"{self.connection.uuid}_{key & COUNTER}"

    def sent(self, msg_id: str) -> bool:
        """Tell whether a text is the name of a task that this client may have sent."""
        uuid, _, number = msg_id.rpartition("_")
        return uuid == self.connection.uuid and number.isdecimal()

    def key_of(self, msg_id: str) -> int | None:
        """Return the key of an open task by its text, or None."""
        if not self.sent(msg_id):
            return None
        wanted = int(msg_id.rpartition("_")[2])
        return next((key for key in keys_of(self.live) if key & COUNTER == wanted), None)

    def wait(
        self,
        done: Callable[[], bool],
        timeout: float | None,
        whose: Iterable[GivesUp] = (),
    ) -> bool:
        """Wait until ``done()`` or for ``timeout`` seconds (None: as long as it takes).

        Says on standard error why nothing progresses, when that is so and known.  Raises
        what ended the connection when it can never be done.  Ctrl-C ends the wait and
        leaves the work alone; a second one soon after gives up ``whose`` results these are.
        """
        if done():
            return True
        try:
            return self._wait(done, timeout)
        except KeyboardInterrupt:
            self.interrupts.note(list(whose))
            raise

    def _wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        wait = self.connection.wait
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = SILENCE if deadline is None else min(SILENCE, deadline - monotonic())
            if wait(done, max(0.0, left)):
                return True
            self._check()
            if deadline is not None and monotonic() >= deadline:
                return False
            self._explain()

    def _check(self) -> None:
        """Raise what ended the connection, if something did."""
        lost = self.connection.lost
        if lost is not None:
            raise lost
        if self.closed:
            raise ControllerLost("this client is closed: make a new Client()")

    def reason(self) -> str:
        """Return why tasks do not progress, as far as the schedulers said, or ''."""
        return "; ".join(sorted(set(self.connection.ledger.waiting.values())))

    def _explain(self) -> None:
        reason = self.reason()
        if reason != self._told:
            self._told = reason
            if reason:
                say(f"waiting: {reason}")

    def close(self) -> None:
        """Close the connection, once."""
        if not self.closed:
            self.closed = True
            _sessions.discard(self)
            self.connection.close()


def keys_of(live: set[Open]) -> Iterable[int]:
    """Yield the keys of results that are not complete (some of them may be in)."""
    for sink in live.copy():
        yield from sink.task_keys()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_closing: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_CLOSING_SECONDS = 2.0


@atexit.register
def _close_all() -> None:
    for session in list(_sessions):
        session.close()
    for thread in list(_closing):  # else their folders in shared memory would stay
        thread.join(_CLOSING_SECONDS)


def _close_apart(connection: Link) -> None:
    """Close the connection of a session that was collected.

    In a thread of its own: the last reference may go while the connection itself delivers
    a result, and closing waits for just that.
    """
    thread = threading.Thread(target=connection.close, name="ipclusterz-close", daemon=True)
    try:
        thread.start()
        _closing.add(thread)
    except RuntimeError:  # the interpreter ends, and the connection with it
        pass


def limit(timeout: float | None) -> float | None:
    """Return a time-out in seconds, or None for as long as it takes (None or negative)."""
    try:
        return None if timeout is None or timeout < 0 else timeout
    except TypeError:
        raise TypeError(f"timeout is {timeout!r}: seconds, or None for no limit") from None
