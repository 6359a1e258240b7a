"""Commands of ours as processes, for tests of what their users see."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "ipclusterz": "ipclusterz",
    "ipcontrollerz": "ipclusterz.apps.controller",
    "ipenginez": "ipclusterz.apps.engine",
}


def arguments(line: str) -> list[str]:
    """The argument list for a command line of ours."""
    command, *words = line.split()
    return [sys.executable, "-m", MODULES[command], *words]


def run(line: str, timeout: float = 50, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        arguments(line), cwd=ROOT, capture_output=True, text=True, timeout=timeout, **more
    )


class Running:
    """A command in the background; its lines, errors among them, can be waited for."""

    def __init__(self, line: str) -> None:
        self.process = subprocess.Popen(
            arguments(line),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All that was read so far."""
        return "".join(self.lines)

    def until(self, pattern: str, timeout: float = 20) -> str:
        """Wait for a line that matches, and return it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._queue.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in {timeout} s:\n{self.text}") from None
            if line is None:
                self._queue.put(None)
                raise AssertionError(f"ended without {pattern!r}:\n{self.text}")
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(timeout)
        self._thread.join(10)
        while (line := self._queue.get(timeout=10)) is not None:
            self.lines.append(line)
        self._queue.put(None)
        return code

    def end(self, signum: int = signal.SIGINT, timeout: float = 30) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(signum)
        return self.wait(timeout)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)


def children(pid: int) -> list[int]:
    """The processes below ``pid`` that run; not those that only wait to be buried."""
    import psutil

    try:
        found = [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []
    return [child for child in found if alive(child)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def eventually(condition: Callable[[], object], timeout: float = 15, what: str = "") -> None:
    """Wait until ``condition()`` holds; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what or "it did not happen"
        time.sleep(0.02)


def kill(pid: int) -> None:
    """End a process by its id, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
