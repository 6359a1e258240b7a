"""Every error a user can meet, as one tree.

::

    KernelError
    ├── ClusterError              a cluster or a part of it could not be started or stopped
    │   └── LaunchError           a process could not be started, or ended too early
    ├── ConnectorError            a connector file that cannot be used, with the remedy
    ├── AuthenticationError       the controller does not accept the key (or we not its)
    ├── SSHError                  an SSH server cannot be used: which, why, what helps
    ├── ControllerLost            the controller is gone for good
    ├── TimeoutError              also a built-in TimeoutError
    ├── EngineError               an engine died, with its death certificate
    │   └── TaskLost              … or cannot be reached: the task may have run
    ├── NoEnginesRegistered       there is nothing to run on
    ├── TaskAborted               cancelled before it began
    ├── TaskTimeout
    ├── UnmetDependency
    │   └── ImpossibleDependency
    │       ├── InvalidDependency
    │       └── DependencyTimeout also a TaskTimeout
    ├── TaskNotFound              nobody knows a task of that name; also a KeyError
    │   └── ResultNotKept         … or not its result any more
    ├── SerializationError        something cannot be pickled or unpickled
    └── RemoteError               user code failed on an engine
        └── CompositeError        … on several

A :class:`RemoteError` made by :func:`remote_error` is also an instance of the original
exception's type, so ``except ValueError`` works across processes.
"""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Iterable, Sequence
from types import MemberDescriptorType
from typing import Any, Protocol


class KernelError(Exception):
    """Base of all errors of ipclusterz."""


class ClusterError(KernelError):
    """A cluster, or a part of it, could not be started, found or stopped."""


class LaunchError(ClusterError):
    """A process could not be started, or ended before it was ready."""


class ConnectorError(KernelError):
    """A connector file is missing, damaged or not private; the message says what to do."""


class AuthenticationError(KernelError):
    """The controller refused our key, or could not prove its own."""


class SSHError(KernelError):
    """An SSH server could not be reached or used; one line names host, cause and remedy.

    ``kind`` is ``'trust'`` (its host key is unknown or another one), ``'login'`` (it does
    not let us in), ``'busy'`` (it hung up before it heard who we are) or ``''``.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class ControllerLost(KernelError):
    """The controller is gone and cannot come back with the keys we hold."""


class TimeoutError(KernelError, builtins.TimeoutError):
    """Something took longer than the caller allowed; it may still come."""


class EngineError(KernelError):
    """An engine died; the message is its death certificate."""


class TaskLost(EngineError):
    """The engine's host cannot be reached: the task may have run, or may not."""


class NoEnginesRegistered(KernelError):
    """There is no engine to do the work."""


class TaskAborted(KernelError):
    """The task was cancelled before it began."""


class TaskTimeout(KernelError):
    """The task was not started or finished within its time."""


class UnmetDependency(KernelError):
    """A dependency of the task is not met here."""


class ImpossibleDependency(UnmetDependency):
    """A dependency of the task can never be met."""


class InvalidDependency(ImpossibleDependency):
    """The dependency is not one: unknown task or wrong type."""


class DependencyTimeout(ImpossibleDependency, TaskTimeout):
    """The dependency was not met in time."""


class TaskNotFound(KernelError, KeyError):
    """Nobody knows a task of this name (any more)."""

    __str__ = Exception.__str__  # a KeyError shows its text in quotes


class ResultNotKept(TaskNotFound):
    """A task is remembered, but not its result, or not what it was sent with."""


class SerializationError(KernelError):
    """An object cannot be sent: it cannot be pickled here or unpickled there."""


