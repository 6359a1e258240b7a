"""An iterator over a map whose input may be endless: few tasks under way at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from ipclusterz.client import mapping, outcome
from ipclusterz.core.message import Result, Status
from ipclusterz.error import SerializationError, TimeoutError
from ipclusterz.net import signals

if TYPE_CHECKING:
    from ipclusterz.client.balanced import LoadBalancedView
    from ipclusterz.client.loads import Load

_OK = int(Status.OK)
_WEIGHT = 0.2  # of the newest duration in the moving average


class LazyMap(Iterator[Any]):
    """Yields a map's values, sending more tasks as values are taken.

    Iterating is what sends: nothing happens behind the caller's back, and what is not taken
    holds back what is not sent.  ``close()`` (also at the end of a ``with`` block) gives up
    the rest.
    """

    def __init__(
        self,
        view: LoadBalancedView,
        tasks: Iterable[Load],
        *,
        sizes: list[int] | None = None,
        ordered: bool,
        max_outstanding: int | str,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> None:
        auto = max_outstanding == "auto" or max_outstanding is None or max_outstanding == 0
        fixed = 0 if auto else mapping.whole(max_outstanding)
        if fixed < 0:
            raise ValueError(
                f"max_outstanding={max_outstanding!r} must be a whole number from 1 or 'auto'"
            )
        self._view = view
        self._session = view.client.session
        self._tasks = iter(tasks)
        self._sizes = sizes  # filled by tasks that are chunks; None: they are items
        self._size_of: dict[int, int] = {}
        self._ready: deque[Any] = deque()  # what is left of the chunk taken last
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._fixed = fixed
        self._deadline = None if timeout is None else monotonic() + timeout
        self._seconds = 1.0  # nothing known: as if tasks were long
        self._order: deque[int] = deque()  # keys to yield next: as sent, or as they came
        self._sent: set[int] = set()  # keys not yet taken
        self._got: dict[int, Result] = {}
        self.wake: Callable[[], object] | None = None  # called when a result has come
        self._ended = False
        self._problem: Exception | None = None
        self._fill()
        if self._problem is not None and not self._sent:
            raise self._problem

    # -- the sink --------------------------------------------------------------------------

    def deliver(self, key: int, result: Result) -> None:
        """Take a task's result; called once a key, under the I/O lock."""
        outputs = self._session.outputs
        if result.out or key in outputs.open:
            outputs.claim(key, result.out)  # no one can ask for it: let it go
        self._got[key] = result
        if not self._ordered:
            self._order.append(key)
        if self.done():
            self._session.live.discard(self)
        if self.wake is not None:
            self.wake()

    def task_keys(self) -> Iterable[int]:
        """Return the keys of the tasks under way."""
        return self._sent.difference(self._got)

    def done(self) -> bool:
        """Tell whether all that was sent so far is in."""
        return len(self._got) >= len(self._sent)

    # -- the iterator ----------------------------------------------------------------------

    def __next__(self) -> Any:
        ready = self._ready
        while not ready:
            raw = self._next_raw()
            values = self._values(raw)
            if self._sizes is None:
                return values
            ready.extend(values)
        return ready.popleft()

    def ready(self) -> bool:
        """Tell whether the next value, or the end, can be had without waiting."""
        if self._ready or not self._sent:
            return True
        return self._order[0] in self._got if self._ordered else bool(self._order)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield values in a coroutine: ``async for value in view.imap(...)``."""
        from ipclusterz.client.asyncitems import lazily  # brings asyncio along

        return lazily(self)

    def _next_raw(self) -> Result:
        """Wait for the next task's result and send others in its place."""
        if not self._sent:
            self._fill()
        if not self._sent:
            problem, self._problem = self._problem, None
            if problem is not None:
                raise problem
            raise StopIteration
        raw = self._take()
        if raw.finished and raw.status == _OK:
            self._seconds += _WEIGHT * (raw.finished - raw.started - self._seconds)
        try:
            self._fill()
        except BaseException:
            self._put_back(raw)
            raise
        return raw

    def _values(self, raw: Result) -> Any:
        """Return a task's value, of a chunk the list of its items; raise what it raised."""
        size = self._size_of.pop(raw.key, 1)
        error = outcome.error_of(self._session, raw)
        if error is None:
            try:
                value = outcome.value_of(self._session, raw)
            except SerializationError:
                raise
            except BaseException:  # Ctrl-C, or a signal's handler: whoever goes on has it
                self._size_of[raw.key] = size
                self._put_back(raw)
                raise
            if raw.body is not None:
                self._session.connection.release(raw)
            if self._sizes is not None and self._return_exceptions:
                outcome.make_errors(value, raw.engine)
            return value
        if self._return_exceptions:
            return error if self._sizes is None else [error] * size
        self.close()
        if isinstance(error, StopIteration):  # it would end the iteration as if all were well
            raise RuntimeError("a task raised StopIteration") from error
        raise error

    def _take(self) -> Result:
        """Wait for the next result, in order or any, and take it out of the books."""
        order, got = self._order, self._got
        if self._ordered:
            key = order[0]
            if key not in got:
                self._wait(lambda: key in got)
        elif not order:
            self._wait(lambda: bool(order))
        key = order.popleft()
        self._sent.discard(key)
        return got.pop(key)

    def _put_back(self, raw: Result) -> None:
        """Undo :meth:`_take`."""
        self._got[raw.key] = raw
        self._sent.add(raw.key)
        self._order.appendleft(raw.key)

    def _wait(self, there: Callable[[], bool]) -> None:
        deadline = self._deadline
        left = None if deadline is None else max(0.0, deadline - monotonic())
        if not self._session.wait(there, left, (self,)):
            self.close()
            raise TimeoutError(
                "imap: the next value was not there in time; the rest is given up"
            )

    def _fill(self) -> None:
        """Send tasks until as many are under way or not yet taken as may be."""
        room = self._limit() - len(self._sent)
        if room <= 0 or self._ended:
            return
        live = self._session.live
        live.add(self)
        try:
            self._send(room)
        except BaseException as error:
            # Kept back until what was sent before has been yielded.  A generator that was
            # interrupted has no more items, which must not pass for its end.
            self._ended = True
            if not isinstance(error, Exception) or signals.raised(error):
                self._problem = RuntimeError(
                    f"the map was interrupted ({type(error).__name__}) while it took the next"
                    " items of its input; the rest of them was not sent"
                )
                self._problem.__cause__ = error
                raise
            self._problem = error
        live.add(self)  # again: a result that came meanwhile may have taken it out
        if self.done():
            live.discard(self)

    def _send(self, room: int) -> None:
        submit, options = self._session.connection.submit, self._view._now()
        past = self._view._past.add
        sent, order, ordered = self._sent, self._order, self._ordered
        for op, fn, parts in islice(self._tasks, room):
            key = submit(op, fn, parts, self, options=options)
            sent.add(key)
            past(key)
            if self._sizes is not None:
                self._size_of[key] = self._sizes.pop()
            if ordered:
                order.append(key)
            room -= 1
        self._ended = room > 0

    def _limit(self) -> int:
        if self._fixed:
            return self._fixed
        engines = len(self._view.targets or self._session.connection.engines)
        return mapping.window(engines, self._seconds)

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Give up the tasks that have not begun, and what was not taken."""
        keys = list(self.task_keys())
        self._ended = True
        for books in (self._sent, self._order, self._size_of):
            books.clear()
        self._session.live.discard(self)
        if keys and not self._session.closed:
            self._session.connection.cancel(keys, False)

    cancel = abort = close

    def __enter__(self) -> LazyMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LazyMap: {len(self._got)} of {len(self._sent)} tasks under way are in>"
