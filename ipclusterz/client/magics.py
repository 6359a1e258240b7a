"""IPython's magics for engines: ``%px``, ``%%px``, ``%autopx``, ``%pxresult``, ``%pxconfig``.

Lives here: what their command lines mean, and how a call is waited for.  May know: IPython,
views, results.  Must not know: connections, or how output is laid out
(:mod:`ipclusterz.client.display`).

Imported only where IPython runs already.
"""

from __future__ import annotations

import ast
import re
import signal
import sys
from argparse import Namespace
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec
from IPython.core import magic_arguments
from IPython.core.error import UsageError
from IPython.core.magic import Magics, no_var_expand

from ipclusterz.client.facts import OUTPUT_WAIT
from ipclusterz.core.message import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.client import Client
    from ipclusterz.client.direct import DirectView

PROGRESS_AFTER = 2.0
"""Seconds of silence from an execution before a progress bar shows."""

STOP_WAIT = 10.0
"""Seconds that interrupted engines get to answer."""

argument = magic_arguments.argument


def _flag(dest: str, value: Any, *names: str, help: str) -> Callable[[Any], Any]:
    made: Callable[[Any], Any] = argument(
        *names, action="store_const", const=value, dest=dest, help=help
    )
    return made


def _decorated(f: Any, flags: list[Any]) -> Any:
    for flag in reversed(flags):
        f = flag(f)
    return magic_arguments.magic_arguments()(f)


_EXECUTION = [
    _flag("block", True, "-b", "--block", help="wait for the engines, and show their output"),
    _flag("block", False, "-a", "--noblock", help="return an AsyncResult at once"),
    argument(
        "-t",
        "--targets",
        help="the engines: all, an id, a list such as 0,2, or a slice of rc.ids such as ::2",
    ),
    _flag("stream", True, "--stream", help="show output while it comes (the default)"),
    _flag("stream", False, "--no-stream", help="show output at the end"),
    argument(
        "--progress-after",
        dest="progress_after",
        type=float,
        metavar="SECONDS",
        help="show a progress bar after so many seconds (0: at once, -1: never; default 2)",
    ),
    _flag("verbose", True, "--verbose", help="say what is executed where"),
    _flag("verbose", False, "--no-verbose", help="do not say it (the default)"),
    argument(
        "--signal-on-interrupt",
        dest="signal_on_interrupt",
        metavar="SIGNAL",
        help="what Ctrl-C sends to the engines: a name, a number, or 0 for nothing"
        " (default SIGINT, which interrupts this execution and no other task)",
    ),
]
_OUTPUT = [
    _flag("groupby", "engine", "-e", help="show the output engine by engine"),
    _flag(
        "groupby", "order", "-r", help="show the first display of each engine, then the next"
    ),
    argument(
        "--group-outputs",
        dest="groupby",
        choices=["engine", "order", "type"],
        help="how the output of several engines is put together (default type: all standard"
        " output, then all errors, displays, values)",
    ),
    argument("-o", "--out", dest="out", metavar="NAME", help="keep the AsyncResult as NAME"),
]


def _configured(f: Any) -> Any:
    return _decorated(f, _EXECUTION)


def _showing(f: Any) -> Any:
    return _decorated(f, _OUTPUT)


def _executing(f: Any) -> Any:
    local = _flag("local", True, "--local", help="execute the cell here as well")
    return _decorated(f, [*_EXECUTION, *_OUTPUT, local])


