"""Starts processes on this host, each in a session of its own.

Nothing here ties a child to the thread that started it: a parent-death signal would fire
when that *thread* ends.  Children watch their standard input instead, whose other end closes
with this process, however it ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from ipclusterz.error import LaunchError
from ipclusterz.files import way_out
from ipclusterz.launchers.base import Event, Job, JobState, LaunchSpec

TAIL_LINES = 20
"""How many last lines of standard error are quoted when a program dies early."""

_TAIL_BYTES = 8192
_TERM_SECONDS = 3.0  # between the request to end and the kill
_LINE_LIMIT = 1 << 20  # an event without end is no event of ours


class LocalLauncher:
    """Starts on this host."""

    def start(self, spec: LaunchSpec) -> Job:
        """Start ``spec`` at once; LaunchError names the command when it cannot be run."""
        if not spec.restarts:
            return LocalJob(spec)
        from ipclusterz.launchers.lasting import LastingJob  # only for those who want it

        return LastingJob(spec, LocalJob)


class LocalJob:
    """A process on this host, its status pipe and the end of its standard error."""

    def __init__(self, spec: LaunchSpec, fds: Sequence[int] = ()) -> None:
        """Start ``spec``, which inherits the descriptors ``fds``."""
        self._open(spec)
        try:
            self._process = subprocess.Popen(
                spec.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=spec.cwd or None,
                env={**os.environ, **spec.env},
                start_new_session=True,
                bufsize=0,
                pass_fds=fds,
            )
        except OSError as error:
            self._close_log()
            where = f" in {spec.cwd}" if spec.cwd else ""
            command = " ".join(spec.argv)
            raise LaunchError(
                f"cannot start {spec.name}{where}: {error.strerror}: {command}"
            ) from None
        self.pid = self._process.pid
        self._pidfd = _pidfd(self.pid)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._attach(self._process.stdin, self._process.stdout, spec.stdin)

    def _open(self, spec: LaunchSpec) -> None:
        """Set up what there is before the process."""
        self.name = spec.name
        self.pid = 0
        self._log = spec.log
        self._stderr: int = _open_log(spec.log)
        self._log_start = os.fstat(self._stderr).st_size
        self._pidfd = -1
        self._partial = b""
        self._eof = False
        self._said = ""
        self._state = JobState()

    def _attach(self, stdin: IO[bytes], stdout: IO[bytes], text: str) -> None:
        """Take our ends of its pipes, and say the first word."""
        self._stdin: IO[bytes] | None = stdin
        self._stdout = stdout
        os.set_blocking(stdout.fileno(), False)
        if text:
            self.tell(text)

    def watched(self) -> tuple[int, ...]:
        """Return the status pipe until it has ended, and the process as a descriptor.

        The pipe alone does not tell of the end: what the process forked may hold it open.
        """
        found: tuple[int, ...] = () if self._eof else (self._stdout.fileno(),)
        if self._pidfd >= 0 and not self._state.ended:
            found += (self._pidfd,)
        return found

    def poll(self) -> JobState:
        """Return its state now; the first call after its end makes the text."""
        code = self._process.poll()
        if code is not None and not self._state.ended:
            self._state = JobState(code, self._certificate(code))
        return self._state

    def events(self) -> list[Event]:
        """Read the status pipe dry.  Lines that are no events are left out."""
        while not self._eof:
            try:
                data = os.read(self._stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                self._eof = True
                break
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        if len(self._partial) > _LINE_LIMIT:
            self._partial = b""
        found = [event for line in lines if (event := _event(line)) is not None]
        for event in found:
            if event["event"] == "error":
                self._said = str(event.get("text", ""))
        return found

    def tell(self, text: str) -> None:
        """Write to its standard input; small texts only, a pipe holds 64 KiB."""
        if self._stdin is None:
            raise LaunchError(f"{self.name} was told to end and takes no more input")
        try:
            self._stdin.write(text.encode())
        except OSError:
            # The end of the process is the news; poll() has its reason.
            self.wait(1.0)
            raise LaunchError(
                self.poll().text or f"{self.name} does not read its input"
            ) from None

    def signal(self, signum: int) -> None:
        """Send a signal to the process itself, not to what it started."""
        self._process.send_signal(signum)

    def close(self) -> None:
        """Close its standard input, which it takes as the request to end."""
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None

    def wait(self, timeout: float) -> bool:
        """Wait for its end without polling where the system can tell."""
        if self._process.poll() is None and timeout > 0:
            self._wait(timeout)
        return self._process.poll() is not None

    def stop(self, grace: float = 10.0) -> JobState:
        """Close standard input, wait ``grace`` seconds, then SIGTERM, then SIGKILL."""
        self.close()
        if not self.wait(grace):
            self.signal(signal.SIGTERM)
            if not self.wait(min(_TERM_SECONDS, grace)):
                self.signal(signal.SIGKILL)
                self.wait(_TERM_SECONDS)
        state = self.poll()
        self.events()
        self._eof = True
        self._stdout.close()
        self._close_log()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return state

    def _wait(self, timeout: float) -> None:
        if self._pidfd >= 0:
            _wait_readable(self._pidfd, timeout)
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass

    def _certificate(self, code: int) -> str:
        if not self._eof and not self._stdout.closed:
            self.events()
        text = f"{self.name} (process {self.pid}) {self._how(code)}"
        if tail := self._tail():
            place = f" (all of it in {self._log})" if self._log else ""
            text = f"{text}; its last words{place}:\n{tail}"
        return f"{self._said}\n{text}" if self._said else text

    def _how(self, code: int) -> str:
        return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"

    def _tail(self) -> str:
        """Return the last lines this process wrote to standard error."""
        if self._stderr < 0:
            return ""
        size = os.fstat(self._stderr).st_size
        first = max(self._log_start, size - _TAIL_BYTES)
        data = os.pread(self._stderr, max(size - first, 0), first)
        lines = data.decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:]).strip("\n")

    def _close_log(self) -> None:
        if self._stderr < 0:
            return
        empty = os.fstat(self._stderr).st_size == 0
        os.close(self._stderr)
        self._stderr = -1
        if empty and self._log:
            # Most programs never write there; a folder full of empty files helps no one.
            try:
                os.unlink(self._log)
            except OSError:
                pass

    def __del__(self) -> None:
        for name in ("_stderr", "_pidfd"):
            if getattr(self, name, -1) >= 0:
                os.close(getattr(self, name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} pid={self.pid} code={self._state.code}>"


def _open_log(path: str) -> int:
    if path:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            raise LaunchError(
                f"cannot write the log {path}: {error.strerror}{way_out(error)}"
            ) from None
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr", os.MFD_CLOEXEC)
    import tempfile  # only where there are no anonymous files

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(found.get("event"), str):
        return found
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _pidfd(pid: int) -> int:
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except OSError:  # a kernel older than 5.3
            pass
    return -1


def _wait_readable(fd: int, timeout: float) -> None:
    poller = select.poll()  # select() ends at descriptor 1023
    poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if poller.poll(left * 1000 + 1):
            return
