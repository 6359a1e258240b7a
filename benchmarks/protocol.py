"""Both ends of the line protocol: a program that measures drives one process per peer.

The driver writes one JSON object a line to the peer's stdin, ``{"call": "balanced", "with":
{"seconds": 0.5}}``, and reads one line from its stdout, ``{"value": ...}`` or ``{"error":
"..."}``.

Standard library only: the peer's end also runs in the environment of the peers.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any

CALLS = (
    *("start", "versions", "everyone", "stop"),
    *("tasks", "map", "direct", "balanced", "apply", "push", "pull"),
    *("parts", "shut", "queue", "drain"),
)
"""What a driver may ask for; a peer's object has a method for each one it supports."""


class PeerError(Exception):
    """A peer that failed, was too slow or ended; the text says which, and quotes its log."""


class PeerGone(PeerError):
    """It was too slow, or ended: nothing more can be asked of this process."""


def serve(peer: object) -> None:
    """Answer calls on stdin with the methods of ``peer`` until end-of-file, then stop it.

    Whatever the peer or its children print goes to stderr: stdout belongs to the protocol.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            print(json.dumps(_answer(peer, json.loads(line))), file=replies, flush=True)
    finally:
        _answer(peer, {"call": "stop", "with": {}})


def _answer(peer: object, request: dict[str, Any]) -> dict[str, Any]:
    name = request["call"]
    method = getattr(peer, name, None) if name in CALLS else None
    if method is None:
        return {"error": f"this peer does not know the call {name!r}"}
    try:
        return {"value": method(**request["with"])}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


class PeerProcess:
    """One peer in a process of its own: ``call()`` it, ``close()`` it.

    ``argv`` starts the peer's program, ``env`` is its whole environment, ``cwd`` its folder;
    stderr is appended to ``log``, whose last lines are quoted when something goes wrong.
    """

    def __init__(self, argv: list[str], *, env: dict[str, str], cwd: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as stderr:
            # A session of its own: Ctrl-C is for the driver, which then ends its peers.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._lines = LineReader(self._process.stdout.fileno())

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, name: str, *, timeout: float, **arguments: object) -> Any:
        """Have the peer run its method ``name`` and return the value, JSON types only.

        Raises :class:`PeerError` when the method fails, :class:`PeerGone` when the process
        ended or needed more than ``timeout`` seconds.
        """
        request = json.dumps({"call": name, "with": arguments}) + "\n"
        try:
            self._stdin.write(request.encode())
            self._stdin.flush()
            reply = json.loads(self._lines.read(timeout))
        except TimeoutError:
            raise self._gone(f"too slow: no answer to {name!r} within {timeout:g} s") from None
        except (OSError, EOFError):
            raise self._gone(f"ended during {name!r}") from None
        if "error" in reply:
            raise PeerError(f"{name} failed: {reply['error']} (log: {self.log})")
        return reply["value"]

    def close(self, timeout: float = 20.0) -> None:
        """Ask the peer to stop and end; kill its process after ``timeout`` seconds."""
        try:
            self._stdin.close()
        except OSError:  # it ended before us, with a line unread
            pass
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _gone(self, what: str) -> PeerGone:
        return PeerGone(f"{what}; {quoted_log(self.log)}")


class LineReader:
    """Lines from a pipe, each within a time-out; a buffered file could not promise that."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self, timeout: float) -> str:
        """The next line, without its end; TimeoutError when late, EOFError at the end."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._fd], [], [], left)[0]:
                raise TimeoutError
            data = os.read(self._fd, 1 << 16)
            if not data:
                raise EOFError
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode("utf-8", "replace")


def quoted_log(log: Path, lines: int = 3) -> str:
    """``last words: ... (log: ...)``: the end of a log in one line, and where the rest is."""
    try:
        last = log.read_text("utf-8", "replace").strip().splitlines()[-lines:]
    except OSError:
        last = []
    quote = " | ".join(line.strip() for line in last) or "none"
    return f"last words: {quote} (log: {log})"


def signal_name(code: int) -> str:
    """``exit code 3`` or ``SIGKILL``, from a return code of :mod:`subprocess`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