class ParallelMagics(Magics):  # type: ignore[misc]
    """The magics of one view; ``suffix`` is added to their names: ``%px2``, ``%pxresult2``.

    Without ``view`` the first use takes the one client that the session has, and all of its
    engines; without a client it connects to the default profile's cluster.
    """

    registered = True  # Magics asks for it; there is nothing for a decorator to register

    def __init__(self, shell: Any, view: DirectView | None = None, suffix: str = "") -> None:
        self.suffix = suffix
        self.last_result: AsyncResult | None = None
        self.stream = True
        self.verbose = False
        self.progress_after = PROGRESS_AFTER
        self.signal = int(signal.SIGINT)
        self._view = view
        self._auto: _Auto | None = None
        self.magics: dict[str, dict[str, Any]] = {
            "line": {
                f"px{suffix}": self.px,
                f"autopx{suffix}": self.autopx,
                f"pxresult{suffix}": self.pxresult,
                f"pxconfig{suffix}": self.pxconfig,
            },
            "cell": {f"px{suffix}": self.cell_px},
        }
        if not suffix:
            self.magics["line"]["result"] = self.pxresult  # its name of old
        super().__init__(shell=shell)

    @property
    def view(self) -> DirectView:
        """The view that code goes to."""
        if self._view is None:
            self._view = _only_client(self.shell.user_ns).direct_view("all", block=True)
        return self._view

    # -- the magics ------------------------------------------------------------------------

    @no_var_expand  # type: ignore[untyped-decorator]
    def px(self, line: str = "") -> Any:
        """Execute a line on engines: ``%px import numpy``."""
        return self._execute(line, magic_arguments.parse_argstring(self.cell_px, ""))

    @_executing
    def cell_px(self, line: str = "", cell: str | None = None) -> Any:
        """Execute a cell on engines, and show what they print, display and return."""
        args = magic_arguments.parse_argstring(self.cell_px, line)
        if cell is None:
            raise UsageError(f"%%px{self.suffix} needs a cell; for one line: %px{self.suffix}")
        return self._execute(cell, args)

    @_showing
    def pxresult(self, line: str = "") -> None:
        """Show the output of the last execution, waiting for it."""
        args = magic_arguments.parse_argstring(self.pxresult, line)
        result = self.last_result
        if result is None:
            raise UsageError(
                f"%pxresult{self.suffix} shows what %px{self.suffix} gave last: nothing so far"
            )
        self._keep(args.out, result)
        try:
            result.get()
        finally:
            if result.done():
                result.display_outputs(args.groupby or "type")

    @_configured
    def pxconfig(self, line: str = "") -> None:
        """Set what %px and %%px do unless told otherwise."""
        args = magic_arguments.parse_argstring(self.pxconfig, line)
        if args.targets:
            self.view.targets = self._targets(args.targets)
        if args.block is not None:
            self.view.block = args.block
        if args.signal_on_interrupt is not None:
            self.signal = signal_number(args.signal_on_interrupt)
        for name in ("stream", "verbose", "progress_after"):
            if getattr(args, name) is not None:
                setattr(self, name, getattr(args, name))

    def autopx(self, line: str = "") -> None:
        """Execute all that is entered from now on on engines, until the next %autopx."""
        if self._auto is None:
            self._auto = _Auto(self.shell, f"px{self.suffix}", f"autopx{self.suffix}")
            print(f"%autopx{self.suffix} enabled")
        else:
            self._auto.end()
            self._auto = None
            print(f"%autopx{self.suffix} disabled")

    # -- executing -------------------------------------------------------------------------

    def _execute(self, code: str, args: Namespace) -> AsyncResult | None:
        view = self.view
        targets = self._targets(args.targets) if args.targets else view.targets
        block = view.block if args.block is None else args.block
        if self.verbose if args.verbose is None else args.verbose:
            kind = "Parallel" if block else "Async parallel"
            print(f"{kind} execution on engine(s): {_shown(targets)}")
        result = view.execute(code, silent=False, targets=targets, block=False)
        result._name = f"%px{self.suffix}"
        self.last_result = result
        self._keep(args.out, result)
        if args.local:
            self.shell.run_cell(code)
        if not block:
            return result
        self._watch(result, args)
        return None

    def _watch(self, result: AsyncResult, args: Namespace) -> None:
        """Wait for a result and show its output; raise what failed."""
        stream = self.stream if args.stream is None else args.stream
        try:
            with result.stream_output() if stream else nullcontext():
                self._wait(result, args)
        finally:
            if result.done():
                result.wait_for_output(OUTPUT_WAIT)
                result.display_outputs(args.groupby or "type", result_only=stream)
        result.get()

    def _wait(self, result: AsyncResult, args: Namespace) -> None:
        number = self.signal
        if args.signal_on_interrupt is not None:
            number = signal_number(args.signal_on_interrupt)
        try:
            self._progress(result, args)
        except KeyboardInterrupt:
            if not number:
                raise
            stop(self.view.client, result, number)
            if not result.wait(STOP_WAIT):
                print(
                    f"not all engines have answered: %pxresult{self.suffix} waits for them",
                    file=sys.stderr,
                )
                raise

    def _progress(self, result: AsyncResult, args: Namespace) -> None:
        after = self.progress_after if args.progress_after is None else args.progress_after
        # Not the result's own waiting: what Ctrl-C means there is not what it means here.
        session = result._session
        if session.wait(result.done, None if after < 0 else after):
            return
        from ipclusterz.client.progress import failures, watch  # tqdm takes 50 ms

        watch(
            session,
            name=result._name,
            total=len(result),
            count=lambda: (result.progress, failures(result._raws())),
            done=result.done,
            interval=0.1,
            timeout=None,
            widget=None,
        )

    def _keep(self, name: str | None, result: AsyncResult) -> None:
        if name:
            self.shell.user_ns[name] = result

    def _targets(self, text: str) -> Any:
        """Return engines as the command line has them: ids, slices of ids, or all."""
        text = text.strip().strip("'\"")
        if text == "all":
            return "all"
        try:
            if ":" in text:
                parts = [int(part) if part.strip() else None for part in text.split(":")]
                return self.view.client.ids[slice(*parts)]
            made = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            raise UsageError(
                f"--targets {text}: engines are all, an id, a list such as 0,2 or a slice such"
                " as ::2 (without blanks)"
            ) from None
        return list(made) if isinstance(made, tuple) else made


