"""Handlers of signals that the program around us has, and what they raise.

A handler in Python runs in the main thread, between any two instructions of whatever goes on
there: one that raises (a time limit by ``signal.alarm``) ends that half way.  So whatever
must not be left half way is not done in the main thread of a program with such handlers, see
:mod:`ipclusterz.net.drive`.  Ctrl-C is not meant here: it is held back instead.
"""

from __future__ import annotations

import signal
import sys

# The function underneath: turning numbers and handlers into enums costs 6 to 9 us a call.
get_handler = sys.modules.get("_signal", signal).getsignal
_NAMES = (
    *("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM", "SIGBREAK", "SIGXCPU"),
    *("SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGCHLD"),
)
_NUMBERS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))


def handled() -> bool:
    """Tell whether the program handles signals, other than Ctrl-C, in Python."""
    return any(map(callable, map(get_handler, _NUMBERS)))


def raised(error: BaseException) -> bool:
    """Tell whether a signal's handler raised this, in the middle of something else."""
    handlers = [get_handler(number) for number in (*_NUMBERS, int(signal.SIGINT))]
    codes = [code for handler in handlers if (code := _code(handler)) is not None]
    trace = error.__traceback__
    while trace is not None:
        if any(trace.tb_frame.f_code is code for code in codes):
            return True
        trace = trace.tb_next
    return False


def _code(handler: object) -> object:
    """Return the code of a function, of a method's, or of what a partial or object calls."""
    for _ in range(5):
        code = getattr(handler, "__code__", None)
        if code is not None:
            return code
        inner = getattr(handler, "func", None) or getattr(handler, "__func__", None)
        if inner is None and callable(handler):
            inner = type(handler).__call__
        if inner is None:
            return None
        handler = inner
    return None
