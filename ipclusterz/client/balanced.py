"""LoadBalancedView: tasks that run on whichever engine is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ipclusterz.client import dependency as dependencies
from ipclusterz.client import loads, mapping
from ipclusterz.client import targets as engines_of
from ipclusterz.client.group import AsyncMapResult
from ipclusterz.client.lazymap import LazyMap
from ipclusterz.client.past import FRESH
from ipclusterz.client.task import TaskResult, name_of
from ipclusterz.client.views import View
from ipclusterz.core.message import Op, Options
from ipclusterz.engine import serialize

if TYPE_CHECKING:
    from ipclusterz.client.client import Client
    from ipclusterz.client.dependency import Dependency
    from ipclusterz.client.loads import Load
    from ipclusterz.client.session import Loan
    from ipclusterz.client.views import Send
    from ipclusterz.engine.serialize import PackedFunction

_APPLY = Op.APPLY
_NO_ARGS = serialize.NO_ARGS


class LoadBalancedView(View):
    """Engines as a pool: each task runs once, on an engine that is free for it.

    Flags besides those of all views: ``targets`` (ids that tasks may run on; None: any),
    ``retries`` (how often a task that failed is tried again), ``timeout`` (seconds a task
    may wait for an engine; 0: as long as it takes), ``after`` (tasks that must have ended
    before) and ``follow`` (tasks on whose engine it shall run), each an AsyncResult, a
    msg_id, a list of these or a :class:`ipclusterz.Dependency`.
    """

    _flag_names = (*View._flag_names, "targets", "retries", "timeout", "after", "follow")

    def __init__(self, client: Client, **flags: Any) -> None:
        self._targets: list[int] | None = None
        self._retries = 0
        self._timeout = 0.0
        self._label: str | None = None
        self._after: Dependency | None = None
        self._follow: Dependency | None = None
        self._options: Options | None = None
        self._waits = False
        super().__init__(client, **flags)
        # Looked up once: apply_async is what programs call a million times.
        self._pack = self._session.functions.pack
        self._submit = self._session.connection.submit
        self._live = self._session.live
        self._fresh = self._past.fresh

    def __len__(self) -> int:
        return len(self._targets or self._session.connection.engines)

    def __repr__(self) -> str:
        return f"<LoadBalancedView {self._targets}>"

    # -- flags -----------------------------------------------------------------------------

    @property
    def targets(self) -> list[int] | None:
        """The ids of engines that tasks may run on; None: any."""
        return self._targets

    @targets.setter
    def targets(self, value: Any) -> None:
        if value is None or (isinstance(value, str) and value == "all"):
            self._targets = None
        else:
            chosen = engines_of.choose(value, sorted(self._session.connection.engines))
            self._targets = [chosen] if isinstance(chosen, int) else chosen
        self._set_options()

    @property
    def retries(self) -> int:
        """How often a task that failed is tried again."""
        return self._retries

    @retries.setter
    def retries(self, value: int) -> None:
        retries = mapping.whole(value)
        if retries < 0:
            raise ValueError(f"retries={value!r} must be a whole number from 0")
        self._retries = retries
        self._set_options()

    @property
    def timeout(self) -> float:
        """Seconds a task may wait to be begun; 0: as long as it takes."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        seconds = float(value or 0.0)
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"timeout={value!r} must be seconds from 0 (0: no limit)")
        self._timeout = seconds
        self._set_options()

    @property
    def label(self) -> str | None:
        """A word that the task database keeps with each task."""
        return self._label

    @label.setter
    def label(self, value: str | None) -> None:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"label={value!r} must be text")
        self._label = value
        self._set_options()

    @property
    def after(self) -> Dependency | None:
        """The tasks that must have ended before one of this view begins."""
        return self._after

    @after.setter
    def after(self, value: Any) -> None:
        self._after = dependencies.made(value)
        self._set_options()

    @property
    def follow(self) -> Dependency | None:
        """The tasks on whose engine one of this view runs, once they have ended."""
        return self._follow

    @follow.setter
    def follow(self, value: Any) -> None:
        self._follow = dependencies.made(value)
        self._set_options()

    def _set_options(self) -> None:
        given = Options(
            self._retries,
            self._targets,
            self._timeout,
            self._label or "",
            dependencies.wired(self._session, self._after),
            dependencies.wired(self._session, self._follow),
        )
        self._options = None if given == Options() else given
        self._waits = bool(self._after or self._follow)

    def _now(self) -> Options | None:
        """Return the options, with what is known now of the tasks that are waited for."""
        if self._waits:
            dependencies.check_known(self._after)
            dependencies.check_known(self._follow)
            self._set_options()
        return self._options

    # -- sending ---------------------------------------------------------------------------

    def _addressed(self, targets: Any) -> Iterable[int]:
        return self._targets or self._session.connection.engines

    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskResult:
        """Send ``f(*args, **kwargs)`` to run once, anywhere; return its AsyncResult.

        Raises SerializationError for what cannot be pickled.
        """
        # Flat on purpose: each function call here is 2 % of the tasks/s a client can send.
        fn = self._pack(f)
        if fn.large:
            return self._apply_large(f, args, kwargs)
        if args or kwargs:
            parts = serialize.pack_call(args, kwargs)
        else:
            parts = [_NO_ARGS]
        try:
            name = f.__name__
        except AttributeError:
            name = type(f).__name__
        result = TaskResult(self._session, name)
        if self._label:
            result._label = self._label
        live = self._live
        live.add(result)
        try:
            options = self._now() if self._waits else self._options
            key = result._key = self._submit(_APPLY, fn, parts, result, options=options)
        except BaseException:
            live.discard(result)
            raise
        fresh = self._fresh
        fresh.append(key)
        if len(fresh) >= FRESH:
            self._past.fold()
        return result

    def _apply_large(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskResult:
        parts = serialize.pack_large(f, args, kwargs)
        return self._send(name_of(f), Op.CALL, None, parts)

    def _sender(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Send:
        packed = loads.of_call(self._pack, f, args, kwargs)
        return lambda loan: self._send(name_of(f), *packed, loan)

    def _send(
        self,
        name: str,
        op: Op,
        fn: PackedFunction | None,
        parts: list[Any],
        loan: Loan | None = None,
    ) -> TaskResult:
        """Send a call that is packed."""
        result = TaskResult(self._session, name)
        result._label = self._label
        self._live.add(result)
        try:
            options = self._now()
            result._key = self._submit(op, fn, parts, result, options=options, loan=loan)
        except BaseException:
            self._live.discard(result)
            raise
        self._past.add(result._key)
        return result

    def send_map(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        chunksize: int | str | None,
        ordered: bool,
        return_exceptions: bool,
        loan: Loan | None = None,
    ) -> AsyncMapResult:
        """Send a map in chunks; items are read from the sequences as they are sent."""
        sizes: list[int] = []
        tasks, chunked = self._loads(f, sequences, chunksize, sizes, return_exceptions)
        result = AsyncMapResult(
            self._session,
            name_of(f),
            sizes=sizes if chunked else None,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )
        sized = all(hasattr(each, "__len__") for each in sequences)
        self._send_all(result, tasks, sized, loan)
        return result

    def _loads(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        chunksize: int | str | None,
        sizes: list[int],
        return_exceptions: bool,
    ) -> tuple[Iterable[Load], bool]:
        """Return a map's tasks, to be made as they are sent, and whether they are chunks."""
        engines = len(self._targets or self._session.connection.engines)
        chunks = loads.cut(sequences, chunksize, engines)
        if chunks is None:
            return loads.of_items(self._pack, f, zip(*sequences, strict=False)), False
        single = len(sequences) == 1
        return loads.of_chunks(self._pack, f, chunks, sizes, return_exceptions, single), True

    def _send_all(
        self,
        result: AsyncMapResult,
        tasks: Iterable[Load],
        sized: bool = False,
        loan: Loan | None = None,
    ) -> None:
        """Send a map's tasks; if one cannot be sent, those before it are given up.

        ``sized`` says that their items are there and need not be waited for.
        """
        submit, options = self._session.connection.submit_all, self._now()
        keys: list[int] = []
        result.sent_as(keys)
        self._live.add(result)
        try:
            for portion in loads.portions(tasks, sized):
                first = submit(portion, result, options, loan)
                keys.extend(range(first, first + len(portion)))
                self._past.add(first, len(portion))
        except BaseException:
            result.complete(keys)
            result.abort()
            raise
        result.complete(keys)

    def imap(
        self,
        f: Callable[..., Any],
        *sequences: Any,
        ordered: bool = True,
        max_outstanding: int | str = "auto",
        return_exceptions: bool = False,
        chunksize: int | str | None = 1,
        timeout: float | None = None,
    ) -> LazyMap:
        """Return an iterator over ``f``'s values that reads its input as it goes.

        At most ``max_outstanding`` tasks are under way or waiting to be yielded, so endless
        inputs and millions of items take bounded memory.  ``'auto'`` follows the measured
        length of tasks: two an engine for long ones, more for short ones.  A task is
        ``chunksize`` items, as for :meth:`map`: quick functions need large ones.  A value
        not there ``timeout`` seconds after this call is a TimeoutError (None: no limit).
        """
        if not sequences:
            raise TypeError("imap needs at least one sequence")
        sizes: list[int] = []
        tasks, chunked = self._loads(f, sequences, chunksize, sizes, return_exceptions)
        return LazyMap(
            self,
            tasks,
            sizes=sizes if chunked else None,
            ordered=ordered,
            max_outstanding=max_outstanding,
            return_exceptions=return_exceptions,
            timeout=timeout,
        )

    def piece_count(self, length: int, chunksize: int | None) -> int:
        """Return the number of pieces of ``chunksize`` items (default 1)."""
        return max(1, -(-length // (chunksize or 1)))

    def send_pieces(
        self,
        f: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        join: Callable[[list[Any]], Any],
    ) -> AsyncMapResult:
        """Send one task for each call."""
        result = AsyncMapResult(self._session, name_of(f), join=join)
        self._send_all(result, loads.of_items(self._pack, f, calls), sized=True)
        return result
