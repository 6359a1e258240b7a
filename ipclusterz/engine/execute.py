"""Running code that comes as text.

Lives here: plain Python's meaning of it (a later shell may take this class's place).  May
know: the namespace.  Must not know: messages, descriptors.
"""

from __future__ import annotations

import ast
import builtins
import dis
import linecache
from types import CodeType
from typing import Any

from ipclusterz.engine.namespace import Namespace

_KEPT_SOURCES = 1000
_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL", "DELETE_NAME", "DELETE_GLOBAL"})


class Executor:
    """Compiles and runs source text in a namespace, one piece after the other."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._count = 0
        self._names: list[str] = []

    def run(self, source: str, silent: bool = False) -> str | None:
        """Run ``source``; return the repr of its last expression if that is not None.

        Unless ``silent`` the repr is printed too, and the value kept as ``_``.  Raises
        SyntaxError, and whatever the code raises; tracebacks show its lines.
        """
        self._count += 1
        filename = f"<execute {self._count}>"
        self._remember(filename, source)
        tree = _parse(source, filename)
        last: CodeType | None = None
        if not silent and tree.body and isinstance(tree.body[-1], ast.Expr):
            expression = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
            last = compile(expression, filename, "eval", dont_inherit=True)
        code = compile(tree, filename, "exec", dont_inherit=True)
        names = self._namespace.dict
        try:
            exec(code, names)
            value: Any = eval(last, names) if last is not None else None
        finally:
            self._namespace.own(_stored(code))
        if value is None:
            return None
        return _display(value)

    def _remember(self, filename: str, source: str) -> None:
        """Let tracebacks and inspect.getsource find the lines."""
        # No modification time: linecache then never looks for a file.
        entry: Any = (len(source), None, source.splitlines(keepends=True), filename)
        linecache.cache[filename] = entry
        self._names.append(filename)
        if len(self._names) > _KEPT_SOURCES:
            linecache.cache.pop(self._names.pop(0), None)


def _parse(source: str, filename: str) -> ast.Module:
    # Not ast.parse: its frame would stand in the traceback of a syntax error.
    made = compile(source, filename, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(made, ast.Module)
    return made


def _display(value: Any) -> str:
    text = repr(value)
    builtins._ = value  # type: ignore[attr-defined]
    print(text)
    return text


def _stored(code: CodeType) -> set[str]:
    """Return the names that a module's code assigns or deletes."""
    return {i.argval for i in dis.get_instructions(code) if i.opname in _STORES}
