"""How an exception on an engine becomes a message.

Lives here: tracebacks for people, and the pickled exception where it survives the journey.
May know: :class:`~ipclusterz.core.message.Failure` and the serialiser.  Must not know:
tasks, sockets.
"""

from __future__ import annotations

import os
import pickle
import traceback
from types import TracebackType
from typing import Any

from ipclusterz.core.message import Failure
from ipclusterz.engine import serialize
from ipclusterz.error import bare

_TEXT_LIMIT = 8 * 1024
_TRACEBACK_LIMIT = 20 * 1024
_PICKLE_LIMIT = 16 * 1024
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


class LoadError(Exception):
    """Something that was sent could not be unpickled here; its cause tells why."""

    def __init__(self, what: str, cause: BaseException) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause


class ItemError(Exception):
    """One item of a chunk failed; its cause tells why."""

    def __init__(self, index: int, cause: BaseException) -> None:
        super().__init__(index)
        self.index = index
        self.cause = cause


class CodeError(Exception):
    """Code that was executed raised its cause; ``traceback`` is how to show that."""

    def __init__(self, cause: BaseException, traceback: str) -> None:
        super().__init__(traceback)
        self.cause = cause
        self.traceback = traceback


def failure(error: BaseException, engine: int = -1) -> Failure:
    """Describe ``error``: its type, text, formatted traceback and, where possible, itself.

    Frames of this package are left out.  Long texts are cut in the middle.  Of an exception
    that is too long, does not pickle, or does not come back from it, only what does travels
    with its type; where that cannot be had either, its text alone.  So the result always
    fits a batch.
    """
    shown = ""
    if isinstance(error, CodeError):
        shown, error = error.traceback, error.cause
    error, note = _unwrap(error)
    text = _text(error)
    return Failure(
        name=type(error).__name__,
        text=_cut(f"{text} {note}".strip() if note else text, _TEXT_LIMIT),
        traceback=_cut(shown or traceback_of(error, note), _TRACEBACK_LIMIT),
        engine=engine,
        pickled=_pickled(error),
    )


def _unwrap(error: BaseException) -> tuple[BaseException, str]:
    notes = []
    while isinstance(error, LoadError | ItemError):
        if isinstance(error, ItemError):
            notes.append(f"(item {error.index} of the chunk)")
        else:
            notes.append(f"({error.what} could not be loaded on the engine)")
        error = error.cause
    return error, " ".join(notes)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"<no text: its __str__ raised {type(second).__name__}>"


def traceback_of(error: BaseException, note: str = "") -> str:
    """Return the formatted traceback, frames of this package left out."""
    try:
        lines = traceback.format_exception(
            type(error), error, _foreign(error.__traceback__), chain=True
        )
    except Exception:
        lines = [f"{type(error).__name__}: {_text(error)}\n"]
    if note:
        lines.append(f"{note}\n")
    return "".join(lines)


def _foreign(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame on that is not of this package."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


class _Bare:
    """An error's type and what of it can travel, for one that pickle does not bring."""

    def __init__(self, error: BaseException) -> None:
        state = {name: value for name, value in vars(error).items() if _fits(value)}
        args = error.args if _fits(error.args) else ()
        self._made_of = (type(error), args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return (bare, self._made_of)


def _fits(value: object) -> bool:
    return bool(_stream(value, _PICKLE_LIMIT // 8))


def _pickled(error: BaseException) -> bytes:
    return _stream(error, _PICKLE_LIMIT) or _stream(_Bare(error), _PICKLE_LIMIT)


def _stream(obj: object, limit: int) -> bytes:
    """Return ``obj`` pickled; nothing where that is too long, or does not come back."""
    try:
        parts = serialize.pack(obj)
        if serialize.total(parts) > limit:
            return b""
        data = serialize.one_block(obj) if len(parts) > 1 else bytes(parts[0])
        if type(obj).__module__ != "builtins":  # those with their own __init__ often fail
            pickle.loads(data)
        return data
    except Exception:
        return b""


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    head = data[: limit // 3].decode("utf-8", "ignore")
    tail = data[-(limit // 3 * 2) :].decode("utf-8", "ignore")
    return f"{head}\n... {len(data) - limit} bytes left out ...\n{tail}"
