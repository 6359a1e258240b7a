"""Decorators that bind a function to a view: calling it runs it on engines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ipclusterz.client import partition
from ipclusterz.client.task import name_of

if TYPE_CHECKING:
    from ipclusterz.client.views import View


def interactive(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``f`` as if it had been written in the session: its globals are the engine's.

    For functions of modules that are to use an engine's variables.  Called here, its
    globals are those of ``__main__``.  Other callables come back as they are.
    """
    if not isinstance(f, FunctionType):
        return f
    made = FunctionType(
        f.__code__, sys.modules["__main__"].__dict__, f.__name__, f.__defaults__, f.__closure__
    )
    made.__kwdefaults__ = f.__kwdefaults__
    made.__annotations__ = dict(f.__annotations__)
    made.__dict__.update(f.__dict__)
    made.__doc__, made.__qualname__, made.__module__ = f.__doc__, f.__qualname__, "__main__"
    return made


def remote(
    view: View, block: bool | None = None, **flags: Any
) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """Return a decorator whose functions run on ``view``: see :class:`RemoteFunction`."""

    def decorate(f: Callable[..., Any]) -> RemoteFunction:
        return RemoteFunction(view, f, block=block, **flags)

    return decorate


def parallel(
    view: View,
    dist: str = "b",
    block: bool | None = None,
    ordered: bool = True,
    **flags: Any,
) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """Return a decorator whose functions are dealt over ``view``: ParallelFunction."""

    def decorate(f: Callable[..., Any]) -> ParallelFunction:
        return ParallelFunction(view, f, dist=dist, block=block, ordered=ordered, **flags)

    return decorate


class RemoteFunction:
    """A function that runs on a view when called: ``f(x)`` is ``view.apply(f, x)``.

    ``block`` overrides the view's, as ``flags`` do its other flags; the view keeps its own.
    """

    def __init__(
        self, view: View, f: Callable[..., Any], block: bool | None = None, **flags: Any
    ) -> None:
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags
        self.__name__ = name_of(f)
        self.__doc__ = getattr(f, "__doc__", None)
        self.__wrapped__ = f

    def _flagged(self) -> View:
        """Return the view with this function's flags; its history is the view's."""
        # A copy, since other threads use the view meanwhile, with the flags that it has.
        block = self.view.block if self.block is None else self.block
        return copy(self.view).set_flags(**{**self.flags, "block": block})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it: the value when blocking, else an AsyncResult."""
        return self._flagged().apply(self.func, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__name__} on {self.view!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A view cannot travel; what a function that is sent may call there is the function.
        return (_itself, (self.func,))


class ParallelFunction(RemoteFunction):
    """A function of sequences, dealt out over a view: each engine gets a piece of them.

    ``f(seq)`` calls it with pieces and joins what it returns; ``f.map(seq)`` calls it with
    each item.  ``dist`` is ``'b'`` (blocks) or ``'r'`` (round robin), ``chunksize`` the
    items of a piece on a load-balanced view.  With fewer items than engines only the first
    ones are called, without any item only the first one, with an empty piece.
    """

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        dist: str = "b",
        block: bool | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        **flags: Any,
    ) -> None:
        super().__init__(view, f, block, **flags)
        self.dist = partition.dist_of(dist)
        self.chunksize = chunksize
        self.ordered = ordered
        self.return_exceptions = return_exceptions

    def __call__(self, *sequences: Any, **kwargs: Any) -> Any:
        """Call it with pieces of the sequences, which must be of one length."""
        if kwargs:
            raise TypeError(f"{self.__name__}() takes sequences only, no keywords here")
        if not sequences:
            raise TypeError(f"{self.__name__}() needs at least one sequence")
        listed = [partition.sliceable(seq) for seq in sequences]
        lengths = sorted({partition.length(seq) for seq in listed})
        if len(lengths) > 1:
            raise ValueError(
                f"{self.__name__}() was given sequences of different lengths: {lengths}"
            )
        view = self._flagged()
        n = view.piece_count(lengths[0], self.chunksize)
        pieces = [partition.deal(seq, n, self.dist) for seq in listed]
        result = view.send_pieces(
            self.func,
            list(zip(*pieces, strict=True)),
            lambda values: partition.join(values, self.dist),
        )
        return result.get() if view.block else result

    def map(self, *sequences: Any) -> Any:
        """Call it with each item: ``view.map`` with what the decorator was told."""
        return self._flagged().map(
            self.func,
            *sequences,
            chunksize=self.chunksize or 1,
            ordered=self.ordered,
            return_exceptions=self.return_exceptions,
        )


def _itself(f: Any) -> Any:
    return f
