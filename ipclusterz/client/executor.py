"""ViewExecutor: a view as :mod:`concurrent.futures` knows executors.

Adds to a view what the standard library promises besides: a life that ends, iterators with
a time limit, and errors of its types.  Results are the view's AsyncResults, which are
futures already; nothing here stands between a task and its engine.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

from ipclusterz.client import futures
from ipclusterz.error import ControllerLost

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.group import AsyncMapResult
    from ipclusterz.client.views import View

T = TypeVar("T")


class ViewExecutor(Executor):
    """A :class:`concurrent.futures.Executor` whose workers are a view's engines.

    Made by ``view.executor`` and ``rc.executor(targets)``.  What the view's flags say
    (targets, retries, label) holds for its tasks.  Shutting it down ends neither engines
    nor the client.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._session = view.client.session
        self._shut = False
        # What is under way the session holds; what has come is its caller's alone.
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def closed(self) -> bool:
        """Whether it was shut down."""
        return self._shut

    def _check(self) -> None:
        if self._shut:
            raise RuntimeError("this executor was shut down: it takes no new work")
        session = self._session
        if session.connection.lost is not None:
            raise futures.Broken(str(session.connection.lost))
        if session.closed:
            raise futures.Broken("this executor's client is closed: make a new Client()")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send ``fn(*args, **kwargs)``; return its future, an AsyncResult.

        On a direct view of several engines it runs on each, and its value is a list.
        Raises RuntimeError after :meth:`shutdown`, and BrokenExecutor (which is a
        RuntimeError, and here a ControllerLost too) when the controller is lost.
        """
        self._check()
        result = self.view.apply_async(fn, *args, **kwargs)
        self._made.add(result)
        return result

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn``'s values, in the order of the items.

        All is sent at once, ``chunksize`` items in a task (``'auto'``: about eight tasks an
        engine).  With ``buffersize`` the input is read as values are taken, and at most so
        many items are under way: endless inputs are possible (load-balanced views, items
        one by one).  Raises TimeoutError in ``next()`` when a value is not there ``timeout``
        seconds after this call.  When iterating ends early, what has not begun is given up.
        """
        self._check()
        if buffersize is not None:
            return self._lazy(fn, iterables, timeout, chunksize, buffersize)
        if not iterables:
            return iter(())
        if timeout is not None and timeout < 0:
            timeout = 0.0
        result: AsyncMapResult = self.view.map_async(fn, *iterables, chunksize=chunksize)
        self._made.add(result)
        return _values(result, result.iterate(timeout))

    def _lazy(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | str,
        buffersize: int,
    ) -> Iterator[T]:
        try:
            size = operator.index(buffersize)
        except TypeError:
            raise TypeError(
                f"buffersize must be an int, not {type(buffersize).__name__}"
            ) from None
        if size < 1:
            raise ValueError(f"buffersize={buffersize} must be from 1")
        if chunksize != 1:
            raise ValueError("with a buffersize items go one by one: leave chunksize out")
        if not iterables:
            return iter(())
        from ipclusterz.client.balanced import LoadBalancedView  # which knows this module

        if not isinstance(self.view, LoadBalancedView):
            raise ValueError(
                "a direct view deals its items out at once: leave buffersize out, or use the"
                " executor of a load-balanced view"
            )
        guarded = map(self._unless_shut, iterables[0])
        lazy = self.view.imap(
            fn, guarded, *iterables[1:], max_outstanding=size, timeout=timeout
        )
        self._made.add(lazy)
        return lazy

    def _unless_shut(self, item: Any) -> Any:
        self._check()
        return item

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; with ``wait`` return when all that was sent has ended.

        ``cancel_futures`` gives up what has not begun.  Engines and client live on.
        """
        self._shut = True
        made = [sink for sink in self._made if not sink.done()]
        if cancel_futures:
            for sink in made:
                sink.abort()
        if not wait:
            return
        try:
            self._session.wait(lambda: _all_done(made), None, list(made))
        except ControllerLost:  # each future says so; there is nothing to wait for
            pass

    def __repr__(self) -> str:
        return f"<ViewExecutor of {self.view!r}{': shut down' if self._shut else ''}>"


def _values(result: AsyncMapResult, values: Iterator[Any]) -> Iterator[Any]:
    """Yield values; whoever stops early has no use for the rest."""
    try:
        yield from values
    finally:
        if not result.done():
            result.abort()


def _all_done(made: list[Any]) -> bool:
    while made and made[-1].done():
        made.pop()
    return not made
