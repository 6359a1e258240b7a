"""Imports here and on engines at once: what ``view.sync_imports()`` does.

While the block runs, ``__import__`` is watched.  What the block's own code imports is done
here, and the same statement is executed on the engines.  What name a statement binds is not
told to ``__import__``; the bytecode after the call says it, so ``import numpy as np`` makes
``np`` there as well.
"""

from __future__ import annotations

import builtins
import dis
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.direct import DirectView

_PREFIXES = frozenset({"CACHE", "EXTENDED_ARG", "NOP"})


class Absent(ModuleType):
    """Stands here for a module that was imported on the engines only."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __repr__(self) -> str:
        return f"<module {self.__name__!r}, on engines only>"


@contextmanager
def synchronised(
    view: DirectView, frame: FrameType, local: bool, quiet: bool
) -> Iterator[None]:
    """Forward the imports that the code of ``frame`` does, and wait for the engines'.

    With ``local`` false they are done there only.  Raises what importing raised there.
    """
    plain_import = builtins.__import__
    sent: list[AsyncResult] = []
    done: set[str] = set()

    def watched(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if sys._getframe(1) is not frame or level > 0:
            return plain_import(name, globals, locals, fromlist or (), level)
        if local:
            made = plain_import(name, globals, locals, fromlist or (), level)
        else:
            made = Absent(name if fromlist else name.partition(".")[0])
        text = statement(frame, name, fromlist or ())
        if text not in done:
            done.add(text)
            if not quiet:
                print(f"{text}  # on {len(view)} engine(s) too" if local else f"{text}")
            sent.append(view.execute(text, block=False))
        return made

    builtins.__import__ = watched
    try:
        yield
    finally:
        builtins.__import__ = plain_import
    for result in sent:
        result.get()


def statement(frame: FrameType, name: str, fromlist: Sequence[str]) -> str:
    """Return the import statement that ``frame`` is executing.

    A ``from`` with several names gives all of them.
    """
    stores = _stores(frame)
    if not fromlist:
        bound = stores[0][1] if stores else ""
        plain = name.partition(".")[0]
        return f"import {name}" if bound in ("", plain) else f"import {name} as {bound}"
    if tuple(fromlist) == ("*",):
        return f"from {name} import *"
    names = dict(stores)
    shown = [
        f"{one} as {names[one]}" if names.get(one, one) != one else one for one in fromlist
    ]
    return f"from {name} import {', '.join(shown)}"


def _stores(frame: FrameType) -> list[tuple[str, str]]:
    """Return (imported, bound) names of the import that ``frame`` is at."""
    found: list[tuple[str, str]] = []
    imported = ""
    for step in dis.get_instructions(frame.f_code):
        if step.offset <= frame.f_lasti:
            continue
        if step.opname == "IMPORT_FROM":
            imported = step.argval
        elif step.opname.startswith("STORE_"):
            bound = step.argval[0] if isinstance(step.argval, tuple) else step.argval
            found.append((imported, bound))
            if not imported:
                break
        elif found and step.opname not in _PREFIXES:
            break  # what is stored from here on is the next statement's
        elif step.opname in ("IMPORT_NAME", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"):
            break  # the next statement
    return found
