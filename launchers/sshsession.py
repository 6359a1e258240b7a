"""Lines to and from what runs on a host behind an SSH connection, and a wait for both.

Knows a connection and JSON; what the lines mean is its owner's business.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Iterable
from typing import Any

from ipclusterz.core.ssh import last_lines
from ipclusterz.launchers.base import Event
from ipclusterz.net.ssh import Connection

_WORDS = 8192
_WORDS_SECONDS = 0.5


class Lost(Exception):
    """The connection, or what runs at its other end, has ended."""


class Waker:
    """A pipe by which other threads wake the one that waits for it, until it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a closed descriptor is soon somebody else's
        self.fd = self._write = -1
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)

    @property
    def closed(self) -> bool:
        """Whether it wakes nobody any more."""
        return self.fd < 0

    def wake(self) -> None:
        """Make it readable."""
        with self._lock:
            if self._write >= 0:
                try:
                    os.write(self._write, b"!")
                except BlockingIOError:  # full: it will be read in any case
                    pass

    def rest(self) -> None:
        """Let it be readable no longer."""
        with self._lock:
            if self.fd >= 0:
                try:
                    os.read(self.fd, 65536)
                except BlockingIOError:
                    pass

    def close(self) -> None:
        """Let go of the pipe; may be called again."""
        with self._lock:
            for fd in (self.fd, self._write):
                if fd >= 0:
                    os.close(fd)
            self.fd = self._write = -1

    def __del__(self) -> None:
        self.close()


class Session:
    """A relay on the host: lines to it and from it, as JSON."""

    def __init__(self, connection: Connection, command: str, mark: str, waker: int) -> None:
        self._connection = connection
        self._process = connection.spawn(command)
        self._mark = mark.encode()
        self._waker = waker
        self._rest = b""
        self._errors = b""
        self._errors_open = True
        self._begun = False

    def say(self, line: dict[str, Any]) -> None:
        """Send a line; Lost when nobody reads."""
        data = json.dumps(line).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._process.stdin, data) :]
        except OSError:
            raise Lost from None

    def read(self, timeout: float | None) -> list[Event]:
        """Wait for lines, an end (Lost), or the waker; return what has come."""
        process = self._process
        watched = [process.stdout, self._connection.watched(), self._waker]
        if self._errors_open:
            watched.append(process.stderr)
        ready = readable(watched, timeout)
        if process.stderr in ready:
            self._read_errors()
        if process.stdout in ready:
            data = os.read(process.stdout, 65536)
            if not data:
                self._drain()
                raise Lost
            return self._events(data)
        if not self._connection.alive():
            raise Lost
        return []

    def words(self) -> str:
        """Return the last line it wrote to standard error."""
        return " ".join(last_lines(self._errors.decode(errors="replace"), 1))

    def close(self) -> None:
        """End the relay; the keeper stays."""
        self._process.close()

    def _events(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            if not self._begun:  # what start-up files print
                self._begun = line.strip() == self._mark
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                found.append(event)
        return found

    def _drain(self) -> None:
        """Read the last words on standard error."""
        while self._errors_open and readable([self._process.stderr], _WORDS_SECONDS):
            self._read_errors()

    def _read_errors(self) -> None:
        data = os.read(self._process.stderr, 65536)
        self._errors_open = bool(data)
        self._errors = (self._errors + data)[-_WORDS:]


def readable(fds: Iterable[int], timeout: float | None) -> set[int]:
    """Wait until one of ``fds`` is readable (or for ``timeout`` seconds); return which are."""
    poller = select.poll()  # select() ends at descriptor 1023
    for fd in fds:
        if fd >= 0:
            poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}