class RemoteError(KernelError):
    """User code raised on an engine.

    ``ename`` and ``evalue`` are the original exception's type and text, ``traceback`` the
    engine's formatted traceback, ``engine_id`` where it happened (-1: nowhere in
    particular).
    """

    ename: str
    evalue: str
    traceback: str
    engine_id: int

    def __init__(
        self, ename: str, evalue: str, traceback: str = "", engine_id: int = -1
    ) -> None:
        Exception.__init__(self, ename, evalue)
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback
        self.engine_id = engine_id

    @property
    def engine_info(self) -> dict[str, int | str]:
        """Where it happened, as a dict: ``engine_id``; for compatibility."""
        return {"engine_id": self.engine_id, "engine_uuid": "", "method": ""}

    def render_traceback(self) -> list[str]:
        """Return the remote traceback's lines."""
        return (self.traceback or f"{self.ename}: {self.evalue}").splitlines()

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: where it happened there, not where it was raised here."""
        head = [f"[engine {self.engine_id}]"] if self.engine_id >= 0 else []
        return head + self.render_traceback()

    def print_traceback(self) -> None:
        """Print the remote traceback to standard output."""
        print("\n".join(self.render_traceback()))

    def __str__(self) -> str:
        where = f"[engine {self.engine_id}] " if self.engine_id >= 0 else ""
        head = f"{where}{self.ename}: {self.evalue}"
        if not self.traceback:
            return head
        return f"{head}\n\n{self.traceback.rstrip()}"

    def __repr__(self) -> str:
        return f"<RemoteError[{self.engine_id}]: {self.ename}({self.evalue})>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The dynamic subclasses of remote_error cannot be found by name; travel as the base.
        return (RemoteError, (self.ename, self.evalue, self.traceback, self.engine_id))


class CompositeError(RemoteError):
    """Several engines failed: ``elist`` holds (ename, evalue, traceback, engine_id) of each."""

    msg: str
    elist: list[tuple[str, str, str, int]]
    tb_limit = 8
    """How many different errors are shown; equal ones count once."""

    def __init__(self, msg: str, elist: Sequence[tuple[str, str, str, int]]) -> None:
        super().__init__("CompositeError", msg)
        self.msg = self._head = msg
        self.elist = list(elist)

    def _alike(self, tracebacks: bool) -> list[tuple[str, tuple[str, str, str, int]]]:
        """Return the errors that differ, each with the engines that raised it."""
        found: dict[tuple[str, ...], list[tuple[str, str, str, int]]] = {}
        for entry in self.elist:
            ename, evalue, traceback, _ = entry
            key = (ename, _unnumbered(evalue), _unnumbered(traceback) if tracebacks else "")
            found.setdefault(key, []).append(entry)
        return [(_engines([one[3] for one in same]), same[0]) for same in found.values()]

    def render_traceback(self) -> list[str]:
        """Return the remote tracebacks' lines: equal ones once, with all their engines."""
        lines: list[str] = []
        different = self._alike(True)
        for engines, (ename, evalue, traceback, _) in different[: self.tb_limit]:
            lines.append(f"{engines}{ename}: {evalue}")
            lines.extend("  " + line for line in traceback.splitlines())
        return lines + _more(len(different) - self.tb_limit)

    def _render_traceback_(self) -> list[str]:
        return [self._head, *self.render_traceback()]

    def raise_exception(self, index: int = 0) -> None:
        """Raise the error with the given index as a RemoteError of its own."""
        try:
            ename, evalue, traceback, engine = self.elist[index]
        except IndexError:
            raise IndexError(
                f"there are {len(self.elist)} errors; {index} is not one of them"
            ) from None
        raise RemoteError(ename, evalue, traceback, engine)

    def __str__(self) -> str:
        different = self._alike(False)
        shown = [
            f"{engines}{ename}: {evalue}"
            for engines, (ename, evalue, _, _) in different[: self.tb_limit]
        ]
        return "\n".join([self._head, *shown, *_more(len(different) - self.tb_limit)])

    def __repr__(self) -> str:
        return f"<CompositeError({len(self.elist)})>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (CompositeError, (self._head, self.elist))


def ranges(numbers: Iterable[int]) -> str:
    """Return engine ids as short text.

    >>> ranges([0, 1, 2, 7])
    '0-2,7'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _engines(numbers: Sequence[int]) -> str:
    """Return what stands before an error; nothing where it happened on no engine (-1)."""
    known = {number for number in numbers if number >= 0}
    return f"[engine{'s' if len(known) > 1 else ''} {ranges(known)}] " if known else ""


def _unnumbered(text: str) -> str:
    """Return what is told of an error without cells' numbers: each engine counts its own."""
    import re

    return re.sub(r"In\[\d+\]|<execute \d+>|<ipython-input-\d+-\w+>", "", text)


def _more(count: int) -> list[str]:
    return [f"... and {count} more that differ"] if count > 0 else []


class _Failure(Protocol):
    name: str
    text: str
    traceback: str
    engine: int
    pickled: bytes


