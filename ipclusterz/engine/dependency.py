"""Functions that say which engines suit them: ``depend``, ``require``.

Lives here: the wrappers, which travel to the engine and are called there.  May know: the
error that means "not here".  Must not know: who tries elsewhere (the task scheduler).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ipclusterz.error import UnmetDependency


class dependent:
    """A function with a condition, made by :func:`depend` and :func:`require`.

    Called where ``df(*dargs, **dkwargs)`` is False, it is not run and raises
    UnmetDependency, and a load-balanced view tries another engine.
    """

    def __init__(
        self, func: Callable[..., Any], df: Callable[..., Any], *dargs: Any, **dkwargs: Any
    ) -> None:
        self.func = func
        self.df = df
        self.dargs = dargs
        self.dkwargs = dkwargs
        self.__name__ = getattr(func, "__name__", type(func).__name__)
        self.__doc__ = getattr(func, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.df(*self.dargs, **self.dkwargs) is False:
            name = getattr(self.df, "__name__", repr(self.df))
            raise UnmetDependency(f"{name} says that {self.__name__} cannot run here")
        return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<dependent {self.__name__}>"


def depend(
    df: Callable[..., Any], *dargs: Any, **dkwargs: Any
) -> Callable[[Callable[..., Any]], dependent]:
    """Return a decorator: the function runs only on engines where ``df(...)`` is not False.

    ``df`` is called on the engine, each time.  On a load-balanced view the task goes to
    another engine where it is False, and ends with ImpossibleDependency when no engine is
    left; on a direct view it ends with UnmetDependency.
    """

    def decorate(func: Callable[..., Any]) -> dependent:
        return dependent(func, df, *dargs, **dkwargs)

    return decorate


def require(*objects: Any, **mapping: Any) -> Callable[[Callable[..., Any]], dependent]:
    """Return a decorator: the function runs where modules can be imported.

    ``objects`` are names of modules, modules, or functions and classes; these, and what
    ``mapping`` gives names to, are there as variables of the engine when the function runs.
    """
    names = []
    for item in objects:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, type(sys)):
            names.append(item.__name__)
        elif hasattr(item, "__name__"):
            mapping[item.__name__] = item
        else:
            raise TypeError(
                f"require() takes names of modules, modules, functions and classes, not"
                f" {item!r}; give it a name: require(x=...)"
            )
    return depend(_require, tuple(names), mapping)


def _require(names: tuple[str, ...], mapping: dict[str, Any]) -> bool:
    space = sys.modules["__main__"].__dict__
    for name in names:
        try:
            exec(f"import {name}", space)
        except ImportError as error:
            raise UnmetDependency(f"it requires {name!r}: {error}") from None
    space.update(mapping)
    return True
