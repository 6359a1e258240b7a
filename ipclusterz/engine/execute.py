"""Running code that comes as text.

Lives here: plain Python's meaning of it, and the choice between that and IPython's shell
(:mod:`ipclusterz.engine.shell`).  May know: the namespace.  Must not know: messages,
descriptors.

Where IPython is installed its shell does what plain Python cannot: magics, rich values, and
whatever asks for it.  It takes a tenth of a second and 10 to 40 MB, so it is made when it is
first needed: a thousand engines that only do silent assignments have none.
"""

from __future__ import annotations

import ast
import builtins
import dis
import linecache
import sys
from collections.abc import Callable, Coroutine
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from ipclusterz.engine.failure import CodeError, traceback_of
from ipclusterz.engine.namespace import Namespace

if TYPE_CHECKING:
    from ipclusterz.engine.shell import Shell

_KEPT_SOURCES = 1000
_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL", "DELETE_NAME", "DELETE_GLOBAL"})
_SHELL_NAMES = frozenset({"display", "get_ipython"})
_AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect
_SHELL_MODULE = "IPython.core.interactiveshell"

Reply = dict[str, Any]
"""What code showed as its value: ``data`` and ``metadata`` by MIME type, and its ``count``."""


class Executor:
    """Runs source text in a namespace, one piece after the other."""

    def __init__(self, namespace: Namespace) -> None:
        self._plain = Plain(namespace)
        self._namespace = namespace
        self._shell: Shell | None = None
        self._possible = True

    def run(self, source: str, silent: bool = False, colors: str = "") -> Reply:
        """Run ``source``; return what its last expression shows, unless that is None.

        With ``silent`` nothing is shown.  What the code raises comes as the cause of a
        CodeError, its traceback in ``colors``: a scheme of IPython's, or '' for none.
        """
        shell = self._shell or (None if silent else self.start_shell())
        if shell is not None:
            return shell.run_source(source, silent, colors)
        try:
            return self._run(source, silent, colors)
        except CodeError:
            raise
        except BaseException as error:
            if colors in ("", "nocolor"):
                raise
            raise CodeError(error, _painted(traceback_of(error))) from None

    def _run(self, source: str, silent: bool, colors: str) -> Reply:
        """Run code as plain Python if it is that, or nothing else can be done."""
        try:
            tree = self._plain.parse(source)
        except (SyntaxError, ValueError):
            shell = self.start_shell()  # it may be a magic
            if shell is None:
                raise
        else:
            shell = self.start_shell() if _asks_for_shell(source, tree) else None
            if shell is None:
                return self._plain.run(tree, silent)
        return shell.run_source(source, silent, colors)

    def cleared(self) -> None:
        """The namespace was emptied."""
        if self._shell is not None:
            self._shell.init_user_ns()

    def start_shell(self) -> Shell | None:
        """Make IPython's shell, once; None where there is no IPython, or it does not work."""
        if self._shell is None and self._possible:
            self._possible = False  # also for what happens while it is made
            try:
                from ipclusterz.engine.shell import make

                self._shell = make(self._namespace, self._plain.complete)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] not in ("IPython", "traitlets"):
                    _cannot(error)
            except Exception as error:
                _cannot(error)
            except BaseException:  # interrupted: it can be tried again
                self._possible = True
                raise
        return self._shell

    def watch(self) -> None:
        """Have the shell made as well when a task asks IPython for it."""
        module = sys.modules.get(_SHELL_MODULE)
        if module is not None:
            _make_on_demand(module, self)
        elif self._possible:
            sys.meta_path.insert(0, _Watch(self))


