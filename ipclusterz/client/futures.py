"""Our errors as the standard library's futures know them.

``concurrent.futures`` promises CancelledError for what was given up and BrokenExecutor when
no work can be done any more.  Engines must not pay for importing it, so the error tree does
not know it; where errors reach a client's user, these subclasses take their places.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from ipclusterz.error import ControllerLost, KernelError, TaskAborted


class Cancelled(TaskAborted, CancelledError):
    """TaskAborted, which is also a :class:`concurrent.futures.CancelledError`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (TaskAborted, self.args)


class Broken(ControllerLost, BrokenExecutor):
    """ControllerLost, which is also a :class:`concurrent.futures.BrokenExecutor`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (ControllerLost, self.args)


_OURS: dict[type, type[KernelError]] = {TaskAborted: Cancelled, ControllerLost: Broken}

for _made, _plain in ((Cancelled, TaskAborted), (Broken, ControllerLost)):
    _made.__name__, _made.__qualname__, _made.__module__ = (
        _plain.__name__,
        _plain.__qualname__,
        _plain.__module__,
    )


def known(error: KernelError) -> KernelError:
    """Return ``error``, or the same as an error that the standard library knows as well."""
    kind = _OURS.get(type(error))
    return error if kind is None else kind(*error.args)
