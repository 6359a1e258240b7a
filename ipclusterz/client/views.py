"""What direct and load-balanced views have in common: flags, calling, giving up.

A view is a client's engines seen in one way, and the flags for work sent through it.  It
composes the session's parts and keeps no books of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ipclusterz.client import remote as decorators
from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.past import History, Past, Results
from ipclusterz.client.session import keys_of
from ipclusterz.client.staying import Stays

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ipclusterz.client.client import Client
    from ipclusterz.client.executor import ViewExecutor
    from ipclusterz.client.group import AsyncMapResult
    from ipclusterz.client.session import Loan

    Send = Callable[[Loan | None], AsyncResult]
    """Sends what is packed, which a loan lends, and returns its result."""

V = TypeVar("V", bound="View")


class View(Stays):
    """Base of views; made by ``rc[...]``, ``rc.direct_view()``, ``rc.load_balanced_view()``.

    ``block``: calls return values (True) or an :class:`AsyncResult` at once (False, the
    default).  ``track`` is accepted for compatibility: what a call sent may be changed as
    soon as the call has returned.  ``label`` is kept in the tasks' facts.
    """

    _flag_names: tuple[str, ...] = ("block", "track", "label")

    _cannot_travel = (
        "a view belongs to the process of its client: a task that needs one makes a Client()"
    )
    track = False
    label: str | None = None
    _executor: ViewExecutor | None = None

    def __init__(self, client: Client, **flags: Any) -> None:
        self.client = client
        self._session = client.session
        self._past = Past()
        self.block: bool = client.block
        self.set_flags(**flags)

    def __bool__(self) -> bool:
        return True  # also while there is no engine

    # -- flags -----------------------------------------------------------------------------

    def set_flags(self: V, **flags: Any) -> V:
        """Set flags by name (see the class) and return the view; TypeError for others."""
        for name, value in flags.items():
            if name not in self._flag_names:
                raise TypeError(
                    f"{type(self).__name__} has no flag {name!r}; it has"
                    f" {', '.join(self._flag_names)}"
                )
            if name in ("block", "track"):
                value = bool(value)
            setattr(self, name, value)
        return self

    @contextmanager
    def temp_flags(self: V, **flags: Any) -> Iterator[V]:
        """Set flags for the length of a ``with`` block."""
        saved = {name: getattr(self, name) for name in flags if name in self._flag_names}
        try:
            self.set_flags(**flags)  # it may set some before it refuses one
            yield self
        finally:
            self.set_flags(**saved)

    # -- calling ---------------------------------------------------------------------------

    def apply(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``f(*args, **kwargs)``: the value when ``block``, else an AsyncResult."""
        if self.block:
            return self.apply_sync(f, *args, **kwargs)
        return self.apply_async(f, *args, **kwargs)

    def apply_sync(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``f(*args, **kwargs)`` and return its value.

        Large arguments for engines on other hosts are read where they are until then; other
        threads must not change them meanwhile.
        """
        if self._session.connection.elsewhere:
            return self._await(self._sender(f, args, kwargs))
        return self.apply_async(f, *args, **kwargs).get()

    def _sender(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Send:
        """Pack a call, and return what sends it."""
        raise NotImplementedError

    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send ``f(*args, **kwargs)`` and return its :class:`AsyncResult` at once."""
        raise NotImplementedError

    def map(
        self,
        f: Callable[..., Any],
        *sequences: Any,
        block: bool | None = None,
        chunksize: int | str | None = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        track: bool = False,
    ) -> Any:
        """Call ``f`` with each item (of several sequences: with one of each) on engines.

        Returns an AsyncMapResult, or the list of values when ``block``.  Stops with the
        shortest sequence, as the built-in does.  On a load-balanced view ``chunksize``
        items travel together (``'auto'``: about eight chunks an engine); a direct view
        gives each engine one block.  With ``ordered=False`` iterating yields items as they
        come.  With ``return_exceptions`` errors stand among the values.
        """
        if block is None:
            block = self.block
        if not sequences:
            raise TypeError("map needs at least one sequence")

        def send(loan: Loan | None = None) -> AsyncMapResult:
            result = self.send_map(f, sequences, chunksize, ordered, return_exceptions, loan)
            if label or self.label:
                result._label = label or self.label
            return result

        if not block:
            return send()
        # What makes its items as they are read may use the memory of one for the next.
        return self._await(send) if all(map(_is_stored, sequences)) else send().get()

    def _await(self, send: Send, targets: Any = None) -> Any:
        """Return the value of what ``send`` sends; engines elsewhere read it where it lies."""
        connection = self._session.connection
        if not connection.elsewhere or not connection.elsewhere.issuperset(
            self._addressed(targets)
        ):
            return send(None).get()
        with connection.lending() as loan:
            result = send(loan)
            loan.sent(result)
            return result.get()

    def _addressed(self, targets: Any) -> Iterable[int]:
        """Return the ids of the engines that work would be sent to now."""
        raise NotImplementedError

    def map_async(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """Map and return the AsyncMapResult at once; takes what :meth:`map` takes."""
        return self.map(f, *sequences, **{**kwargs, "block": False})

    def map_sync(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """Map and return the list of values; takes what :meth:`map` takes."""
        return self.map(f, *sequences, **{**kwargs, "block": True})

    def send_map(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        chunksize: int | str | None,
        ordered: bool,
        return_exceptions: bool,
        loan: Loan | None = None,
    ) -> AsyncMapResult:
        """Send the tasks of a map; large items are copied, or lent by ``loan``."""
        raise NotImplementedError

    def piece_count(self, length: int, chunksize: int | None) -> int:
        """Return into how many pieces a parallel function cuts its sequences."""
        raise NotImplementedError

    def send_pieces(
        self,
        f: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        join: Callable[[list[Any]], Any],
    ) -> AsyncMapResult:
        """Send one call for each tuple of arguments; ``join`` makes one value of theirs."""
        raise NotImplementedError

    @property
    def executor(self) -> ViewExecutor:
        """This view as a :class:`concurrent.futures.Executor`; a new one after its shutdown."""
        made = self._executor
        if made is None or made.closed:
            from ipclusterz.client.executor import ViewExecutor  # few need it

            made = self._executor = ViewExecutor(self)
        return made

    def register_joblib_backend(
        self, name: str = "ipclusterz", make_default: bool = False
    ) -> None:
        """Have joblib use this view: ``with joblib.parallel_config(name): ...``.

        Each call runs on one of its engines, also where the view is a direct one.
        ``make_default`` makes it joblib's default.  Raises ImportError without joblib.
        """
        from ipclusterz.client.joblibbackend import register  # needs joblib

        register(name, self, make_default=make_default)

    def remote(
        self, block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], decorators.RemoteFunction]:
        """Return a decorator: calling the function runs it on this view."""
        return decorators.remote(self, block=block, **flags)

    def parallel(
        self, dist: str = "b", block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], decorators.ParallelFunction]:
        """Return a decorator: calling the function deals its sequences over this view."""
        return decorators.parallel(self, dist=dist, block=block, **flags)

    # -- what was sent ---------------------------------------------------------------------

    @property
    def history(self) -> History:
        """The msg_ids of the tasks sent through this view, in order."""
        return History(self._session.msg_id, self._past.ranges())

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of this view's tasks whose results are not in."""
        ranges, msg_id = self._past.ranges(), self._session.msg_id
        return {
            msg_id(key)
            for key in keys_of(self._session.live)
            if any(key in one for one in ranges)
        }

    @property
    def results(self) -> Results:
        """The values of this view's finished tasks by msg_id: see :class:`Results`."""
        return Results(self._session, self.history)

    def get_result(
        self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = False
    ) -> Any:
        """Return the result of tasks: see :meth:`Client.get_result`; indices are of history."""
        jobs = self.history[-1] if indices_or_msg_ids is None else indices_or_msg_ids
        if isinstance(jobs, int):
            jobs = self.history[jobs]
        elif isinstance(jobs, list | tuple):
            jobs = [self.history[job] if isinstance(job, int) else job for job in jobs]
        return self.client.get_result(jobs, self.block if block is None else block, owner)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget finished tasks: see :meth:`Client.purge_results`."""
        self.client.purge_results(jobs, targets)

    def spin(self) -> None:
        """Do nothing, since results come in by themselves; kept for compatibility."""

    # -- as of the client ------------------------------------------------------------------

    def _own_targets(self, targets: Any) -> Any:
        return targets

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait for results: see :meth:`Client.wait`."""
        return self.client.wait(jobs, timeout)

    def abort(
        self, jobs: Any = None, targets: Any = None, block: bool | None = None
    ) -> Future[None] | None:
        """Give up tasks that have not begun: see :meth:`Client.abort`."""
        return self.client.abort(jobs, self._own_targets(targets), block)

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """Return what waits at engines: see :meth:`Client.queue_status`."""
        return self.client.queue_status(self._own_targets(targets), verbose)

    def shutdown(
        self,
        targets: Any = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> Future[None] | None:
        """End engines: see :meth:`Client.shutdown`."""
        return self.client.shutdown(self._own_targets(targets), restart, hub, block)


def _is_stored(sequence: Any) -> bool:
    """Whether the items of a sequence are there before they are read, and stay."""
    kind = type(sequence)
    numpy = sys.modules.get("numpy")
    return kind in (list, tuple, range) or (numpy is not None and kind is numpy.ndarray)
