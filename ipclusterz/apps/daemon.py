"""Going on in the background: the command returns when the work it started is ready.

The background process keeps being the launcher, so that all its children are watched.  Until
it is ready it prints through the command that the user waits for; afterwards into a log.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from ipclusterz.apps import output

_CODE = "\0"  # begins the line that ends the foreground's wait; no text contains it


def in_background(work: Callable[[Callable[[], None]], int], log: str) -> int:
    """Run ``work`` in a process of its own; return when it is ready, or its exit code.

    ``work`` is given a function to call when it is ready.  What it prints appears here
    until then, and in the file ``log`` ('' for nowhere) afterwards.
    """
    output.complete()
    output.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _background(work, write, log)
    os.close(write)
    return _foreground(pid, read)


def _foreground(pid: int, read: int) -> int:
    """Copy lines until the code comes; pass an interrupt on."""
    with open(read, encoding="utf-8", errors="replace") as lines:
        while True:
            try:
                for line in lines:
                    if line.startswith(_CODE):
                        return int(line[1:])
                    output.show(line, end="")
                break
            except KeyboardInterrupt:
                os.kill(pid, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    output.complain(f"the background process {pid} ended with code {code}")
    return code if code > 0 else 1


def _background(work: Callable[[Callable[[], None]], int], write: int, log: str) -> NoReturn:
    code = 1
    try:
        os.setsid()
        _redirect(os.devnull, os.O_RDONLY, 0)
        os.dup2(write, 1)  # errors go where they always do, until we are ready
        os.close(write)
        said = False

        def ready(code: int = 0) -> None:
            nonlocal said
            if not said:
                said = True
                output.flush()
                try:
                    os.write(1, f"{_CODE}{code}\n".encode())
                except OSError:  # whoever waited was killed, or its terminal closed
                    pass
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                try:
                    _redirect(log or os.devnull, flags, 1)
                except OSError as error:
                    text = f"cannot write the log {log}: {error.strerror}; the work goes on"
                    output.complain(text)
                    _redirect(os.devnull, flags, 1)
                os.dup2(1, 2)

        code = work(ready)
        ready(code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        output.flush()
        # Not sys.exit: this is a copy of a process that has work of its own to clean up.
        os._exit(code)


def _redirect(path: str, flags: int, target: int) -> None:
    fd = os.open(path, flags, 0o600)
    os.dup2(fd, target)
    os.close(fd)