class Plain:
    """Plain Python's way: compile, execute, evaluate what the last line says."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._number = 0
        self._filename = ""
        self._count = 0
        self._names: list[str] = []
        self._loop: Any = None

    def parse(self, source: str) -> ast.Module:
        """Return the syntax tree of ``source``; raises SyntaxError."""
        self._number += 1
        self._filename = f"<execute {self._number}>"
        self._remember(self._filename, source)
        # Not ast.parse: its frame would stand in the traceback of a syntax error.
        flags = ast.PyCF_ONLY_AST | _AWAITS
        made = compile(source, self._filename, "exec", flags, dont_inherit=True)
        assert isinstance(made, ast.Module)
        return made

    def run(self, tree: ast.Module, silent: bool) -> Reply:
        """Run what was parsed last; a last expression's value is kept as ``_`` and returned."""
        filename = self._filename
        last: CodeType | None = None
        if not silent and tree.body and isinstance(tree.body[-1], ast.Expr):
            expression = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
            last = compile(expression, filename, "eval", _AWAITS, dont_inherit=True)
        code = compile(tree, filename, "exec", _AWAITS, dont_inherit=True)
        try:
            self._evaluate(code)
            value = self._evaluate(last) if last is not None else None
        finally:
            self._namespace.own(stored(code))
        if silent:
            return {}
        self._count += 1
        if value is None:
            return {"count": self._count}
        builtins._ = value  # type: ignore[attr-defined]
        return {"data": {"text/plain": repr(value)}, "metadata": {}, "count": self._count}

    def _evaluate(self, code: CodeType) -> Any:
        value = eval(code, self._namespace.dict)
        if code.co_flags & _COROUTINE:
            return self.complete(value)
        return value

    def complete(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, in a loop that keeps what it began for the next one."""
        import asyncio  # 40 ms, for who awaits

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        loop = self._loop
        asyncio.set_event_loop(loop)
        task = loop.create_task(work)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            try:
                loop.run_until_complete(task)
            except (asyncio.CancelledError, KeyboardInterrupt):
                pass
            raise

    def _remember(self, filename: str, source: str) -> None:
        """Let tracebacks and inspect.getsource find the lines."""
        # No modification time: linecache then never looks for a file.
        entry: Any = (len(source), None, source.splitlines(keepends=True), filename)
        linecache.cache[filename] = entry
        self._names.append(filename)
        if len(self._names) > _KEPT_SOURCES:
            linecache.cache.pop(self._names.pop(0), None)


def stored(code: CodeType) -> set[str]:
    """Return the names that a module's code assigns or deletes."""
    return {i.argval for i in dis.get_instructions(code) if i.opname in _STORES}


def no_input(prompt: object = "") -> str:
    """Stand in for ``input``: raise EOFError that says why nobody answers."""
    raise EOFError(
        f"input({str(prompt)!r}) was called on an engine, where nobody can answer; push the"
        " value first (view.push), or pass it as an argument"
    )


def _asks_for_shell(source: str, tree: ast.Module) -> bool:
    """Tell whether what parses as plain Python is meant for the shell."""
    if source.strip().isidentifier():  # perhaps a magic without its sign
        return True
    if not any(name in source for name in _SHELL_NAMES):
        return False
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return not names.isdisjoint(_SHELL_NAMES)


def _painted(text: str) -> str:
    """Colour a plain traceback: places in cyan, the error in red."""
    lines = []
    for line in text.splitlines():
        if line.startswith('  File "'):
            line = f"\x1b[36m{line}\x1b[0m"
        elif line and not line[0].isspace() and not line.startswith("Traceback"):
            line = f"\x1b[31m{line}\x1b[0m"
        lines.append(line + "\n")
    return "".join(lines)


def _cannot(error: Exception) -> None:
    print(
        f"IPython does not work here ({type(error).__name__}: {error}): code runs as plain"
        " Python, without magics",
        file=sys.stderr,
    )


# -- when a task imports IPython itself ----------------------------------------------------


class _Watch:
    """An import hook that lets everything pass, and prepares IPython's shell module."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the one module this is about; None for all others."""
        if name != _SHELL_MODULE:
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load: Callable[[ModuleType], None] = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _make_on_demand(module, self._executor)

            loader: Any = spec.loader
            loader.exec_module = exec_module
        return spec


def _make_on_demand(module: ModuleType, executor: Executor) -> None:
    """Let ``get_ipython()`` and ``display()`` find a shell where there is none yet."""
    kind: Any = module.InteractiveShell

    def ask(name: str) -> None:
        usual = getattr(kind, name).__func__

        def asked(cls: Any, *args: Any, **kwargs: Any) -> Any:
            for one in ("initialized", "instance"):
                if one in vars(kind):
                    delattr(kind, one)
            executor.start_shell()
            return usual(cls, *args, **kwargs)

        setattr(kind, name, classmethod(asked))

    ask("initialized")
    ask("instance")
