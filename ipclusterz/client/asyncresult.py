"""AsyncResult: work that was sent, as a future.

What lives here: everything that is the same for one task and for many.  The two kinds,
``task.TaskResult`` and ``group.GroupResult``, add how results are kept and put together.

A :class:`concurrent.futures.Future` on the outside (``wait``, ``as_completed``,
``asyncio.wrap_future`` work), but not inside: a Future makes a lock, a condition and two
lists for each instance, which is more than all else a task costs.  Here all results share
one condition, which only those touch that wait the standard library's way; our own waits
drive the connection instead.

Results are delivered by whichever thread reads the sockets and decoded by the one that
asks for the value.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING
from typing import TYPE_CHECKING, Any

from ipclusterz.client import callbacks, outcome
from ipclusterz.client.facts import OK, Facts
from ipclusterz.client.session import limit
from ipclusterz.client.staying import Stays
from ipclusterz.core.message import Status
from ipclusterz.error import TimeoutError

LOCK = threading.RLock()
"""Guards the step to 'finished' and who is to be told of it, for all results."""

CANCEL_WAIT = 0.25
"""Seconds :meth:`AsyncResult.cancel` waits for the verdict on tasks not begun."""

_ABORTED = int(Status.ABORTED)

# Facts that few ask for by attribute; others are properties of Facts.
_ASKED = frozenset(
    "after attempt engine_uuid error execute_input execute_result follow label".split()
)


class _Waiters:
    """Makes a result's list of standard-library waiters when the first one comes."""

    def __get__(self, instance: AsyncResult, owner: type) -> list[Any]:
        instance._watched = True
        made: list[Any] = []
        instance.__dict__["_waiters"] = made
        return made