def stop(client: Client, result: AsyncResult, number: int) -> None:
    """Give up what has not begun of a result, and signal the engines that run the rest."""
    name = signal.Signals(number).name
    print(f"interrupted: sending {name} to the engines", file=sys.stderr, flush=True)
    result.abort()
    pending = [
        (key, engine)
        for key, engine, raw in zip(
            result.task_keys(), result.targets or (), result._raws(), strict=False
        )
        if raw is None
    ]
    engines = [engine for _, engine in pending]
    if not engines:
        return
    if number == signal.SIGINT:
        # These tasks and no others: an engine may be at somebody else's.
        keys = msgspec.msgpack.encode([key for key, _ in pending])
        client._control(Op.INTERRUPT, engines, keys)
    else:
        client.send_signal(number, engines, block=True)


def signal_number(text: str) -> int:
    """Return a signal's number for its name or number; 0 is none."""
    name = text.upper()
    try:
        if name.isdigit():
            return int(signal.Signals(int(name))) if int(name) else 0
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except (KeyError, ValueError):
        raise UsageError(
            f"{text!r} is no signal: they are named SIGINT, SIGTERM, SIGKILL, ... and 0 is none"
        ) from None


def _only_client(names: dict[str, Any]) -> Client:
    """Return the session's client, or connect."""
    from ipclusterz.client.client import Client

    open_ones = {
        id(value): value
        for value in list(names.values())
        if isinstance(value, Client) and not value.session.closed
    }
    if len(open_ones) > 1:
        raise UsageError("there are several clients: say which is meant, by rc.activate()")
    return open_ones.popitem()[1] if open_ones else Client()


def _shown(targets: Any) -> str:
    if isinstance(targets, list) and len(targets) > 10:
        first, last = (", ".join(map(str, part)) for part in (targets[:4], targets[-4:]))
        return f"[{first}, ..., {last}]"
    return str(targets)


class _Auto(ast.NodeTransformer):
    """Puts a call of %%px in the place of each cell, until it ends.

    As a transformer of syntax trees, so that it works in every front end of IPython, and what
    is no Python at all is told here.
    """

    def __init__(self, shell: Any, px: str, autopx: str) -> None:
        self._shell = shell
        self._px = px
        self._end = re.compile(rf"\s*%?{autopx}\b")
        self._cell = ""
        shell.events.register("pre_run_cell", self._remember)
        shell.ast_transformers.append(self)

    def _remember(self, info: Any) -> None:
        self._cell = info.raw_cell

    def visit(self, node: ast.AST) -> ast.AST:
        """Return the call that executes the cell elsewhere."""
        cell, self._cell = self._cell, ""
        if not cell.strip() or self._end.match(cell) or not isinstance(node, ast.Module):
            return node
        call = f"get_ipython().run_cell_magic({self._px!r}, '', {cell!r})"
        return ast.fix_missing_locations(ast.parse(call))

    def end(self) -> None:
        """Let cells run here again."""
        self._shell.events.unregister("pre_run_cell", self._remember)
        self._shell.ast_transformers.remove(self)


def register(shell: Any, view: DirectView | None = None, suffix: str = "") -> None:
    """Let a shell have the magics of ``view``; see :class:`ParallelMagics` for None."""
    shell.magics_manager.register(ParallelMagics(shell, view, suffix))


def load(shell: Any) -> None:
    """Register the magics unless a view's are active already: ``%load_ext ipclusterz``."""
    if "px" not in shell.magics_manager.magics["line"]:
        register(shell)
