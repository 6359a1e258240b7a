"""The result of one task: as light as it can be, for sessions make them by the million."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.asyncresult import LOCK, AsyncResult
from ipclusterz.client.facts import OK
from ipclusterz.client.outcome import Metadata
from ipclusterz.core.message import Result
from ipclusterz.net import signals

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
    _converts = False

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
            value = outcome.value_of(session, raw)
            if self._converts:
                value = self._convert(value)
        except Exception as error:
            if signals.raised(error):
                raise
            if self._value is _MISSING:  # the other thread may have released the body
                self._failed = error
                return error
            return None
        self._value = value
        if raw.body is not None or len(raw.data) > outcome.KEPT:
            self._raw = outcome.slim(raw)
            if raw.body is not None:
                session.connection.release(raw)
        return None

    def _convert(self, value: Any) -> Any:
        """Hook: make of the decoded value what users get; asked if :attr:`_converts`."""
        return value


class ExecuteReply:
    """What executing code gave: the engine, and what the last expression showed.

    ``data`` holds it by MIME type (``text/plain``, ``text/html``, ...; bytes as base64), empty
    where there is nothing to show.  Facts of the task, such as ``stdout``, can be read as
    attributes or items.  In a notebook it is displayed as the value would be.

    >>> ExecuteReply(2, {"data": {"text/plain": "42"}, "count": 7})
    <ExecuteReply[7]: 42>
    """

    __slots__ = ("_facts", "_shown", "engine_id", "execution_count")

    def __init__(
        self,
        engine_id: int,
        shown: Mapping[str, Any],
        facts: Callable[[], Metadata] = Metadata,
    ) -> None:
        self.engine_id = engine_id
        self.execution_count: int | None = shown.get("count")
        self._shown = shown
        self._facts = facts

    @property
    def data(self) -> dict[str, Any]:
        """The last expression's value by MIME type."""
        return self._shown.get("data") or {}

    @property
    def text(self) -> str | None:
        """The last expression's value as text, or None."""
        return self.data.get("text/plain")

    @property
    def execute_result(self) -> dict[str, Any] | None:
        """``data``, ``metadata`` and ``execution_count`` of the value, or None."""
        if not self.data:
            return None
        return {
            "data": self.data,
            "metadata": self._shown.get("metadata") or {},
            "execution_count": self.execution_count,
        }

    @property
    def metadata(self) -> Metadata:
        """The facts about the task."""
        return self._facts()

    def display(self) -> None:
        """Show the value: as IPython does, or its text where there is no IPython."""
        from ipclusterz.client.display import Screen  # few need it

        Screen().values([(self.engine_id, self)])

    def __getitem__(self, key: str) -> Any:
        return self._facts()[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._facts(), name)

    def __repr__(self) -> str:
        text = self.text or ""
        count = "" if self.execution_count is None else self.execution_count
        return f"<ExecuteReply[{count}]: {text if len(text) <= 32 else text[:29] + '...'}>"

    def prompt(self, engines: str = "", count: bool = True) -> str:
        """Return what stands before the value: ``Out[2:7]:``, engine and execution count."""
        number = self.execution_count if count else None
        return f"Out[{engines or self.engine_id}{'' if number is None else f':{number}'}]:"

    def labelled(self, prompt: str) -> str:
        """Return the value as text after its prompt."""
        text = self.text or ""
        return prompt + ("\n" if "\n" in text else " ") + text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if not self.data:
            return {"text/plain": repr(self)}, {}
        shown = {**self.data, "text/plain": self.labelled(self.prompt())}
        return shown, self._shown.get("metadata") or {}


class ExecuteResult(TaskResult):
    """The result of executing code on one engine: an :class:`ExecuteReply`."""

    _code = ""
    _converts = True

    def _convert(self, value: Any) -> Any:
        raw = self._raw
        return reply(raw.engine if raw is not None else -1, value, lambda: self._record(0))

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        record["execute_input"] = self._code
        if raw is not None and raw.status == OK and self._error() is None:
            record["execute_result"] = self._value.execute_result


def reply(engine: int, value: Any, facts: Callable[[], Metadata]) -> ExecuteReply:
    """Make an :class:`ExecuteReply` of what an engine answers to EXECUTE."""
    return ExecuteReply(engine, value if isinstance(value, dict) else {}, facts)


def name_of(f: Callable[..., Any]) -> str:
    """Return a function's name for people."""
    try:
        return f.__name__
    except AttributeError:  # a partial, or another callable object
        return type(f).__name__