class AsyncResult(Stays, Facts, Future[Any]):
    """The result of work sent to engines, now or later.

    One task gives its value itself; work for several engines gives a list in the order of
    targets.  It can be awaited, iterated over, indexed and sliced, and is a
    :class:`concurrent.futures.Future`.
    """

    _condition = threading.Condition(LOCK)
    _state: str = PENDING
    _waiters = _Waiters()  # the list, once asked for
    _watched = False
    _callbacks: list[Callable[[AsyncResult], object]] | None = None
    _wakers: list[Callable[[], object]] | None = None
    _direct = False
    _return_exceptions = False
    _shown = "AsyncResult"
    _cannot_travel = (
        "a result belongs to the process of its client: send its value, ar.get(), or its"
        " msg_ids"
    )
    owner = True
    """Kept for compatibility."""

    _name: str

    def __copy__(self) -> AsyncResult:
        return self  # nobody would tell another one that it is finished

    def __init__(self) -> None:
        # Not Future.__init__, on purpose: see the head of this file.
        raise TypeError("results are made by views: view.apply_async(...), view.map(...)")

    # -- what the kinds add ----------------------------------------------------------------

    def _collect(self, return_exceptions: bool) -> Any:
        """Decode and return the whole value of a finished result, or raise."""
        raise NotImplementedError

    def _error(self) -> BaseException | None:
        """Return what :meth:`_collect` would raise."""
        raise NotImplementedError

    # -- arriving --------------------------------------------------------------------------

    def _finish(self) -> None:
        """Become finished and tell who asked to be told.  Call with LOCK held."""
        self._state = FINISHED
        if self._watched:
            self._announce()

    def _announce(self) -> None:
        for waiter in self.__dict__.get("_waiters", ()):
            if self._went_well():
                waiter.add_result(self)
            elif self.cancelled():
                waiter.add_cancelled(self)
            else:
                waiter.add_exception(self)
        for wake in self._wakers or ():
            wake()
        for callback in self._callbacks or ():
            callbacks.run_soon(callback, self)
        self._wakers = self._callbacks = None

    def _went_well(self) -> bool:
        return all(raw is not None and raw.status == OK for raw in self._raws())

    def _when_finished(self, wake: Callable[[], object]) -> None:
        """Have ``wake`` called at the end by the reading thread: it must be quick."""
        with LOCK:
            if self._state != FINISHED:
                self._watched = True
                self._wakers = [*(self._wakers or ()), wake]
                return
        wake()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have ``fn(self)`` called when finished: at once if it is, else in another thread.

        Callbacks run in order, in one thread for all results; what they raise is logged.
        """
        with LOCK:
            if self._state != FINISHED:
                callbacks.prepare()
                self._watched = True
                self._callbacks = [*(self._callbacks or ()), fn]
                return
        callbacks.run(fn, self)

    # -- state -----------------------------------------------------------------------------

    def done(self) -> bool:
        """Tell whether all results are in."""
        return self._state == FINISHED

    ready = done

    def running(self) -> bool:
        """Return False: a client is not told when its tasks begin."""
        return False

    def cancelled(self) -> bool:
        """Tell whether it is finished and all of its tasks were given up."""
        return self.done() and all(
            raw is not None and raw.status == _ABORTED for raw in self._raws()
        )

    def successful(self) -> bool:
        """Tell whether all tasks ended without an error; RuntimeError when not finished."""
        if not self.done():
            raise RuntimeError("successful() is known only when ready(): wait() first")
        return self._error() is None

    @property
    def progress(self) -> int:
        """How many results are in, of ``len(self)``."""
        return sum(raw is not None for raw in self._raws())

    @property
    def sent(self) -> bool:
        """True: what is sent has been copied, or must not change until it is finished."""
        return True

    def wait_for_send(self, timeout: float | None = -1) -> None:
        """Return at once: see :attr:`sent`."""

    # -- waiting ---------------------------------------------------------------------------

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> bool:
        """Wait for ``timeout`` seconds (None or -1: as long as it takes); return ready().

        ``return_when`` is ``FIRST_COMPLETED``, ``FIRST_EXCEPTION`` or ``ALL_COMPLETED``
        (default), as for :func:`concurrent.futures.wait`.
        """
        if self._state != FINISHED:
            self._session.wait(self._condition_for(return_when), limit(timeout), (self,))
        return self._state == FINISHED

    def _condition_for(self, return_when: str | None) -> Callable[[], bool]:
        if return_when in (None, "ALL_COMPLETED"):
            return self.done
        if return_when == "FIRST_COMPLETED":
            return lambda: self.done() or self.progress > 0
        if return_when == "FIRST_EXCEPTION":
            return lambda: (
                self.done() or any(raw is not None and raw.status != OK for raw in self._raws())
            )
        raise ValueError(
            f"return_when={return_when!r} must be 'FIRST_COMPLETED', 'FIRST_EXCEPTION' or"
            " 'ALL_COMPLETED'"
        )

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool | None = None,
        return_when: str | None = None,
    ) -> Any:
        """Return the value, waiting for it.

        One task: the value itself.  Several: a list.  What failed is raised: the original
        type can be caught (``except ValueError``), a list of failures is a CompositeError;
        with ``return_exceptions`` they stand in the value's place.

        Raises ipclusterz.TimeoutError after ``timeout`` seconds (None or -1: never); the
        work goes on and the value can be asked for again.  Ctrl-C ends the wait only.
        """
        if self._state != FINISHED and not self.wait(timeout, return_when):
            if return_when == "FIRST_EXCEPTION":
                self._raise_first()
            raise self._late(timeout)
        if return_exceptions is None:
            return_exceptions = self._return_exceptions
        return self._collect(return_exceptions)

    def result(self, timeout: float | None = None) -> Any:
        """Return the value, as :meth:`get` does."""
        return self.get(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what :meth:`get` would raise, or None; waits like it.

        Raises TaskAborted (a :class:`concurrent.futures.CancelledError`) when it was given
        up, as futures do.
        """
        if self._state != FINISHED and not self.wait(timeout):
            raise self._late(timeout)
        error = self._error()
        if error is not None and self.cancelled():
            raise error.with_traceback(None)
        return error

    @property
    def r(self) -> Any:
        """Short for :meth:`get`."""
        return self.get()

    def _late(self, timeout: float | None) -> TimeoutError:
        patience = f" after {timeout:g} s" if timeout and timeout > 0 else ""
        reason = self._session.reason()
        return TimeoutError(
            f"{self._name}: result not ready{patience} ({self.progress} of {len(self)} done"
            f"{'; ' + reason if reason else ''}); it goes on, ask again or cancel()"
        )

    def _raise_first(self) -> None:
        for raw in self._raws():
            if raw is not None and raw.status != OK:
                error = outcome.error_of(self._session, raw)
                if error is not None:
                    raise error

    def __await__(self) -> Generator[Any, None, Any]:
        """Await the value; cancelling the wait gives up tasks that have not begun."""
        if self._state != FINISHED:
            import asyncio  # 40 ms that only its users pay, and they have paid already

            loop = asyncio.get_running_loop()
            arrived = asyncio.Event()

            def wake() -> None:
                try:
                    loop.call_soon_threadsafe(arrived.set)
                except RuntimeError:  # the loop was closed: no one waits any more
                    pass

            self._when_finished(wake)
            try:
                yield from arrived.wait().__await__()
            except asyncio.CancelledError:
                self.abort()
                raise
        return self.get()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the values of several tasks as they come; one task is awaited instead."""
        raise TypeError("the result of one task is not iterable: await it")

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        return_when: str = "ALL_COMPLETED",
    ) -> bool:
        """Wait with a progress bar, looking each ``interval`` seconds; return ready().

        The bar is tqdm's, in a terminal or a notebook; elsewhere nothing is shown.  It is
        called as the label says, or the function, and counts what failed.
        """
        from ipclusterz.client.progress import failures, watch  # tqdm takes 50 ms

        done = self._condition_for(return_when)
        watch(
            self._session,
            name=self._label or self._name,
            total=len(self),
            count=lambda: (self.progress, failures(self._raws())),
            done=done,
            interval=interval,
            timeout=limit(timeout),
            widget=widget,
            whose=(self,),
        )
        return self.done()

    # -- giving up -------------------------------------------------------------------------

    def abort(self) -> None:
        """Give up the tasks that have not begun; returns at once.

        They end as TaskAborted; those that have begun run to their end.
        """
        if self._state != FINISHED:
            keys = [
                key for key, raw in zip(self.task_keys(), self._raws(), strict=False) if not raw
            ]
            if keys:
                self._session.connection.cancel(keys, self._direct)

    def cancel(self, running: bool = False, grace: float = 5.0) -> bool:
        """Give up the tasks; tell whether none of them has a result, nor ever will.

        Those that have not begun end at once; waits up to 0.25 s for the verdict.  False
        means that something runs or has ended, or that the verdict is not known yet;
        :meth:`cancelled` tells later.

        With ``running``, those that run are interrupted (KeyboardInterrupt in their code),
        and the engines of those that still run after ``grace`` seconds are killed and
        replaced, with new ids.  All end as TaskAborted.
        """
        if self._state != FINISHED:
            self.abort()
            self.wait(CANCEL_WAIT)
            if running and self._state != FINISHED:
                from ipclusterz.client.cancelling import end_running  # few need it

                end_running(self._session, self, grace)
        return self.cancelled()

    # -- taken apart and put together ------------------------------------------------------

    def split(self) -> tuple[AsyncResult, ...]:
        """Return a result for each task; of one task, the result itself."""
        return (self,)

    @classmethod
    def join(cls, *async_results: AsyncResult) -> AsyncResult:
        """Return one result of several: its value is the list of their tasks' values."""
        if not async_results:
            raise ValueError("join() needs at least one AsyncResult")
        if len(async_results) == 1:
            return async_results[0]
        from ipclusterz.client.parts import JoinedResult  # few join

        return JoinedResult(async_results)

    # -- as a container --------------------------------------------------------------------

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """Return values by engine id; ValueError when an engine did several tasks."""
        value = self.get(timeout)
        engines = self.engine_id
        if self._single:
            return {engines: value}
        made: dict[int, Any] = {}
        for engine, item in zip(engines, value, strict=False):
            if engine in made:
                raise ValueError(
                    f"no dict by engine: engine {engine} did {engines.count(engine)} of the"
                    " tasks; use get()"
                )
            made[engine] = item
        return made

    @property
    def result_dict(self) -> dict[int, Any]:
        """Short for :meth:`get_dict`."""
        return self.get_dict()

    def __len__(self) -> int:
        return len(self.task_keys())

    def __bool__(self) -> bool:
        return True  # a map over nothing is a result too

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("the result of one task is not iterable: use get()")

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return self._fact(key)
        self._check_ready(key)
        value = self.get(0)
        return ([value] if self._single else value)[key]

    if not TYPE_CHECKING:  # mypy would take any name for one of these

        def __getattr__(self, name: str) -> Any:
            """Return a fact about the task, a list for several; see ``metadata``."""
            if name in _ASKED:
                return self._fact(name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_ready(self, key: int | slice) -> None:
        if self._state != FINISHED:
            raise self._late(None)

    def __repr__(self) -> str:
        if self._state != FINISHED:
            state = "pending"
        elif self._went_well():
            state = "finished"
        else:
            state = "cancelled" if self.cancelled() else "failed"
        return f"<{self._shown}({self._name}): {state}>"

    # A Future that makes itself: what sets it from outside has no place here.

    def set_running_or_notify_cancel(self) -> bool:
        """Not for use: engines run it, not an executor."""
        raise RuntimeError("engines run this work; its state cannot be set")

    def set_result(self, result: Any) -> None:
        """Not for use: the result comes from an engine."""
        raise RuntimeError("the result comes from an engine; it cannot be set")

    def set_exception(self, exception: BaseException | None) -> None:
        """Not for use: errors come from an engine."""
        raise RuntimeError("the result comes from an engine; it cannot be set")
