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

from ipclusterz.core.message import Failure
from ipclusterz.engine import serialize

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

    Frames of this package are left out.  Long texts are cut in the middle, and an exception
    that does not pickle, or not come back from it, travels as text alone; so the result
    always fits a batch.
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


def _pickled(error: BaseException) -> bytes:
    try:
        parts = serialize.pack(error)
        if serialize.total(parts) > _PICKLE_LIMIT:
            return b""
        data = serialize.one_block(error) if len(parts) > 1 else bytes(parts[0])
        if type(error).__module__ != "builtins":  # those with their own __init__ often fail
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
