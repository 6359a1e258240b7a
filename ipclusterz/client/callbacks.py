"""Done-callbacks of results, run by a thread of their own.

A result is delivered under the connection's I/O lock.  Callbacks are user code: they may
send work, wait for other results or take long, so they must not run there.  One daemon
thread, made with the first callback, runs them in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_queue: SimpleQueue[tuple[Callable[[Any], object], Any]] = SimpleQueue()
_thread: threading.Thread | None = None
_lock = threading.Lock()


def prepare() -> None:
    """Make sure that the thread is there; called where a thread may be started."""
    global _thread
    with _lock:
        # Not alive after a fork: the child has the object but not the thread.
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_work, name="ipclusterz-callbacks", daemon=True)
            _thread.start()


def run_soon(callback: Callable[[Any], object], argument: Any) -> None:
    """Have the thread call ``callback(argument)``; never blocks."""
    _queue.put((callback, argument))


def run(callback: Callable[[Any], object], argument: Any) -> None:
    """Call ``callback(argument)`` here and log what it raises."""
    try:
        callback(argument)
    except Exception:
        import logging

        logging.getLogger("ipclusterz").exception("a done-callback of %r failed", argument)


def _work() -> None:
    while True:
        run(*_queue.get())
