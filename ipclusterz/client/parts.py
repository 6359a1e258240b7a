"""One of a result's tasks as a result of its own, and several results as one.

What ``AsyncResult.split()`` and ``AsyncResult.join()`` make.  Both only look at the results
they are made of, which keep what has arrived.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures._base import FINISHED
from itertools import chain
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.asyncresult import LOCK, AsyncResult
from ipclusterz.core.message import Result

if TYPE_CHECKING:
    from ipclusterz.client.group import GroupResult
    from ipclusterz.client.outcome import Metadata
    from ipclusterz.client.output import Texts


class PartResult(AsyncResult):
    """One task of a :class:`~ipclusterz.client.group.GroupResult`."""

    _single = True

    def __init__(self, group: GroupResult, index: int) -> None:
        self._group = group
        self._index = index
        self._key = group.task_keys()[index]
        self._session = group._session
        self._name = group._name
        self._submitted = group._submitted
        self._label = group._label
        self._direct = group._direct
        self._return_exceptions = group._return_exceptions

    def come(self) -> None:
        """Become finished; called when the group has got the task's result."""
        self._received = time.time()
        with LOCK:
            if self._state != FINISHED:
                self._finish()

    def task_keys(self) -> Sequence[int]:
        """Return the task's key."""
        return (self._key,)

    def _raws(self) -> list[Result | None]:
        return [self._group._got.get(self._key)]

    def _texts(self, index: int) -> Texts | None:
        return self._group._texts(self._index)

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        self._group._add_facts(self._index, raw, record)

    def _error(self) -> BaseException | None:
        return self._group._settle(self._index)

    def _collect(self, return_exceptions: bool) -> Any:
        error = self._error()
        if error is not None and not return_exceptions:
            raise error.with_traceback(None)
        return self._group._piece(self._index) if error is None else error


class JoinedResult(AsyncResult):
    """Several results as one: its value is the list of what their tasks gave."""

    def __init__(self, results: Sequence[AsyncResult]) -> None:
        first = results[0]
        self._of = list(results)
        self._session = first._session
        self._name = first._name
        self._submitted = min(one._submitted for one in results)
        self._return_exceptions = first._return_exceptions
        self._left = len(self._of)
        for one in self._of:
            one._when_finished(self._one_came)

    def _one_came(self) -> None:
        with LOCK:
            self._left -= 1
            if self._left == 0:
                self._received = max(one._received for one in self._of)
                self._finish()

    def task_keys(self) -> Sequence[int]:
        """Return the keys of all their tasks."""
        return list(chain.from_iterable(one.task_keys() for one in self._of))

    def _raws(self) -> list[Result | None]:
        return list(chain.from_iterable(one._raws() for one in self._of))

    def _find(self, index: int) -> tuple[AsyncResult, int]:
        for one in self._of:
            count = len(one.task_keys())
            if index < count:
                return one, index
            index -= count
        raise IndexError(index)

    def _texts(self, index: int) -> Texts | None:
        one, place = self._find(index)
        return one._texts(place)

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        one, place = self._find(index)
        one._add_facts(place, raw, record)

    def _error(self) -> BaseException | None:
        errors = []
        for one in self._of:
            error = one._error()
            if error is not None:
                errors.append((getattr(error, "engine_id", -1), error))
        return outcome.composite(self._name, errors) if errors else None

    def _collect(self, return_exceptions: bool) -> Any:
        if not return_exceptions:
            error = self._error()
            if error is not None:
                raise error
        return list(chain.from_iterable(_values(one, return_exceptions) for one in self._of))

    def __iter__(self) -> Iterator[Any]:
        """Yield values in order as they come; a failed one is raised."""
        for one in self._of:
            yield from _values(one, self._return_exceptions)

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield values in order as they come, in a coroutine."""
        for one in self._of:
            if one._single:
                yield await one
            else:
                async for value in one:
                    yield value

    def abort(self) -> None:
        """Give up the tasks that have not begun: see :meth:`AsyncResult.abort`."""
        for one in self._of:
            one.abort()


def _values(one: AsyncResult, return_exceptions: bool) -> list[Any]:
    value = one.get(return_exceptions=return_exceptions)
    return [value] if one._single else list(value)