KINDS = 500
"""Types of errors that are remembered; a task may make a new one each time."""

_mixed: dict[type[BaseException], type[RemoteError]] = {}


def remote_error(failure: _Failure) -> KernelError:
    """Make the exception that a caller sees for a failure that happened elsewhere.

    Errors of our own tree come back as themselves; others as a :class:`RemoteError` that is
    also an instance of the original type when that could be unpickled here.
    """
    original = _unpickle(failure.pickled)
    if original is None:
        ours = globals().get(failure.name)
        if not failure.traceback and isinstance(ours, type) and _is_plain(ours):
            made: KernelError = ours(failure.text)
            return made
        return RemoteError(failure.name, failure.text, failure.traceback, failure.engine)
    if isinstance(original, KernelError) and not failure.traceback:
        return original
    said = (failure.name, failure.text, failure.traceback, failure.engine)
    try:
        made = _empty(_mix(type(original)), original)
        RemoteError.__init__(made, *said)
        made.__dict__.update({k: v for k, v in vars(original).items() if k not in vars(made)})
        if type(made) is not RemoteError:
            _copy_members(original, made)
            made.args = original.args
    except Exception:  # a user's class can have any demands, and must not hide the error
        return RemoteError(*said)
    return made


def _is_plain(kind: type) -> bool:
    """Say whether a type of our tree is made from a text alone."""
    return issubclass(kind, KernelError) and not issubclass(kind, RemoteError)


def _unpickle(data: bytes) -> BaseException | None:
    if not data:
        return None
    try:
        original = pickle.loads(data)
    except Exception:
        return None
    return original if isinstance(original, BaseException) else None


def bare(
    kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """Make an error without its ``__init__``, which may want what the error does not keep."""
    made = kind.__new__(kind, *args)
    made.args = args
    made.__dict__.update(state)
    return made


def ends_programs(kind: type[BaseException]) -> bool:
    """Tell whether an error is meant for the program that raised it, as SystemExit is.

    As such it would end the client's, without a word.  KeyboardInterrupt tells of an
    interrupted task, and does not.
    """
    return not issubclass(kind, Exception | KeyboardInterrupt)


def _mix(kind: type[BaseException]) -> type[RemoteError]:
    """Return a subclass of both RemoteError and ``kind`` (RemoteError where impossible)."""
    made = _mixed.get(kind)
    if made is None:
        try:
            made = RemoteError if ends_programs(kind) else _mixture(kind)
        except Exception:  # incompatible layouts, or a class that refuses to be derived from
            made = RemoteError
        remember(_mixed, kind, made)
    return made


def _mixture(kind: type[BaseException]) -> type[RemoteError]:
    members = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (RemoteError, kind), members)


def remember(kinds: dict[Any, Any], kind: type[BaseException], made: type) -> None:
    """Note what was made for a type, and forget the oldest where there are many."""
    while len(kinds) >= KINDS:
        kinds.pop(list(kinds)[0], None)  # noqa: RUF015 - other threads may do the same
    kinds[kind] = made


def _empty(error: type[RemoteError], original: BaseException) -> RemoteError:
    """Return an error of this type; a RemoteError where its ``__new__`` has other demands."""
    # MemoryError's own makes no others, and an ExceptionGroup's wants what it holds.
    for new, args in (
        (error.__new__, ()),
        (type(original).__new__, original.args),
        (RemoteError.__new__, ()),
    ):
        try:
            made: Any = new(error, *args)
        except Exception:
            continue
        if isinstance(made, error):
            return made
    return RemoteError.__new__(RemoteError)


def _copy_members(original: BaseException, made: BaseException) -> None:
    """Copy what types written in C keep outside of ``__dict__``: ``errno``, ``lineno``.

    Some picklers (tblib's) lose that, so it is also taken from what the error was made with.
    """
    kinds = [
        kind
        for kind in type(original).__mro__
        if kind.__module__ == "builtins" and kind not in (Exception, BaseException, object)
    ]
    for kind in kinds[:1]:
        try:
            kind.__init__(made, *original.args)  # type: ignore[misc]
        except Exception:
            pass  # it was made in another way
    for kind in kinds:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType):
                try:
                    if value := getattr(original, name):
                        setattr(made, name, value)
                except (AttributeError, TypeError):
                    pass  # it is empty, or read only
