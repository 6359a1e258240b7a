"""Two processes of this host of which the first forks the second, as their launcher sees them.

Both have pipes, a session and a log of their own, as if each had been started by itself; but
what both import is imported once.  The first, given the descriptors that are to be the
second's standard input, output and error as arguments (and its working folder, if that is
another), forks it.  The second says ``{"event": "process", "pid": ...}`` as soon as it is
there, and last of all ``{"event": "exit", "code": ...}``; if it was killed before it could,
the first says that in its place, for a system tells a parent only.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import IO, cast

from msgspec.structs import replace

from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import Event, JobState, LaunchSpec
from ipclusterz.launchers.local import LocalJob, _pidfd, _wait_readable

_WORD_SECONDS = 0.5  # between a death and the word of it
_LOOK_SECONDS = 0.05
_UNSEEN = -int(signal.SIGKILL)
"""The code of a death that nobody saw."""


def start_both(first: LaunchSpec, second: LaunchSpec) -> tuple[LocalJob, SiblingJob]:
    """Start ``first``, which forks ``second``; LaunchError as for one of them."""
    younger = SiblingJob(second)
    try:
        words = [*map(str, younger.given), *_folder(first, second)]
        elder = LocalJob(replace(first, argv=(*first.argv, *words)), younger.given)
    except LaunchError:
        younger.forget()
        raise
    younger.belongs_to(elder)
    return elder, younger


def _opened(fd: int, mode: str) -> IO[bytes]:
    return cast(IO[bytes], open(fd, mode, 0))


def _folder(first: LaunchSpec, second: LaunchSpec) -> list[str]:
    """Return the second one's working folder, if it is another than the first one's."""
    if first.cwd == second.cwd:
        return []
    try:
        return [second.cwd or os.getcwd()]
    except OSError:
        return []  # ours was removed: one is as good as the other


class SiblingJob(LocalJob):
    """A process that another job forks."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._open(spec)
        self._elder: LocalJob | None = None
        self._heard: list[Event] = []
        self._code: int | None = None
        self._unseen = False
        theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
        self.given = (theirs_in, theirs_out, self._stderr)
        self._attach(_opened(ours_in, "wb"), _opened(ours_out, "rb"), spec.stdin)

    def belongs_to(self, elder: LocalJob) -> None:
        """Note which job forks it; that has inherited its ends of the pipes."""
        self._elder = elder
        for fd in self.given[:2]:
            os.close(fd)

    def forget(self) -> None:
        """Let go of everything: it will not be started."""
        for fd in self.given[:2]:
            os.close(fd)
        self.close()
        self._stdout.close()
        self._close_log()

    def poll(self) -> JobState:
        """Return its state now; the first call after its end makes the text."""
        if not self._state.ended and self._over():
            code = self._ended()
            self._state = JobState(code, self._certificate(code))
        return self._state

    def events(self) -> list[Event]:
        """Read the status pipe dry; its number and its end are taken note of."""
        self._hear()
        found, self._heard = self._heard, []
        return found

    def _hear(self) -> None:
        for event in super().events():
            if event["event"] == "exit":
                self._code = int(event["code"]) if self._code is None else self._code
                continue
            if event["event"] == "process":
                self.pid = int(event["pid"])
                self._pidfd = _pidfd(self.pid)
            self._heard.append(event)

    def _over(self) -> bool:
        """Tell whether it has ended, or will never begin."""
        self._hear()
        if not self.pid:
            return self._eof
        if self._pidfd >= 0:
            poller = select.poll()  # select() ends at descriptor 1023
            poller.register(self._pidfd, select.POLLIN)
            return bool(poller.poll(0))
        return self._eof

    def _ended(self) -> int:
        """Return its exit code, as far as somebody has seen it."""
        if not self.pid:
            self._unseen = True
            return 1
        self._until(lambda: self._code is not None, _WORD_SECONDS)
        self._unseen = self._code is None
        return _UNSEEN if self._code is None else self._code

    def _how(self, code: int) -> str:
        if not self.pid:
            elder = self._elder
            why = elder.poll().text if elder is not None and elder.wait(_WORD_SECONDS) else ""
            return f"was not started; {why}" if why else "was not started"
        return "ended without a word, as when killed" if self._unseen else super()._how(code)

    def signal(self, signum: int) -> None:
        """Send a signal to the process itself; before it is there, to what is to fork it."""
        if self.poll().ended:
            return
        if not self.pid and self._elder is not None:
            self._elder.signal(signum)
        elif self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
            except ProcessLookupError:
                pass
        else:
            os.kill(self.pid, signum)

    def wait(self, timeout: float) -> bool:
        """Wait for its end without polling where the system can tell."""
        deadline = time.monotonic() + timeout
        self._until(lambda: bool(self.pid), timeout)
        if self._pidfd >= 0 and not self._state.ended:
            _wait_readable(self._pidfd, deadline - time.monotonic())
        while not (over := self.poll().ended) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return over

    def _until(self, done: Callable[[], bool], seconds: float) -> None:
        """Listen until ``done()``, or its pipe ends, or time is over."""
        deadline = time.monotonic() + seconds
        while not self._eof and not self._stdout.closed:
            self._hear()
            left = deadline - time.monotonic()
            if done() or left <= 0:
                return
            _wait_readable(self._stdout.fileno(), left)
