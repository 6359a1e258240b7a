"""IPython's shell on an engine: magics, rich values, tracebacks, top-level await.

Lives here: IPython's classes fitted to an engine.  The shell shares the engine's variables,
keeps no history, starts no thread, writes no file, and shows by records
(:mod:`ipclusterz.engine.display`) instead of printing.  May know: IPython, from 8.10 on.  Must
not know: messages, sockets.

Imported by :mod:`ipclusterz.engine.execute` alone, and only once a shell is needed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from IPython.core import interactiveshell
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets import Type, observe
from traitlets.config import Config

from ipclusterz.engine import display
from ipclusterz.engine.execute import Reply, stored
from ipclusterz.engine.failure import CodeError, traceback_of
from ipclusterz.engine.namespace import Namespace

NO_COLOR = "nocolor"
_SCHEMES = frozenset({NO_COLOR, "neutral", "linux", "lightbg"})
_INPUTS = 1000  # how many are kept as In[n]

_IPYTHON = os.path.dirname(os.path.abspath(interactiveshell.__file__)) + os.sep


def make(namespace: Namespace, complete: Callable[[Coroutine[Any, Any, Any]], Any]) -> Shell:
    """Make the engine's shell over its variables; ``complete`` runs a coroutine to its end."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = NO_COLOR
    config.InteractiveShell.display_page = True  # help is shown, not paged
    # IPython 8 makes a data base for %store with the shell; 9 does when it is used.
    usual = getattr(interactiveshell, "PickleShareDB", None)
    if usual is not None:
        interactiveshell.PickleShareDB = lambda path: {}
    try:
        shell: Shell = Shell.instance(
            config=config, user_module=namespace.module, user_ns=namespace.dict
        )
    finally:
        if usual is not None:
            interactiveshell.PickleShareDB = usual
    shell.db = {}
    shell.namespace = namespace
    shell.loop_runner = complete
    # SystemExit is an error like others here.
    warnings.filterwarnings("ignore", message="To exit: use 'exit', 'quit', or Ctrl-D")
    return shell


class Hook(DisplayHook):  # type: ignore[misc]
    """What a cell's last expression goes to: its MIME data are kept for the reply."""

    kept: tuple[dict[str, Any], dict[str, Any]] | None = None

    def write_output_prompt(self) -> None:
        """Print nothing."""

    def write_format_data(
        self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None
    ) -> None:
        """Keep the value's data; of several values all but the last are displayed."""
        if self.kept is not None:
            display.publish(*self.kept)
        self.kept = (format_dict, md_dict or {})

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Keep no history of what was shown."""

    def finish_displayhook(self) -> None:
        """Print nothing."""
        self._is_active = False


class Publisher(DisplayPublisher):  # type: ignore[misc]
    """Where ``display()`` goes to."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_more: Any,
    ) -> None:
        """Send MIME data to the client."""
        display.publish(data, metadata, str((transient or {}).get("display_id", "")), update)

    def clear_output(self, wait: bool = False) -> None:
        """Have the client forget what was displayed."""
        display.clear(wait)


class _NoFolder(ProfileDir):  # type: ignore[misc]
    """A profile that exists in name only."""

    @observe("location")
    def _location_changed(self, change: Any) -> None:
        pass


