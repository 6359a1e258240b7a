"""The result of one task: as light as it can be, for sessions make them by the million."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.asyncresult import LOCK, AsyncResult
from ipclusterz.client.facts import OK
from ipclusterz.client.outcome import Metadata
from ipclusterz.core.message import Result

if TYPE_CHECKING:
    from ipclusterz.client.output import Texts
    from ipclusterz.client.session import Session

_MISSING: Any = object()
_clock = time.time


class TaskResult(AsyncResult):
    """An :class:`AsyncResult` of one task: its value is the task's own."""

    # Defaults on the class: an attribute that is never set costs nothing.
    _single = True
    _key = 0
    _raw: Result | None = None
    _value: Any = _MISSING
    _failed: BaseException | None = None
    _text: Texts | None = None

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self._submitted = _clock()

    def deliver(self, key: int, result: Result) -> None:
        """Take the result; called once, under the I/O lock."""
        self._key = key  # the sender may not have come round to it yet
        self._raw = result
        self._received = _clock()
        session = self._session
        session.live.discard(self)
        if result.out or key in session.outputs.open:
            self._text = session.outputs.claim(key, result.out)
        with LOCK:
            self._state = FINISHED
            if self._watched:
                self._announce()

    def task_keys(self) -> Sequence[int]:
        """Return the task's key; empty in the instant before it has one."""
        return (self._key,) if self._key else ()

    def _raws(self) -> list[Result | None]:
        return [self._raw]

    def _texts(self, index: int) -> Texts | None:
        if self._raw is None:
            return self._session.outputs.peek(self._key)
        return self._text

    def _collect(self, return_exceptions: bool) -> Any:
        if self._value is not _MISSING:
            return self._value
        error = self._error()
        if error is None:
            return self._value
        if return_exceptions:
            return error
        try:
            raise error.with_traceback(None)
        finally:
            del error  # no cycle through the traceback's frames

    def _error(self) -> BaseException | None:
        """Decode once.  Two threads may both do it; the first to finish settles it."""
        if self._value is not _MISSING or self._failed is not None:
            return self._failed
        session, raw = self._session, self._raw
        assert raw is not None, "decoded before it was delivered"
        if raw.status != OK:
            self._failed = outcome.error_of(session, raw)
            return self._failed
        try:
            value = self._convert(outcome.value_of(session, raw))
        except Exception as error:
            if self._value is _MISSING:  # the other thread may have released the body
                self._failed = error
                return error
            return None
        self._value = value
        self._raw = outcome.slim(raw)
        if raw.body is not None:
            session.connection.release(raw)
        return None

    def _convert(self, value: Any) -> Any:
        """Hook: make of the decoded value what users get."""
        return value


class ExecuteReply:
    """What executing code gave: the engine, and the last expression as text or None.

    >>> ExecuteReply(2, "42")
    <ExecuteReply[2]: 42>
    """

    __slots__ = ("engine_id", "text")

    def __init__(self, engine_id: int, text: str | None) -> None:
        self.engine_id = engine_id
        self.text = text

    @property
    def execute_result(self) -> str | None:
        """The last expression's repr, or None."""
        return self.text

    def __repr__(self) -> str:
        return f"<ExecuteReply[{self.engine_id}]: {self.text or ''}>"


class ExecuteResult(TaskResult):
    """The result of executing code on one engine: an :class:`ExecuteReply`."""

    _code = ""

    def _convert(self, value: Any) -> Any:
        raw = self._raw
        return reply(raw.engine if raw is not None else -1, value)

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        record["execute_input"] = self._code
        if raw is not None and raw.status == OK and self._error() is None:
            record["execute_result"] = self._value.text


def reply(engine: int, value: Any) -> ExecuteReply:
    """Make an :class:`ExecuteReply` of what an engine answers to EXECUTE."""
    return ExecuteReply(engine, value.get("repr") if isinstance(value, dict) else None)


def name_of(f: Callable[..., Any]) -> str:
    """Return a function's name for people."""
    try:
        return f.__name__
    except AttributeError:  # a partial, or another callable object
        return type(f).__name__
