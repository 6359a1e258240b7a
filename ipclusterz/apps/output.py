"""Lines for people, printed so that no reader who has gone can break the work.

A pipe's reader ends, a terminal is closed, a disk is full: what a command was started for goes
on all the same.  Commands that do nothing but print (``logs``, ``status``) end instead.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO)  # EIO: the terminal was closed


def show(text: str, end: str = "\n") -> None:
    """Print to standard output, at once; nothing happens when nobody can read it."""
    _print(text, end, sys.stdout)


def complain(text: str) -> None:
    """Print a line to standard error, at once; nothing happens when nobody can read it."""
    _print(text, "\n", sys.stderr)


def flush() -> None:
    """Write what is still to be written, for readers that are there."""
    for stream in (sys.stdout, sys.stderr):
        _print("", "", stream)


def complete() -> None:
    """Open /dev/null in the place of standard streams that were closed.

    The next file that is opened would take their place, and whatever is printed with it.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _print(text: str, end: str, stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.write(text + end)
        stream.flush()
    except OSError as error:
        if error.errno in _GONE:
            _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """Lead a stream nowhere, or what it holds back would fail again at the end."""
    try:
        fd = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):
        return
    os.dup2(null, fd)
    os.close(null)