class Shell(InteractiveShell):  # type: ignore[misc]
    """The shell of an engine; made by :func:`make`."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)
    namespace: Namespace | None = None
    _tracebacks: list[str] | None = None
    _painted = NO_COLOR

    def run_source(self, source: str, silent: bool, colors: str) -> Reply:
        """Run a cell: see :meth:`ipclusterz.engine.execute.Executor.run`."""
        self._paint(colors or NO_COLOR)
        tracebacks = self._tracebacks = []
        self.displayhook.kept = None
        try:
            result = self.run_cell(source, store_history=not silent, silent=silent)
        finally:
            self._tracebacks = None
            self._forget_inputs()
            if self.namespace is not None:
                self.namespace.own_changed()
        error = result.error_before_exec or result.error_in_exec
        shown = tracebacks.pop() if tracebacks and error is not None else ""
        interrupt = _interrupt_behind(error)
        if interrupt is not None:
            if interrupt is not error:
                shown = ""
            error = interrupt
            tracebacks.clear()  # of what the interrupt cancelled
        for text in tracebacks:  # of callbacks: nobody else tells of them
            print(text, file=sys.stderr)
        if error is not None:
            raise CodeError(error, shown or traceback_of(_trimmed(error)))
        kept, self.displayhook.kept = self.displayhook.kept, None
        if silent:
            return {}
        if kept is None:
            return {"count": result.execution_count}
        data, metadata = map(display.jsonable, kept)
        return {"data": data, "metadata": metadata, "count": result.execution_count}

    async def run_code(self, code_obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Run code, and note which names are the user's thereby."""
        try:
            return await super().run_code(code_obj, *args, **kwargs)
        finally:
            if self.namespace is not None:
                self.namespace.own(stored(code_obj))

    # -- showing ---------------------------------------------------------------------------

    def _paint(self, colors: str) -> None:
        if colors not in _SCHEMES:  # the client's IPython may know others
            colors = "neutral"
        if colors != self._painted:
            self.colors = self._painted = colors
            for part in (self.InteractiveTB, self.SyntaxTB):
                (getattr(part, "set_theme_name", None) or part.set_colors)(self.colors)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        self._tell(self.InteractiveTB.stb2text(stb))

    def _tell(self, text: str) -> None:
        """Keep a traceback for the reply; outside of a cell nobody else would tell of it."""
        if self._tracebacks is None:
            print(text, file=sys.stderr)
        else:
            self._tracebacks.append(text)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Keep the traceback for the reply."""
        error = exc_tuple[1] if exc_tuple is not None else sys.exc_info()[1]
        if error is not None and _has_group(error):  # IPython prints those
            self._tell(traceback_of(_trimmed(error)))
        else:
            super().showtraceback(exc_tuple, *args, **kwargs)

    def show_usage_error(self, exc: BaseException) -> None:
        """Keep a wrong use of a magic as what its traceback would be."""
        self._tell(f"UsageError: {exc}")

    def _forget_inputs(self) -> None:
        """Keep the last inputs, not all there ever were."""
        history = self.history_manager
        history.db_input_cache.clear()
        for inputs in (history.input_hist_parsed, history.input_hist_raw):
            if len(inputs) > _INPUTS:
                inputs[-_INPUTS - 1] = ""
                self.user_ns.pop(f"_i{len(inputs) - _INPUTS - 1}", None)

    # -- commands --------------------------------------------------------------------------

    def system(self, cmd: str) -> None:
        """Run a command line; what it prints is the task's output, its exit code _exit_code."""
        import subprocess

        sys.stdout.flush()
        sys.stderr.flush()
        line = self.var_expand(cmd, depth=1)
        process: subprocess.Popen[bytes] | None = None
        try:
            with _interrupts_held():  # until it is known whom to end
                process = subprocess.Popen(line, shell=True, process_group=0)
            code = process.wait()
        except BaseException:  # interrupted: with all that it started
            if process is not None:
                _end_group(process.pid)
                process.wait()
            raise
        self.user_ns["_exit_code"] = code
        if code and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(code, cmd)

    system_piped = system_raw = system

    def safe_execfile(self, fname: Any, *where: Any, **settings: Any) -> None:
        """Run a file for ``%run``; what it raises is the cell's error."""
        try:
            super().safe_execfile(fname, *where, **{**settings, "raise_exceptions": True})
        except SystemExit as status:
            if status.code:
                raise

    def enable_gui(self, gui: str | None = None) -> None:
        """Refuse what needs a screen."""
        if gui not in (None, "inline"):
            raise NotImplementedError(f"an engine has no screen for {gui!r}: use inline")

    def ask_exit(self) -> None:
        """Raise SystemExit, as ``exit()`` does in plain Python."""
        raise SystemExit("an engine is not ended by its code: use rc.shutdown()")

    # -- what an engine has not ------------------------------------------------------------

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        """Name the folder without making it."""
        self.ipython_dir = os.environ.get("IPYTHONDIR") or os.path.expanduser("~/.ipython")

    @observe("ipython_dir")
    def _ipython_dir_changed(self, change: Any) -> None:
        pass

    def init_profile_dir(self, profile_dir: Any) -> None:
        """Name a profile without making its folders."""
        self.profile_dir = _NoFolder(location=os.path.join(self.ipython_dir, "profile_default"))

    def init_virtualenv(self) -> None:
        """Leave ``sys.path`` as it is for other tasks."""

    def atexit_operations(self) -> None:
        """Remove temporary files; leave variables and history alone."""
        for path in [*self.tempfiles, *self.tempdirs]:
            try:
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError:
                pass


def _has_group(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 100:
        if isinstance(error, BaseExceptionGroup):
            return True
        error, seen = error.__context__, seen + 1
    return False


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt that made IPython itself raise ``error``, or that it is."""
    if isinstance(error, KeyboardInterrupt):
        return error
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(_IPYTHON):
        return None  # what the user's code makes of an interrupt is its own affair
    seen = 0
    while error is not None and seen < 100:
        if isinstance(error, KeyboardInterrupt):
            return error
        error, seen = error.__context__, seen + 1
    return None


def _trimmed(error: BaseException) -> BaseException:
    """Leave IPython's own frames at the top out of an error's traceback."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_IPYTHON):
        trace = trace.tb_next
    return error.with_traceback(trace)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Have an interrupt that comes during the block raised at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # nor is anything raised there
        return
    came: list[Any] = []
    # Not a mask: what is started in the block would have it, too.
    handler = signal.signal(signal.SIGINT, lambda *about: came.append(about))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(*came[-1])


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
