"""The engines' logs: everything they write to standard output and error.

Written by a thread of its own, started with the first text, because a slow disk must not
hold up the agent's loop.  One file per engine, rotated once it is large.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import BinaryIO

BYTES = 10 * 1024 * 1024
WAITING = 10_000
"""Pieces of text that may wait for the disk; beyond it they are dropped, and counted."""

_FULL_SECONDS = 1.0
_STOP_SECONDS = 2.0


class OutputLog:
    """Writes ``prefix-engine-N.log`` files in a folder; does nothing without one."""

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._queue: queue.Queue[tuple[int, str] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._files: dict[int, BinaryIO] = {}
        self._unflushed: set[int] = set()
        self.dropped = 0

    def write(self, engine: int, text: str) -> None:
        """Queue text of an engine."""
        if not self._folder:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="outlog", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((engine, text))
        except queue.Full:
            self.dropped += 1

    def close(self, engine: int) -> None:
        """No more will come from this engine."""
        if self._thread is not None:
            self.write(engine, "")

    def stop(self) -> None:
        """Write what is queued and end; it is lost on a disk that hangs."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=_FULL_SECONDS)
            except queue.Full:  # a disk that hangs must not hold up the agent's end
                pass
            else:
                self._thread.join(_STOP_SECONDS)
            self._thread = None

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                break
            try:
                self._write(*item)
            except OSError:
                self.dropped += 1  # a full disk must not end the agent
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _write(self, engine: int, text: str) -> None:
        file = self._files.get(engine)
        if not text:
            if file is not None:
                self._files.pop(engine).close()
            self._flush()
            return
        if file is None:
            file = self._files[engine] = self._open(engine)
        file.write(text.encode("utf-8", "replace"))
        self._unflushed.add(engine)
        self._flush()
        if file.tell() > BYTES:
            file.close()
            path = self._path(engine)
            os.replace(path, path + ".1")
            self._files[engine] = self._open(engine)

    def _flush(self) -> None:
        """When nothing more waits, let readers see everything, of all engines."""
        if self._queue.empty():
            unflushed, self._unflushed = self._unflushed, set()
            for engine in unflushed:
                if (file := self._files.get(engine)) is not None:
                    file.flush()

    def _open(self, engine: int) -> BinaryIO:
        path = self._path(engine)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(fd, "ab")

    def _path(self, engine: int) -> str:
        return os.path.join(self._folder, f"{self._prefix}-engine-{engine}.log")
