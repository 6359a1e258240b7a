"""The results of several tasks: a list by engine, or the joined pieces of a map."""

from __future__ import annotations

import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.asyncresult import LOCK, AsyncResult
from ipclusterz.client.facts import OK
from ipclusterz.client.outcome import Metadata
from ipclusterz.client.task import ExecuteReply, reply
from ipclusterz.core.message import Result
from ipclusterz.engine.serialize import TINY
from ipclusterz.error import CompositeError
from ipclusterz.net import signals

if TYPE_CHECKING:
    from ipclusterz.client.output import Texts
    from ipclusterz.client.parts import PartResult
    from ipclusterz.client.session import Session

_clock = time.time


class GroupResult(AsyncResult):
    """An :class:`AsyncResult` of several tasks: its value is the list of theirs."""

    _converts = True  # whether :meth:`_convert` changes anything
    _failed: CompositeError | None = None
    _collected: list[Any] | None = None
    _parts: tuple[PartResult, ...] | None = None
    _open_parts: dict[int, PartResult] | None = None
    _observers: tuple[Callable[[int], None], ...] = ()

    def __init__(self, session: Session, name: str, expected: int = -1) -> None:
        """``expected`` is the number of tasks; -1: told later, by :meth:`complete`."""
        self._session = session
        self._name = name
        self._expected = expected
        self._submitted = _clock()
        self._keys: Sequence[int] = ()
        self._got: dict[int, Result] = {}
        self._values: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self._written: dict[int, Texts] = {}

    # -- arriving --------------------------------------------------------------------------

    def sent_as(self, keys: Sequence[int]) -> None:
        """Take note of the tasks' keys, which may have results already."""
        self._keys = keys

    def complete(self, keys: Sequence[int]) -> None:
        """Take note that these are all tasks there will be."""
        self._keys = keys
        with LOCK:
            self._expected = len(keys)
            if len(self._got) == self._expected and self._state != FINISHED:
                self._received = self._received or _clock()
                self._session.live.discard(self)
                self._finish()

    def deliver(self, key: int, result: Result) -> None:
        """Take one task's result; called once a key, under the I/O lock."""
        session = self._session
        if result.out or key in session.outputs.open:
            texts = session.outputs.claim(key, result.out)
            if texts is not None:
                self._written[key] = texts
        got = self._got
        got[key] = result
        if not self._converts and len(result.data) <= TINY and result.status == OK:
            self._settle_tiny(key, result)
        self._received = _clock()
        self._arrived(key)
        if self._observers:
            for tell in self._observers:
                tell(key)
        if len(got) == self._expected:
            with LOCK:
                if self._state != FINISHED:
                    session.live.discard(self)
                    self._finish()

    def _settle_tiny(self, key: int, result: Result) -> None:
        """Decode what is no more than a few numbers at once, while engines are at work."""
        if result.body is None:
            try:
                self._values[key] = pickle.loads(result.data)
            except Exception:
                pass  # what is wrong is said when it is asked for

    def _arrived(self, key: int) -> None:
        """Hook: a result is in."""

    def observe(self, tell: Callable[[int], None], on: bool = True) -> None:
        """Have ``tell(key)`` called, quickly, under the I/O lock, for each result to come."""
        with LOCK:
            others = tuple(one for one in self._observers if one != tell)
            self._observers = (*others, tell) if on else others

    def split(self) -> tuple[AsyncResult, ...]:
        """Return a result for each task: its value, of a chunk the list of its values.

        They can be waited for one by one, also by :func:`concurrent.futures.wait`.
        """
        from ipclusterz.client.parts import PartResult  # few split

        with LOCK:
            if self._parts is None:
                parts = tuple(PartResult(self, i) for i in range(len(self._keys)))
                self._open_parts = dict(zip(self._keys, parts, strict=True))
                self.observe(self._tell_part)
                # By the keys: the thread that reads takes away open parts meanwhile.
                for key in self._keys:
                    if key in self._got:
                        self._tell_part(key)
                self._parts = parts
            return self._parts

    def _tell_part(self, key: int) -> None:
        # Popping settles who tells it: the thread that reads or the one that splits.
        part = self._open_parts.pop(key, None) if self._open_parts else None
        if part is not None:
            part.come()

    # -- what AsyncResult asks for ---------------------------------------------------------

    def task_keys(self) -> Sequence[int]:
        """Return the keys of the tasks sent so far."""
        return self._keys

    def _raws(self) -> list[Result | None]:
        get = self._got.get
        return [get(key) for key in self._keys]

    def _raw_of(self, index: int) -> Result | None:
        return self._got.get(self._keys[index])

    def _texts(self, index: int) -> Texts | None:
        key = self._keys[index]
        return self._written.get(key) or self._session.outputs.peek(key)

    @property
    def progress(self) -> int:
        """How many results are in, of ``len(self)``."""
        return len(self._got)

    def _settle(self, index: int) -> BaseException | None:
        """Decode one task's result, once; return its error or None."""
        key = self._keys[index]
        if key in self._values:
            return None
        if key in self._errors:
            return self._errors[key]
        session, raw = self._session, self._got[key]
        if raw.status != OK:
            error = outcome.error_of(session, raw)
            assert error is not None
            self._errors[key] = error
            return error
        try:
            value = self._convert(outcome.value_of(session, raw), raw)
        except Exception as error:
            if signals.raised(error):
                raise
            if key in self._values:  # another thread was first, and released the body
                return None
            self._errors[key] = error
            return error
        self._values[key] = value
        self._got[key] = outcome.slim(raw)
        if raw.body is not None:
            session.connection.release(raw)
        return None

    def _convert(self, value: Any, raw: Result) -> Any:
        """Hook: make of one task's decoded value what users get."""
        return value

    def _error(self) -> BaseException | None:
        if self._failed is None and self._collected is None:
            errors = []
            for index, key in enumerate(self._keys):
                if key in self._values:
                    continue
                error = self._settle(index)
                if error is not None:
                    errors.append((self._got[key].engine, error))
            if errors:
                self._failed = outcome.composite(self._name, errors)
        return self._failed

    def _collect(self, return_exceptions: bool) -> Any:
        error = self._error()
        if error is not None and not return_exceptions:
            try:
                raise error.with_traceback(None)
            finally:
                del error
        if self._collected is None:
            if self._errors:
                pieces = [self._piece(index) for index in range(len(self._keys))]
            else:
                pieces = list(map(self._values.__getitem__, self._keys))
            joined = self._join(pieces)
            if error is not None:
                return joined
            self._collected = joined
        return self._collected

    def _piece(self, index: int) -> Any:
        """Return one task's value, or its error."""
        key = self._keys[index]
        return self._errors[key] if key in self._errors else self._values[key]

    def _join(self, pieces: list[Any]) -> list[Any]:
        """Hook: make the whole value of the tasks' values."""
        return pieces

    # -- as a container --------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Yield values in order as they come, waiting for each; a failed one is raised."""
        if self._collected is not None:
            yield from self._collected
            return
        for index in range(len(self._keys)):
            yield self._wait_piece(index)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield values in order as they come, in a coroutine: ``async for value in ar``."""
        from ipclusterz.client.asyncitems import pieces  # brings asyncio along

        return pieces(self, range(len(self._keys)))

    def _wait_piece(self, index: int, deadline: float | None = None) -> Any:
        key = self._keys[index]
        if key not in self._got:
            self._wait_until(lambda: key in self._got, deadline)
        error = self._settle(index)
        if error is not None and not self._return_exceptions:
            raise error.with_traceback(None)
        return self._piece(index)

    def _wait_until(self, there: Callable[[], bool], deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._session.wait(there, left, (self,)):
            raise self._late(None)

    def _check_ready(self, key: int | slice) -> None:
        if self._state == FINISHED:
            return
        chosen = range(len(self._keys))[key]
        wanted = [chosen] if isinstance(chosen, int) else chosen
        if not all(self._keys[index] in self._got for index in wanted):
            raise self._late(None)

    def __getitem__(self, key: int | slice | str) -> Any:
        """Return the value at an index or a slice (TimeoutError before it is there).

        With a fact's name, such as ``'engine_id'``, return that of each task.
        """
        if isinstance(key, str) or self._state == FINISHED:
            return super().__getitem__(key)
        self._check_ready(key)
        if isinstance(key, slice):
            return [self._wait_piece(index) for index in range(len(self._keys))[key]]
        return self._wait_piece(range(len(self._keys))[key])


class DirectResult(GroupResult):
    """The result of the same work on several engines, in the order of targets."""

    _direct = True


class ExecuteGroup(DirectResult):
    """The result of executing code on several engines: an ExecuteReply of each."""

    _code = ""

    def _convert(self, value: Any, raw: Result) -> ExecuteReply:
        return reply(raw.engine, value, lambda: self._record(self._keys.index(raw.key)))

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        record["execute_input"] = self._code
        if raw is not None and raw.status == OK and self._settle(index) is None:
            record["execute_result"] = self._piece(index).execute_result


class AsyncMapResult(GroupResult):
    """The result of a map: iterating yields items as they come, ``get()`` their list.

    ``len()`` and :attr:`progress` count items.  With ``ordered=False`` iteration yields
    items as they come in; ``get()`` keeps the order of the input always.
    """

    _shown = "AsyncMapResult"

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        sizes: list[int] | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        direct: bool = False,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """``sizes`` holds the number of items of each task; None: each task is one item."""
        super().__init__(session, name)
        self._sizes = sizes
        self._converts = sizes is not None and return_exceptions
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._direct = direct
        self._joiner = join
        self._came: list[int] = []

    def _arrived(self, key: int) -> None:
        if not self._ordered:
            self._came.append(key)

    @property
    def progress(self) -> int:
        """How many items are done, of ``len(self)``."""
        sizes = self._sizes
        if sizes is None:
            return len(self._got)
        pairs = zip(self._keys, sizes, strict=False)
        return sum(size for key, size in pairs if key in self._got)

    def __len__(self) -> int:
        return len(self._keys) if self._sizes is None else sum(self._sizes)

    def _convert(self, value: Any, raw: Result) -> Any:
        if self._sizes is not None and self._return_exceptions and type(value) is list:
            outcome.make_errors(value, raw.engine)
        return value

    def _piece(self, index: int) -> Any:
        piece = super()._piece(index)
        if self._sizes is not None and self._keys[index] in self._errors:
            return [piece] * self._sizes[index]
        return piece

    def _join(self, pieces: list[Any]) -> Any:
        if self._joiner is not None:
            return self._joiner(pieces)
        if self._sizes is None:
            return pieces
        return [item for piece in pieces for item in piece]

    def __iter__(self) -> Iterator[Any]:
        """Yield items as they come, in order unless ``ordered=False``; errors are raised."""
        return self.iterate()

    def iterate(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield items as iterating does; TimeoutError ``timeout`` seconds after this call."""
        return self._iterate(None if timeout is None else time.monotonic() + timeout)

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield items as iterating does, in a coroutine: ``async for item in ar``."""
        from ipclusterz.client.asyncitems import pieces  # brings asyncio along

        if self._joiner is not None:
            for item in await self:
                yield item
            return
        order = range(len(self._keys)) if self._ordered else None
        async for piece in pieces(self, order):
            if self._sizes is None:
                yield piece
            else:
                for item in piece:
                    yield item

    def _iterate(self, deadline: float | None) -> Iterator[Any]:
        if self._collected is not None or self._joiner is not None:
            if not self.done():
                self._wait_until(self.done, deadline)
            yield from self.get()
            return
        order = range(len(self._keys)) if self._ordered else self._as_they_come(deadline)
        for index in order:
            piece = self._wait_piece(index, deadline)
            if self._sizes is None:
                yield piece
            else:
                yield from piece

    def _as_they_come(self, deadline: float | None) -> Iterator[int]:
        places = {key: index for index, key in enumerate(self._keys)}
        came = self._came
        for count in range(len(places)):
            if len(came) <= count:
                self._wait_until(lambda n=count: len(came) > n, deadline)  # type: ignore[misc]
            yield places[came[count]]

    def __getitem__(self, key: int | slice | str) -> Any:
        """Return the item at an index or a slice; TimeoutError before it is there."""
        if self._sizes is None or isinstance(key, str) or self._state == FINISHED:
            return super().__getitem__(key)
        if isinstance(key, slice):
            return [self[index] for index in range(len(self))[key]]
        at = range(len(self))[key]
        for index, size in enumerate(self._sizes):
            if at < size:
                self._check_ready(index)
                return self._wait_piece(index)[at]
            at -= size
        raise IndexError(key)
