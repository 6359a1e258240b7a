"""From a raw result message to a value, an error, or facts about how it went.

Runs in the thread that asks, never in the one that reads sockets: unpickling runs user
code and takes time.  Pure but for the session's ``load`` and ``release``.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ipclusterz.client.futures import Cancelled, known
from ipclusterz.core.message import UNDECODABLE, Failure, Result, Status
from ipclusterz.engine import serialize
from ipclusterz.error import (
    CompositeError,
    KernelError,
    RemoteError,
    SerializationError,
    remember,
    remote_error,
)
from ipclusterz.net import signals

if TYPE_CHECKING:
    from datetime import datetime

    from ipclusterz.client.session import Session

KEPT = 1024
"""Payload bytes up to which a decoded result keeps them: copying the rest costs more."""

_NONE = serialize.NONE
_OK, _ABORTED = int(Status.OK), int(Status.ABORTED)
_WORDS = {
    Status.OK: "ok",
    Status.ERROR: "error",
    Status.DIED: "died",
    Status.ABORTED: "aborted",
    Status.LOST: "lost",
    Status.REFUSED: "refused",
    Status.UNMET: "unmet",
}

_ATTEMPTS = (1 << 20) - 1  # above them the generation of the scheduler is counted

_failure = msgspec.msgpack.Decoder(Failure)


def value_of(session: Session, raw: Result) -> Any:
    """Return the value of a task that ended well; raises SerializationError."""
    data = raw.data
    if data == _NONE:
        return None
    try:
        if raw.body is None and (len(data) <= serialize.TINY or serialize.is_small(data)):
            return pickle.loads(data)
        parts = session.connection.load(raw)
        value = serialize.loads(parts[0], parts[1:])
    except SerializationError:
        raise
    except Exception as error:
        if signals.raised(error):
            raise
        raise SerializationError(
            f"the result of task {session.msg_id(raw.key)} cannot be unpickled here:"
            f" {type(error).__name__}: {error}; what it needs must be importable in the"
            " client as well"
        ) from error
    return value


def error_of(session: Session, raw: Result) -> KernelError | None:
    """Return the error of a task that failed, or None for one that ended well."""
    if raw.status == _OK:
        return None
    if raw.status == _ABORTED:
        return Cancelled(f"task {session.msg_id(raw.key)} was {_how(raw)}")
    if raw.body is not None:
        data = b"".join(bytes(part) for part in session.connection.load(raw))
    else:
        data = raw.data
    try:
        return known(remote_error(_failure.decode(data)))
    except (ValueError, *UNDECODABLE):
        return RemoteError(
            _WORDS.get(Status(raw.status), "failed"),
            f"task {session.msg_id(raw.key)} ended without a readable reason",
            "",
            raw.engine,
        )


def _how(raw: Result) -> str:
    """Return how a task was given up."""
    try:
        return _failure.decode(raw.data).text
    except UNDECODABLE:
        return "cancelled before it began"


def make_errors(values: list[Any], engine: int) -> None:
    """Put an exception in the place of each item of a chunk that failed."""
    for index, item in enumerate(values):
        if type(item) is Failure:
            item.engine = engine if item.engine < 0 else item.engine
            values[index] = remote_error(item)


def slim(raw: Result) -> Result:
    """Return what of a result must be kept once its payload has been decoded."""
    if raw.body is None and len(raw.data) <= KEPT:
        return raw
    return Result(
        raw.key,
        raw.attempt,
        raw.engine,
        raw.status,
        b"",
        None,
        raw.started,
        raw.finished,
        raw.out,
    )


_composites: dict[type[BaseException], type[CompositeError]] = {}


def composite(name: str, errors: Sequence[tuple[int, BaseException]]) -> CompositeError:
    """Make one error of several, given as (engine id, error) pairs.

    When all are of one type, the result is an instance of that type too, so that
    ``except ZeroDivisionError`` works for work sent to many engines.
    """
    elist = []
    for engine, error in errors:
        if isinstance(error, RemoteError):
            elist.append((error.ename, error.evalue, error.traceback, error.engine_id))
        else:
            elist.append((type(error).__name__, str(error), "", engine))
    kinds = {type(error) for _, error in errors}
    kind = _composite_type(kinds.pop()) if len(kinds) == 1 else CompositeError
    made = kind.__new__(kind)
    CompositeError.__init__(made, f"one or more exceptions raised in: {name}", elist)
    return made


def _composite_type(kind: type[BaseException]) -> type[CompositeError]:
    # Of a RemoteError's dynamic subclass only the original type is wanted.
    original = kind
    if issubclass(kind, RemoteError):
        if len(kind.__bases__) != 2 or kind.__bases__[0] is not RemoteError:
            return CompositeError
        original = cast("type[BaseException]", kind.__bases__[1])
    made = _composites.get(original)
    if made is None:
        try:
            made = cast(
                "type[CompositeError]",
                type(
                    "CompositeError",
                    (CompositeError, original),
                    {"__module__": CompositeError.__module__, **_shown(original)},
                ),
            )
            made.__new__(made)
        except Exception:  # layouts that cannot be combined, or a class with other demands
            made = CompositeError
        remember(_composites, original, made)
    return made


def _shown(kind: type[BaseException]) -> dict[str, Any]:
    """Return what a composite type needs besides to be shown as all others are.

    Of a SyntaxError IPython shows nothing but ``msg``.
    """
    if not issubclass(kind, SyntaxError):
        return {}
    whole = property(lambda self: "\n".join(self._render_traceback_()), lambda self, msg: None)
    return {"msg": whole}


class Metadata(dict[str, Any]):
    """Facts about one task; keys can be read as attributes as well.

    ``submitted``, ``started``, ``completed`` and ``received`` are aware datetimes in UTC or
    None, ``status`` is ``'ok'``, ``'error'``, ``'aborted'``, ``'died'``, ``'lost'`` or
    ``'refused'``, ``'unmet'``, or None while the task is under way.

    >>> Metadata(engine_id=3).engine_id
    3
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"there is no {name!r} among a task's facts: {', '.join(sorted(self))}"
            ) from None


def metadata(
    session: Session,
    key: int,
    raw: Result | None,
    submitted: float,
    received: float,
    label: str | None,
) -> Metadata:
    """Collect the facts about one task, without its output."""
    done = raw is not None
    engine = raw.engine if raw is not None and raw.engine >= 0 else None
    info = session.connection.engines.get(engine) if engine is not None else None
    return Metadata(
        msg_id=session.msg_id(key) if key else None,
        submitted=instant(submitted),
        started=instant(raw.started) if raw is not None else None,
        completed=instant(raw.finished) if raw is not None else None,
        received=instant(received) if done else None,
        engine_id=engine,
        engine_uuid=f"{info.agent.hex()}_{engine}" if info is not None else None,
        attempt=raw.attempt & _ATTEMPTS if raw is not None else None,
        status=_WORDS.get(Status(raw.status)) if raw is not None else None,
        follow=None,
        after=None,
        execute_input=None,
        execute_result=None,
        error=None,
        stdout="",
        stderr="",
        outputs=[],
        data={},
        label=label,
    )


def instant(seconds: float) -> datetime | None:
    """Return seconds since the epoch as an aware datetime in UTC; 0 is never."""
    if not seconds:
        return None
    from datetime import UTC, datetime  # 1 ms, and few ask

    return datetime.fromtimestamp(seconds, UTC)
